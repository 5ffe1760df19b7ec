"""What the entries mean is held against the files beside the log."""

import json
import shutil

import pytest

from fedjax_comp.audit.configuration import config_sha256, origin_of, run_id_of
from fedjax_comp.audit.entry import (
    EVALUATION,
    FORMAT,
    Beginning,
    format_entry,
    row_sha256,
)
from fedjax_comp.audit.log import Log
from fedjax_comp.audit.verify import verify_run
from tests.audit.logs import SIGNER, make_entry, make_lines, make_run

KEY = SIGNER.verifier


def faults(run):
    return verify_run(run, KEY).faults


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("original") / "run", make_lines(20))


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def test_the_configuration_and_the_summary_belong_to_the_log(run):
    config, summary = run / "config.json", run / "summary.json"
    config.write_text('{"flags": {"seed": 1}}')
    assert "config.json is not the one that was run" in faults(run)[0]
    for text in ("[]", "no JSON", "[" * 100_000, '{"flags": 3}'):
        config.write_text(text)
        assert "config.json" in faults(run)[0]
    config.unlink()
    assert "There is no " in faults(run)[0]
    config.write_text("{}")
    said = json.loads(summary.read_text())
    summary.write_text(json.dumps({**said, "params_sha256": "0" * 64}))
    assert "has parameters 000" in faults(run)[0]
    summary.write_text("no JSON")
    assert "cannot be read" in faults(run)[0]


ROWS = [
    {
        "round": i,
        "test_loss": i / 7,
        "test_accuracy": (0.1, 0.7, 0.6)[i],
        "uplink_bytes": 100 * i,
        "downlink_bytes": 50 * i,
        "seconds": 0.1 * i,
    }
    for i in range(3)
]


def evaluated(run, ended=True):
    """A run of three evaluations: after no round, round 1 and round 2."""
    beginning, *entries = make_lines(20)
    rows = [
        make_entry(0)._replace(
            round=i, kind=EVALUATION, message=row_sha256(row), model=""
        )
        for i, row in enumerate(ROWS)
    ]
    first, second, third = map(format_entry, rows)
    *second_round, result = entries[9:]
    lines = [beginning, first, *entries[:9], second, *second_round, third, result]
    make_run(run, lines if ended else lines[:-1])
    return write_rows(run, ROWS)


def write_rows(run, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text)
    return run


def test_rows_are_those_that_were_logged(tmp_path):
    run = evaluated(tmp_path / "run")
    assert not faults(run)
    # The clock is the one thing that may differ.
    assert not faults(write_rows(run, [{**row, "seconds": 9.0} for row in ROWS]))
    better = [ROWS[0], {**ROWS[1], "test_loss": 0.1}, ROWS[2]]
    (fault,) = faults(write_rows(run, better))
    assert "row 1 of " in fault
    assert "logged after round 1" in fault
    for rows in (ROWS[:2], [*ROWS, ROWS[2]], []):
        (fault,) = faults(write_rows(run, rows))
        assert fault.endswith(f"has {len(rows)} rows, 3 were logged.")
    (fault,) = faults(write_rows(run, [ROWS[1], ROWS[0], ROWS[2]]))
    assert "row 0 of " in fault
    (run / "metrics.jsonl").write_text("no JSON\n" * 3)
    assert "row 0 of " in faults(run)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_accuracy", 0.6),
        ("best_test_accuracy", 0.7),
        ("test_loss", 2 / 7),
        ("uplink_bytes", 200),
        ("total_bytes", 300),
    ],
)
def test_the_summary_says_what_its_rows_say(tmp_path, name, value):
    run = evaluated(tmp_path / "run")
    path = run / "summary.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, name: value, "runs": [{name: value}]}))
    assert not faults(run)
    for forged in (
        {**said, name: value + 0.25},
        {**said, name: value, "runs": [{name: value + 0.25}]},
    ):
        path.write_text(json.dumps(forged))
        (fault,) = faults(run)
        assert f"has {name} {value + 0.25}, the logged rows say {value}" in fault


@pytest.mark.parametrize("runs", [3, {"a": 1}, [3], None, "runs"])
def test_runs_that_are_none_are_a_fault_and_no_traceback(tmp_path, runs):
    run = evaluated(tmp_path / "run")
    path = run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "runs": runs}))
    (fault,) = faults(run)
    assert "its runs are no objects" in fault


@pytest.mark.parametrize("value", [None, "many", [1], {}])
def test_bytes_that_are_no_number_are_a_fault_and_no_traceback(tmp_path, value):
    run = evaluated(tmp_path / "run")
    rows = [*ROWS[:2], {**ROWS[2], "uplink_bytes": value, "test_accuracy": value}]
    assert "row 2 of " in faults(write_rows(run, rows))[0]


def test_a_run_in_progress_may_be_ahead_of_its_rows_or_behind(tmp_path):
    run = evaluated(tmp_path / "run", ended=False)
    (run / "summary.json").unlink()
    for rows in (ROWS[:1], ROWS, [*ROWS, ROWS[2]]):
        assert not faults(write_rows(run, rows))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "te')
    assert not faults(run)
    assert "row 1 of " in faults(write_rows(run, [ROWS[0], ROWS[0]]))[0]


def test_a_finished_run_lacks_no_row_with_its_summary_or_without(tmp_path):
    run = evaluated(tmp_path / "run")
    (run / "summary.json").unlink()
    assert not faults(run)
    for count in (0, 1, 2):
        (fault,) = faults(write_rows(run, ROWS[:count]))
        assert fault.endswith(f"has {count} rows, 3 were logged.")
    # It may have been told to go on, and have a row that is not logged yet.
    assert not faults(write_rows(run, [*ROWS, {**ROWS[2], "round": 3}]))
    (run / "metrics.jsonl").unlink()
    (fault,) = faults(run)
    assert fault.endswith("has 0 rows, 3 were logged.")


def test_json_that_says_a_thing_twice_says_nothing(tmp_path):
    """The last value would be hashed, and a person reads the first."""
    run = evaluated(tmp_path / "run")
    metrics, summary, config = (
        run / name for name in ("metrics.jsonl", "summary.json", "config.json")
    )
    text = metrics.read_text()
    metrics.write_text(text.replace('{"round": 1', '{"test_loss": 0, "round": 1'))
    assert "row 1 of " in faults(run)[0]
    metrics.write_text(text)
    text = summary.read_text()
    summary.write_text(text.replace("{", '{"params_sha256": "0", ', 1))
    assert "the key 'params_sha256' twice" in faults(run)[0]
    summary.write_text(text)
    config.write_text('{"flags": {"seed": 7}, "flags": {}}')
    assert "config.json cannot be read: the key 'flags' twice" in faults(run)[0]


def test_the_seed_beside_the_flags_is_that_of_the_flags(tmp_path):
    path = tmp_path / "config.json"
    config = {"flags": {"seed": 1}, "seed": 1}
    origin = origin_of(KEY, run_id_of(config))
    beginning = Beginning(FORMAT, origin, config_sha256(config))
    with Log(tmp_path / "audit", SIGNER, origin) as log:
        log.append([format_entry(beginning)])
        log.checkpoint()
    for seed, fine in ((1, True), (7, False), (None, False), ("1", False)):
        path.write_text(json.dumps({**config, "seed": seed}))
        assert (not faults(tmp_path)) == fine
    assert faults(tmp_path) == (f"{path} has the seed '1', --seed was 1.",)
