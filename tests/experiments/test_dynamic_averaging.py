"""The comparison of averaging protocols: oracles, files left behind, and mistakes."""

import csv
import json

import numpy as np
import pytest

from experiments.dynamic_averaging.claims import claims_of, rates_around
from experiments.dynamic_averaging.flags import PROTOCOLS, QUICK
from experiments.dynamic_averaging.protocols import common_period, parse_variants
from experiments.dynamic_averaging.run import COLUMNS, compare, main
from fedjax_comp.audit.entry import EVALUATION, RESULT, SILENCE, parse_entry
from fedjax_comp.audit.keys import load_signer
from fedjax_comp.audit.log import read_log
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.report import Run
from tests.experiments.small import read_runs

LINKS = {"uplink": "identity()", "downlink": "identity()"}
TASK = (
    "--quick",
    "--num_clients=4",
    "--num_updates=24",
    "--eval_every=4",
    "--audit_every=24",
    "--client_optimizer=sgd(0.5)",
    "--noprogress",
)
MODEL_BYTES = 4 * 650


def test_the_default_protocols_are_those_of_the_paper():
    variants = parse_variants(PROTOCOLS, **LINKS)
    rules = [variant.protocol for variant in variants]
    for every in (1, 2, 4, 8, 20, 40, 120):
        assert f"periodic({every})" in rules
    for fraction in (0.3, 0.5, 0.7):
        assert f"fed_avg({fraction})" in rules
    assert {"none()", "serial()"} <= set(rules)
    assert sum(rule.startswith("dynamic(") for rule in rules) >= 4
    assert variants[0].protocol == "periodic(1)"
    assert common_period(variants) == 120
    assert set(QUICK["protocol"]) <= set(PROTOCOLS)


