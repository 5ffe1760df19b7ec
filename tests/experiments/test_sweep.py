"""Sweeps: what is planned, run once, tabulated, and refused before anything runs."""

import csv
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import sweep
from experiments.fed_avg.run import main as run_fed_avg
from experiments.sweep import main

QUICK = ["--", "--quick", "--num_rounds=1", "--noprogress", "--execution=scanned()"]
GRID = [
    "--grid=client_optimizer: sgd(0.0) | sgd(0.3)",
    "--grid=uplink: identity() | qsgd(4)",
]


@pytest.fixture
def in_process(monkeypatch):
    """Runs in this process what a sweep would run in others; the commands it gave."""
    ran = []

    def run(command, check):
        del check
        ran.append(command[1:])
        assert command[1:3] == ["-m", "experiments.fed_avg"]
        run_fed_avg(["", *command[3:]])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=run))
    return ran


def table(folder):
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_every_combination_is_run_and_said_in_a_table_and_a_report(
    tmp_path, in_process, capsys
):
    command = [f"--workdir={tmp_path}", *GRID, *QUICK, "--model=linear()"]
    assert main(command) == 0
    rows = table(tmp_path)
    assert [(row["client_optimizer"], row["uplink"]) for row in rows] == [
        (rate, uplink)
        for rate in ("sgd(0.0)", "sgd(0.3)")
        for uplink in ("identity()", "qsgd(4)")
    ]
    assert float(rows[0]["test_accuracy"]) == float(rows[1]["test_accuracy"])
    assert float(rows[2]["test_loss"]) < float(rows[0]["test_loss"])
    assert int(rows[3]["total_bytes"]) < int(rows[2]["total_bytes"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "qsgd(4)" in page
    assert "sgd(0.3)" in page
    # Again: all has finished, and nothing is changed.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/seed-0/summary.json")}
    assert main(command) == 0
    assert len(before) == 4
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    assert "has finished" in capsys.readouterr().out


def test_seeds_are_the_outer_loop(tmp_path):
    values = sweep.define()
    values(["", f"--workdir={tmp_path}", *GRID, "--num_seeds=2", "--seed=3"])
    runs = sweep.planned(values)
    assert [run.seed for run in runs] == [3] * 4 + [4] * 4
    assert len({run.path for run in runs}) == 8
    assert runs[0].path.parts[-2:] == (
        "client_optimizer=sgd(0.0),uplink=identity()",
        "seed-3",
    )


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def run(command, check):
        del check
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=run))
    assert main([f"--workdir={tmp_path}", *GRID]) == 1
    assert capsys.readouterr().err.count("has failed") == 4
    assert [row["test_accuracy"] for row in table(tmp_path)] == [""] * 4


def test_an_interrupt_ends_the_sweep(tmp_path, monkeypatch, capsys):
    def run(command, check):
        del check
        return subprocess.CompletedProcess(command, 130)

    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=run))
    assert main([f"--workdir={tmp_path}", *GRID]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "sweep.csv").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--grid='FLAG: VALUE | VALUE ...' is missing"),
        (["--grid=uplink"], "expected 'FLAG: VALUE"),
        (["--grid=uplink: qsgd(4) | "], "expected 'FLAG: VALUE"),
        (["--grid=uplink: qsgd(4) | qsgd(4)"], "there twice"),
        (["--grid=seed: 1 | 2"], "--num_seeds asks for several"),
        (["--grid=uplink: qsg(4)"], "did you mean 'qsgd'"),
        (["--grid=uplnk: qsgd(4)"], "uplnk"),
        (["--grid=uplink: qsgd(4)", "--experiment=fed_averaging"], "is none of"),
        (["--grid=uplink: qsgd(4)", "--", "--num_rouds=3"], "num_rouds"),
        (["--grid=uplink: qsgd(4)", "more"], "stands behind --"),
        (["--grid=uplink: qsgd(4)", "--", "--uplink=qsgd(2)"], "is of the --grid"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, capsys, flags, told):
    assert main([f"--workdir={tmp_path / 'sweep'}", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not list(Path(tmp_path).iterdir())
