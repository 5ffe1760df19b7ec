"""How a command ends: its exit status, what it says, and how it goes on."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.fed_avg import compare
from experiments.fed_avg.run import main
from fedjax_comp.audit.command import main as audit
from fedjax_comp.audit.entry import RESULT, parse_entry
from fedjax_comp.audit.log import read_log
from fedjax_comp.experiment.finish import read_rows
from fedjax_comp.experiment.outcome import print_table
from fedjax_comp.run_directory import RunDirectory
from tests.experiments.small import mistake
from tests.test_run import TIMED

SMALL = [
    "--dataset=digits",
    "--model=linear()",
    "--num_clients=20",
    "--cohort_size=4",
    "--batch_size=20",
    "--num_rounds=4",
    "--eval_every=3",
    "--execution=scanned()",
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
    assert "smaller than dense" not in capsys.readouterr().out
    go(tmp_path, *flags)
    assert "has finished" in capsys.readouterr().out


def untimed(workdir):
    rows = [{n: x for n, x in r.items() if n != "seconds"} for r in read_rows(workdir)]
    summary = summary_of(workdir)
    return rows, {name: x for name, x in summary.items() if name not in TIMED}


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_longer_run_that_is_refused_leaves_what_had_finished(tmp_path, capsys):
    go(tmp_path)
    kept = {n: (tmp_path / n).read_bytes() for n in ("config.json", "summary.json")}
    metrics = tmp_path / "metrics.jsonl"
    rows = metrics.read_text()
    metrics.write_text(rows[rows.index("\n") + 1 :])
    with pytest.raises(SystemExit) as stop:
        go(tmp_path, "--num_rounds=6")
    assert stop.value.code == 2
    assert f"{metrics} has been changed since" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    go(tmp_path)
    assert "has finished; nothing was changed" in capsys.readouterr().out
    metrics.write_text(rows)
    go(tmp_path, "--num_rounds=6")
    assert summary_of(tmp_path)["rounds"] == 6
    capsys.readouterr()
    go(tmp_path, "--num_rounds=6")
    assert "has finished; nothing was changed" in capsys.readouterr().out


@pytest.mark.thorough
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
    "diverged": (
        ["--client_optimizer=sgd(1000.0)", "--model=mlp(32, 32)", "--num_rounds=9"],
        "all updates of the last round were dropped",
    ),
    "nobody": (
        ["--network=lognormal()", "--deadline_seconds=0.000001"],
        "nobody arrived in 4 rounds",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ENDINGS)
def test_a_run_that_taught_nothing_says_so_and_ends_with_1(tmp_path, capsys, name):
    flags, said = ENDINGS[name]
    for start in range(3):
        if start == 2:  # it has finished before, and now was killed just before it did
            (tmp_path / "summary.json").unlink()
        with pytest.raises(SystemExit) as stop:
            go(tmp_path, *flags)
        assert stop.value.code == 1
        told = capsys.readouterr()
        *before, line = told.err.strip().splitlines()
        assert said in line
        assert not before or start == 2  # which may go on at another commit
        assert "0.0x" not in told.out
    summary = summary_of(tmp_path)
    assert said in " ".join(summary["failures"])
    assert (tmp_path / "report.html").exists()
    if name == "not finite":
        assert summary["test_loss"] is None
        assert read_rows(tmp_path)[-1]["test_loss"] is None


COMPARED = [*SMALL, "--pipeline=a: identity() | identity()"]
SEEDS = "--num_seeds=3"


def test_a_finished_comparison_is_read_where_it_cannot_be_written(
    tmp_path, capsys, monkeypatch
):
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    monkeypatch.setattr(RunDirectory, "is_writable", False)
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    assert "has finished; it cannot be written" in capsys.readouterr().out
    line = mistake(compare.main, capsys, [f"--workdir={tmp_path}", *COMPARED, SEEDS])
    assert "cannot be written, and seed 1, seed 2 has not been run there" in line
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


@pytest.mark.thorough
def test_a_comparison_may_be_made_longer(tmp_path, capsys):
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    longer = [flag for flag in COMPARED if not flag.startswith("--num_rounds")]
    compare.main(["", f"--workdir={tmp_path}", *longer, "--num_rounds=6"])
    assert read_rows(tmp_path / "a")[-1]["round"] == 6
    capsys.readouterr()
    with pytest.raises(SystemExit):
        compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    assert "--num_rounds: 6 there, 4 now" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_comparison_of_which_nothing_goes_on_keeps_what_had_finished(
    tmp_path, capsys
):
    compare.main(["", f"--workdir={tmp_path}", *COMPARED])
    kept = {p: p.read_bytes() for p in tmp_path.iterdir() if p.suffix}
    assert {p.name for p in kept} >= {"config.json", "summary.json", "table.csv"}
    metrics = tmp_path / "a" / "metrics.jsonl"
    rows = metrics.read_text()
    metrics.write_text(rows[rows.index("\n") + 1 :])
    broken = "--pipeline=b: error_feedback(error_feedback(top_k(0.1))) | identity()"
    for flags in (["--num_rounds=6"], [broken]):
        asked = [*SMALL, *flags] if broken in flags else [*COMPARED, *flags]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            compare.main(["", f"--workdir={tmp_path}", *asked])
        assert stop.value.code == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"every pipeline failed; {tmp_path}/summary.json is what" in line
        assert kept == {p: p.read_bytes() for p in tmp_path.iterdir() if p.suffix}
    metrics.write_text(rows)
    compare.main(["", f"--workdir={tmp_path}", *COMPARED, "--num_rounds=6"])
    assert (
        json.loads((tmp_path / "config.json").read_text())["flags"]["num_rounds"] == 6
    )
    assert read_rows(tmp_path / "a")[-1]["round"] == 6


def test_what_is_in_brackets_is_shown_as_it_stands(capsys):
    rows = [{"name": "mlp([bold])[/red]", "reason": ""}]
    print_table(
        "[t]", "[l]", {"[h]": lambda row: "[1, 2]"}, rows, mark=lambda row: " [*]"
    )
    shown = capsys.readouterr().out
    for text in ("[t]", "[l]", "[h]", "[1, 2]", "mlp([bold])[/red] [*]"):
        assert text in shown


MISTAKES = {
    "--workdir=": "--workdir= is empty",
    "--workdir=~nobody-of-this-name/run": "no home directory is known",
    "--seed=4294967296": "--seed=4294967296",
    "--client_optimizer=sgd(cosine_decay_schedule(0.1, 10))": "without a schedule",
    "--model=cnn((4, 4, 4, 4))": "2 by 2 pixels at least to pool, got 1 by 1",
    "--model=char_lstm()": "Input type must be an integer",
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        go(tmp_path / "run", flag)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert MISTAKES[flag] in line
    assert not list(tmp_path.iterdir())


def test_a_home_directory_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    go("~/run", "--num_rounds=1")
    assert (tmp_path / "run" / "summary.json").exists()


def test_an_error_that_is_not_the_package_s_own_says_how_to_see_it(
    tmp_path, capsys, monkeypatch
):
    def broken(*arguments, **options):
        raise ValueError("shapes (3,) and (4,)")

    monkeypatch.setattr("experiments.fed_avg.run.execute", broken)
    with pytest.raises(SystemExit) as stop:
        go(tmp_path)
    assert stop.value.code == 2
    assert "(4,) (FEDJAX_COMP_DEBUG=1 shows where.)" in capsys.readouterr().err
    monkeypatch.setenv("FEDJAX_COMP_DEBUG", "1")
    with pytest.raises(ValueError, match="shapes"):
        go(tmp_path)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/b.json")

    monkeypatch.setattr("experiments.fed_avg.run.execute", full)
    with pytest.raises(SystemExit) as stop:
        go(tmp_path)
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert "runs/a/b.json: No space left on device; nothing that was finished" in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["experiments.fed_avg", "fedjax_comp.report"])
def test_a_reader_that_leaves_ends_the_command_quietly(module):
    reader, writer = os.pipe()
    os.close(reader)  # gone before the first line, so that there is no race
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=Path(__file__).parents[2],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not done.stderr