@pytest.mark.thorough
def test_one_command_leaves_everything_behind(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *TASK,
        "--drift=permuted_labels",
        "--num_drifts=1",
        "--protocol=often: periodic(1)",
        "--protocol=zero: dynamic(0.0)",
        "--protocol=some: dynamic(0.5, every=2) | to_dtype('bfloat16') | identity()",
        "--protocol=serial: serial()",
        "--protocol=lazy: lazy(max_silence=0)",
        # Valid as an expression, and refused by the algorithm.
        "--protocol=wrong: periodic(1) | identity() | differenced(identity())",
    ]
    main(["dynamic_averaging", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    often, zero, some, serial, lazy, wrong = summary["runs"]
    names = ["often", "zero", "some", "serial", "lazy", "wrong"]
    assert list(read_runs(tmp_path)) == names
    # 24 rounds of 4 models each way; Delta = 0 is the same, bit for bit.
    assert often["total_bytes"] == 2 * 24 * 4 * MODEL_BYTES
    for name in ("total_bytes", "cumulative_loss", "test_accuracy"):
        assert zero[name] == often[name]
    assert zero["full_synchronisations"] == 24
    assert (often["total_bytes_ratio"], often["loss_increase"]) == (1.0, 0.0)
    assert 0 < some["total_bytes"] < often["total_bytes"]
    # Half floats up, floats down and at most two bytes of notices beside each model.
    models = some["uplink_bytes"] // (MODEL_BYTES // 2)
    assert some["models_sent"] == models / 4
    assert 0 <= some["downlink_bytes"] - models * MODEL_BYTES <= 2 * models
    # Of one step of SGD the mean of the models is the step along the mean gradient.
    assert lazy["cumulative_loss"] == pytest.approx(often["cumulative_loss"], rel=1e-4)
    # Beside each model down there is a number.
    assert lazy["total_bytes"] == often["total_bytes"] + 24 * 4 * 4
    assert serial["total_bytes"] == 0
    assert serial["cumulative_loss"] < often["cumulative_loss"]
    assert "memory" in wrong["reason"]
    assert wrong["cumulative_loss"] is None
    assert summary["drifts"] == [d for d in summary["drifts"] if 0 < d < 24]
    holds = {claim["name"]: claim["holds"] for claim in summary["claims"]}
    assert not holds["protocols that failed"]
    assert holds["audited messages that do not decode bit for bit"]
    assert often["audited_messages"] == 5  # four up and the broadcast

    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert [line["name"] for line in table][-1] == "wrong"
    assert [line["protocol"] for line in table][:2] == ["periodic(1)", "dynamic(0.0)"]
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4
    assert "wrong failed" in capsys.readouterr().out

    # A second call finds each finished run, and says the same.
    main(["dynamic_averaging", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def outcome(name, family, loss, total, reason=""):
    return {
        "name": name,
        "family": family,
        "cumulative_loss": loss,
        "total_bytes": total,
        "audited_messages": 1,
        "audit_failures": 0,
        "reason": reason,
    }


def graded(*outcomes):
    rows = list(outcomes)
    compare(rows)
    return rows


def table(dynamic_bytes=50):
    """Losses of 100 with all of the benefit and 200 with none of it."""
    return graded(
        outcome("p1", "periodic", 100.0, 10_000),
        outcome("p10", "periodic", 120.0, 1000),
        outcome("f", "FedAvg", 150.0, 500),
        outcome("d-small", "dynamic", 100.0, 10_100),
        outcome("d-good", "dynamic", 110.0, dynamic_bytes),
        outcome("d-large", "dynamic", 150.0, dynamic_bytes / 2),
        outcome("theta", "FDA", 110.0, 200),
        outcome("none", "none", 200.0, 0),
    )


def test_claims_follow_from_the_table():
    rows = table()
    at = np.arange(0, 101, 5)
    # Quiet, 10 bytes an update for 5 updates behind the drift at 50, quiet again.
    sent = np.clip(10 * (at - 50), 0, 50)
    curve = Run(
        "d-good",
        [
            {"update": int(u), "total_bytes": int(b)}
            for u, b in zip(at, sent, strict=True)
        ],
    )
    others = [table(), table()]
    claims = claims_of(rows, [curve], [50], 100, others)
    # 90 % are kept at a loss of 110, where fixed times pay sqrt(1000 * 10000), and half
    # at 150, where FedAvg pays least.
    fixed, fda = np.sqrt(1000 * 10_000) / 50, 200 / 50
    expected = [0, 0, 200, fixed, fixed, fda, 400, 20, 20, 8]
    chosen = fixed
    expected += [chosen, 10.0, 10.0]
    assert [one["measured"] for one in claims] == pytest.approx(expected, rel=1e-4)
    assert all(one["holds"] for one in claims)
    assert rates_around(curve.rows, [50], 100) == (0.0, 10.0, 0.0)
    # Without other streams no Delta is chosen, and none is graded.
    assert len(claims_of(rows, [curve], [50], 100)) == len(claims) - 1
    # Five hundred bytes are those of FDA and more.
    poor = {one["name"]: one for one in claims_of(table(500), [], [], 100)}
    failed = [one["measured"] for one in poor.values() if not one["holds"]]
    assert failed == pytest.approx([np.sqrt(1e7) / 500, 0.4, 2.0, 0.8], rel=1e-4)


def test_a_delta_is_chosen_on_the_other_streams():
    # On this stream d-large is better; on the others d-good.
    here, there = table(), table()
    there[5] |= {"fixed_ratio": 0.1}
    here[5] |= {"fixed_ratio": 1000.0}
    claims = claims_of(here, [], [], 100, [there, there])
    (one,) = [one for one in claims if "other seeds" in one["name"]]
    assert "(d-good)" in one["name"]
    assert one["measured"] == here[4]["fixed_ratio"]


@pytest.mark.thorough
def test_a_quick_run_claims_no_more_than_that_it_worked(tmp_path):
    # Far too short for any saving.
    flags = ["--protocol=p: periodic(1)", "--protocol=d: dynamic(8.0)"]
    none = "--protocol=none: none()"
    main(["dynamic_averaging", f"--workdir={tmp_path}", *TASK, *flags, none])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert all(one["holds"] for one in summary["claims"])
    assert len(summary["claims"]) == 2


@pytest.mark.thorough
def test_the_log_of_a_protocol_that_sends_nothing_says_so_every_round(tmp_path):
    main(
        [
            "dynamic_averaging",
            f"--workdir={tmp_path}",
            *TASK,
            "--audit_log",
            "--protocol=often: periodic(8)",
            "--protocol=serial: serial()",
        ]
    )
    runs = read_runs(tmp_path)
    assert [one["reason"] for one in runs.values()] == ["", ""]
    entries = {}
    for name in runs:
        log = tmp_path / name / "audit"
        report = verify_run(tmp_path / name, load_signer(log / "log.key").verifier)
        assert report.faults == ()
        logged = [parse_entry(line) for line in read_log(log).lines[1:]]
        entries[name] = [one for one in logged if one.kind != EVALUATION]
    # Four models up and the average down every eighth update, and the result.
    assert [one.round for one in entries["often"]] == [1] * 5 + [2] * 5 + [3] * 6
    assert SILENCE not in [one.kind for one in entries["often"]]
    # One entry a round, of 24 rounds.
    kinds = [one.kind for one in entries["serial"]]
    assert kinds == [SILENCE] * 24 + [RESULT]
    assert [one.round for one in entries["serial"]] == [*range(1, 25), 24]
    # The model moves on all the same.
    before = {one.model for one in entries["serial"]}
    assert len(before) == 25


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--protocol=a: dynamik(1.0)", "did you mean 'dynamic'"),
        ("--protocol=a: dynamic(-1.0)", "delta=-1.0"),
        ("--protocol=a: periodic(0)", "every=0"),
        ("--protocol=a: periodic(1) | scaled_sign()", "UPLINK | DOWNLINK"),
        ("--protocol=../a: periodic(1)", "NAME: PROTOCOL"),
        ("--protocol=a: periodic(7)", "not a multiple of 7"),
        ("--drift=permuted_labels", "--num_drifts=0"),
        ("--num_drifts=2", "--drift=none"),
        ("--stream=mnits", "did you mean mnist"),
        ("--stream=shakespeare", "shakespeare"),
        ("--model=cnn", "cnn("),
        ("--batch_size=0", "batch_size=0"),
        ("extra", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["dynamic_averaging", f"--workdir={tmp_path}", *TASK, flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--num_updates=0"], "--num_updates=N"),
        (["--drift=rotated_images", "--num_drifts=1"], "redrawn"),
    ],
)
def test_mistakes_of_a_stream_without_end(tmp_path, capsys, flags, expected):
    with pytest.raises(SystemExit):
        main(
            [
                "dynamic_averaging",
                f"--workdir={tmp_path}",
                *TASK,
                "--stream=graphical",
                "--protocol=a: periodic(1)",
                *flags,
            ]
        )
    assert expected in capsys.readouterr().err
