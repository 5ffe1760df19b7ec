"""How a command ends: its exit status, what it says, and how it goes on."""

import json

import pytest

from experiments.fed_avg import compare
from experiments.fed_avg.run import main
from fedjax_comp.audit.command import main as audit
from fedjax_comp.audit.entry import RESULT, parse_entry
from fedjax_comp.audit.log import read_log
from fedjax_comp.experiment.finish import read_rows
from fedjax_comp.run_directory import RunDirectory
from tests.test_run import TIMED

SMALL = [
    "--dataset=digits",
    "--model=linear()",
    "--num_clients=20",
    "--cohort_size=4",
    "--batch_size=20",
    "--num_rounds=4",
    "--eval_every=3",
    "--noprogress",
]


def go(workdir, *flags):
    main(["", f"--workdir={workdir}", *SMALL, *flags])


def summary_of(workdir):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = (workdir / "summary.json").read_text()
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    return json.loads(text, parse_constant=refuse)


def test_a_target_met_before_the_first_round_is_an_end(tmp_path, capsys):
    flags = ["--target_accuracy=0.01", "--stop_at_target"]
    go(tmp_path, *flags)
    summary = summary_of(tmp_path)
    assert (summary["rounds"], summary["rounds_to_target"]) == (0, 0)
    assert summary["seconds_per_round"] is None
    assert "fewer than dense" not in capsys.readouterr().out
    go(tmp_path, *flags)
    assert "has finished" in capsys.readouterr().out


def untimed(workdir):
    rows = [{n: x for n, x in r.items() if n != "seconds"} for r in read_rows(workdir)]
    summary = summary_of(workdir)
    return rows, {name: x for name, x in summary.items() if name not in TIMED}


def test_a_finished_run_may_be_made_longer(tmp_path, capsys):
    go(tmp_path / "run", "--eval_every=2")
    go(tmp_path / "run", "--eval_every=2", "--num_rounds=6")
    go(tmp_path / "whole", "--eval_every=2", "--num_rounds=6")
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        go(tmp_path / "run", "--eval_every=2")
    assert stop.value.code == 2
    assert "--num_rounds: 6 there, 4 now" in capsys.readouterr().err


def test_a_logged_run_may_be_made_longer(tmp_path):
    for rounds in (2, 3):
        go(tmp_path, "--audit_log", f"--num_rounds={rounds}")
    assert audit(["verify", str(tmp_path)]) == 0
    lines = read_log(tmp_path / "audit").lines[1:]
    ends = [x.round for x in map(parse_entry, lines) if x.kind == RESULT]
    assert ends == [2, 3]


ENDINGS = {
    "dropped": (
        ["--client_optimizer=sgd(1e38)", "--batch_size=1"],
        "all updates were dropped (16 in 4 rounds)",
    ),
    "not finite": (
        ["--client_optimizer=sgd(1e37)", "--batch_size=0"],
        "the test loss at the end is not finite",
    ),
    "nobody": (
        ["--network=lognormal()", "--deadline_seconds=0.000001"],
        "nobody arrived in 4 rounds",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_run_that_taught_nothing_says_so_and_ends_with_1(tmp_path, capsys, name):
    flags, said = ENDINGS[name]
    for _ in range(2):  # and again when it has finished
        with pytest.raises(SystemExit) as stop:
            go(tmp_path, *flags)
        assert stop.value.code == 1
        told = capsys.readouterr()
        assert said in told.err.strip()
        assert len(told.err.strip().splitlines()) == 1
        assert "0.0x" not in told.out
    summary = summary_of(tmp_path)
    assert said in " ".join(summary["failures"])
    assert (tmp_path / "report.html").exists()
    if name == "not finite":
        assert summary["test_loss"] is None
        assert read_rows(tmp_path)[-1]["test_loss"] is None


COMPARED = [*SMALL, "--pipeline=a: identity() | identity()"]


def test_a_finished_comparison_is_read_where_it_cannot_be_written(
    tmp_path, capsys, monkeypatch
):
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    monkeypatch.setattr(RunDirectory, "is_writable", False)
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    assert "has finished; it cannot be written" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        compare.main(
            ["", f"--workdir={tmp_path}", *COMPARED, "--pipeline=b: qsgd(4) | qsgd(4)"]
        )
    assert stop.value.code == 2
    assert "b has not been run there" in capsys.readouterr().err


def test_a_comparison_of_which_nothing_is_left_ends_with_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main(["", f"--workdir={tmp_path}", *COMPARED, *ENDINGS["dropped"][0]])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert "a failed: RunFailed: all updates were dropped" in told.out
    assert "every pipeline failed" in told.err
    assert (tmp_path / "summary.json").exists()
