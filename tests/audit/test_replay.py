"""A run that is run again gives its log again, or the first difference is named."""

import json
import shutil

import pytest

from experiments.fed_avg.run import main as fed_avg
from fedjax_comp.audit.command import main
from fedjax_comp.audit.entry import EVALUATION, RESULT, format_entry, parse_entry
from fedjax_comp.audit.log import LogError, read_log
from fedjax_comp.audit.replay import (
    environment_differences,
    first_difference,
    replay_run,
)
from fedjax_comp.experiment.again import main as again_main
from fedjax_comp.experiment.again import run_again
from fedjax_comp.experiment.errors import UsageError
from tests.audit.logs import make_entry
from tests.audit.small_run import logged_run

# One client's messages do not depend on how many devices there are.
FLAGS = [
    "--model=mlp(4)",
    "--num_clients=20",
    "--cohort_size=2",
    "--batch_size=50",
    "--num_rounds=3",
    "--eval_every=2",
    "--uplink=qsgd(4)",
    "--execution=vmapped()",
    "--noprogress",
    "--audit_log",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice, in two directories."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        logged_run(folder / name)
    return folder


def replayed(run, other):
    return replay_run(run, lambda: other)


def changed(run, to, old, new):
    """A copy of a run of whose log one line says something else."""
    shutil.copytree(run, to)
    path = to / "audit" / "log.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return to


def test_a_run_gives_its_log_again(runs):
    done = replayed(runs / "one", runs / "two")
    assert (done.difference, done.environment, done.remarks) == (None, (), ())
    assert done.entries == len(read_log(runs / "one" / "audit").lines)


def test_a_message_that_was_changed_is_named(runs, tmp_path):
    lines = read_log(runs / "one" / "audit").lines
    entry = parse_entry(lines[14])
    run = changed(
        runs / "one", tmp_path / "run", f'"message":"{entry.message}', '"message":"0'
    )
    done = replayed(run, runs / "two")
    where = f"round {entry.round}, {entry.kind}, {entry.sender} to {entry.receiver}"
    assert done.difference == f"{where}: the message differs."
    assert done.entries == 15


def test_a_row_that_was_changed_is_named(runs, tmp_path):
    lines = read_log(runs / "one" / "audit").lines[1:]
    second = [x for x in map(parse_entry, lines) if x.kind == EVALUATION][1]
    run = changed(runs / "one", tmp_path / "run", second.message, "0" * 64)
    done = replayed(run, runs / "two")
    assert done.difference == "round 2, evaluation: the row differs."


def test_another_run_is_named(runs, tmp_path):
    logged_run(tmp_path / "other", proximal=0.5)
    done = replayed(runs / "one", tmp_path / "other")
    # The first update begins from the same model, its message is another.
    assert done.difference.startswith("round 1, uplink, client ")
    assert done.difference.endswith("to server: the message differs.")


def test_another_environment_is_told(runs, tmp_path):
    other = shutil.copytree(runs / "two", tmp_path / "other")
    path = other / "starts.jsonl"
    start = json.loads(path.read_text())
    start["versions"]["jax"] = "9.9"
    start["devices"] = "3 x abacus"
    path.write_text(json.dumps(start) + "\n")
    done = replayed(runs / "one", other)
    first, second = done.environment
    assert first.startswith("devices: ")
    assert first.endswith(" x cpu' there, '3 x abacus' here")
    assert second.startswith("versions.jax: ")
    assert second.endswith("there, '9.9' here")
    assert done.difference is None
    assert environment_differences(start, start) == []
    # A run that was resumed elsewhere has several; one without a record has its flags'.
    started = (runs / "one" / "starts.jsonl").read_text()
    path.write_text(path.read_text() + started)
    assert len(replayed(other, runs / "one").environment) == 2
    path.unlink()
    assert [
        line.split(":")[0] for line in replayed(other, runs / "one").environment
    ] == (["devices"])


def test_a_configuration_that_was_changed_is_not_run(runs, tmp_path):
    run = shutil.copytree(runs / "one", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["flags"]["seed"] = 4
    (run / "config.json").write_text(json.dumps(config))
    done = replay_run(run, lambda: pytest.fail("was run"))
    assert done.difference.endswith("is not the one that the log began with.")
    with pytest.raises(LogError, match="There is no log"):
        replay_run(tmp_path / "nowhere", lambda: pytest.fail("was run"))


def test_what_is_missing_and_what_follows():
    entries = [make_entry(i) for i in range(4)]
    result = entries[-1]._replace(kind=RESULT)
    # A log without a result may go on, one with a result is whole.
    assert first_difference(entries[:3], entries) == (3, None)
    whole = [*entries[:3], result]
    assert first_difference(whole, whole) == (4, None)
    count, found = first_difference(whole, [*whole, entries[3]])
    assert (count, found) == (
        4,
        "round 1, uplink, client 3 to server follows, run again.",
    )
    count, found = first_difference(whole, entries[:3])
    assert (count, found) == (3, "round 1, result is missing, run again.")
    count, found = first_difference(whole, entries)
    assert count == 4
    assert found == (
        "round 1, result was logged, run again it is round 1, uplink, client 3 to "
        "server."
    )
    other = [entries[0]._replace(model="0", message="0")]
    _, found = first_difference(entries, other)
    assert found.endswith(": the model before the round and the message differs.")


def test_the_evaluations_of_a_run_that_went_on_are_not_compared(runs, tmp_path):
    run = shutil.copytree(runs / "one", tmp_path / "run")
    path = run / "audit" / "log.jsonl"
    lines = path.read_bytes().splitlines()
    at = next(i for i, x in enumerate(lines) if b'"round":5' in x)
    # As if it had ended after round 4, evaluated then by chance.
    row = next(x for x in lines[:at][::-1] if b"evaluation" in x)
    ended = parse_entry(lines[-1])._replace(round=4)
    middle = [row.replace(b'"message":"', b'"message":"0'), format_entry(ended)]
    lines = [*lines[: at - 1], *middle, *lines[at:]]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    done = replayed(run, runs / "two")
    assert done.difference is None
    assert "went on for more rounds" in done.remarks[0]


@pytest.mark.slow
def test_the_command_runs_an_experiment_again(tmp_path, capsys):
    run = tmp_path / "run"
    fed_avg(["", f"--workdir={run}", *FLAGS])
    capsys.readouterr()
    assert main(["replay", str(run), f"--into={tmp_path / 'again'}"]) == 0
    assert "fine: 14 entries are what the run gives" in capsys.readouterr().out
    other = parse_entry(read_log(tmp_path / "again" / "audit").lines[-1])
    assert other == parse_entry(read_log(run / "audit").lines[-1])._replace(
        config=other.config
    )
    # Into a directory that has been used there is no second one.
    assert main(["replay", str(run), f"--into={tmp_path / 'again'}"]) == 2
    assert "holds a log; give a new directory" in capsys.readouterr().err
    # In this process: another seed is another run, whatever the log says.
    config = json.loads((run / "config.json").read_text())
    config["flags"]["seed"] = 7
    (run / "config.json").write_text(json.dumps(config))
    run_again(run, tmp_path / "seven")
    shutil.copy(tmp_path / "again" / "config.json", run)
    done = replayed(run, tmp_path / "seven")
    assert done.difference.startswith("round 0, evaluation: the row differs")
    assert main(["verify", str(tmp_path / "seven")]) == 0


@pytest.mark.thorough
def test_a_run_on_a_clock_is_run_again_by_the_costs_that_it_measured(tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    clock = ["--network=lognormal()", "--deadline_seconds=3", "--noprogress"]
    fed_avg(["", f"--workdir={run}", *FLAGS, *clock])
    run_again(run, again)
    assert replayed(run, again).difference is None


def test_what_cannot_be_run_again(tmp_path, capsys):
    config = {"format": 1, "experiment": "none.such", "flags": {}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"no module experiments\.none\.such"):
        run_again(tmp_path, tmp_path / "again")
    # What begins from another run's model is not told by its flags.
    path.write_text(json.dumps({**config, "experiment": "diloco"}))
    with pytest.raises(UsageError, match=r"experiments\.diloco\.run has no build_prob"):
        run_again(tmp_path, tmp_path / "again")
    path.write_text(
        json.dumps({**config, "experiment": "fed_avg", "flags": {"gone": 1}})
    )
    assert again_main([str(tmp_path), f"--into={tmp_path / 'again'}"]) == 2
    assert "--gone of" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
