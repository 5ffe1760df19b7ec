"""Measurements: what is kept, what is taken again, and what one failure costs."""

import csv
import json

import pytest

from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.measurements import (
    Measurements,
    measure,
    measure_missing,
    over_trials,
)
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.run_directory import open_run
from tests.experiments.small import read_runs


def broken():
    raise ValueError("no\nluck")


def test_only_what_is_missing_is_measured_and_a_failure_costs_one_row(tmp_path):
    taken = []

    def job(value):
        def measure():
            taken.append(value)
            return {"value": value}

        return measure

    directory = open_run(tmp_path, "a", {})
    jobs = {"one": job(1), "bad": broken, "two": job(2)}
    rows, failures = measure_missing(directory, jobs, show=None)
    assert rows == [{"name": "one", "value": 1}, {"name": "two", "value": 2}]
    assert failures == [{"name": "bad", "reason": "ValueError: no luck"}]
    # Half a line, as of a killed run, is measured again; order is that of the jobs.
    lines = directory.metrics_path.read_text().splitlines(keepends=True)
    directory.metrics_path.write_text(lines[1] + lines[0][:9])
    rows, failures = measure_missing(directory, {**jobs, "bad": job(3)}, show=None)
    assert [row["value"] for row in rows] == [1, 3, 2]
    assert not failures
    assert taken == [1, 2, 1, 3]
    # What earlier calls measured stays, behind what is asked for now.
    rows, _ = measure_missing(directory, {"four": job(4)}, show=None)
    assert [row["value"] for row in rows] == [4, 2, 1, 3]


def test_nothing_at_all_is_the_users_mistake(tmp_path):
    with pytest.raises(ValueError, match="nothing could be measured: ValueError: no"):
        measure_missing(open_run(tmp_path, "a", {}), {"bad": broken}, show=None)


def test_trials_are_grouped_in_order():
    taken = [
        {"k": k, "trial": trial, "test_accuracy": accuracy}
        for trial, k, accuracy in ((0, 3, 0.5), (0, 1, 0.25), (1, 3, 1.0))
    ]
    (one, _), (three, own) = over_trials(taken, "{k} clients", "k")
    assert (one["name"], one["test_accuracy"], one["spread"]) == ("1 clients", 0.25, 0)
    # Two points half apart deviate by 0.5 / sqrt(2) with one degree of freedom.
    assert three["spread"] == pytest.approx(0.5 / 2**0.5, abs=1e-5)
    assert (three["k"], three["test_accuracy"], three["trials"]) == (3, 0.75, 2)
    assert [row["trial"] for row in own] == [0, 1]


def experiment(jobs, repeated=()):
    return Measurements(
        name="a",
        define=run_flags,
        jobs=lambda values: jobs,
        columns=("total_bytes", "missing"),
        claims=lambda measured: [
            *claim("low", 1.0, 0.5, at_least=True),
            *claim("high", 1.0, 0.5, at_most=True),
        ],
        show=lambda row: f"{row['name']} took {row['total_bytes']} bytes",
        repeated=repeated,
        facts=lambda measured: {"most": max(r["total_bytes"] for r in measured.rows)},
    )


def parsed(tmp_path, *given):
    values = run_flags()
    values(["", f"--workdir={tmp_path}", *given])
    return values


def test_what_is_left_behind(tmp_path, capsys):
    jobs = {"good": lambda: {"total_bytes": 7}, "lost": broken}
    summary = measure(experiment(jobs), parsed(tmp_path))
    out = capsys.readouterr().out
    assert "good took 7 bytes" in out
    assert "DOES NOT HOLD: low: 0.5 (at least 1.0)" in out
    assert "holds: high" in out
    assert "DOES NOT HOLD: measurements that failed: 1 (at most 0)" in out
    assert "ValueError: no luck" in (tmp_path / "report.html").read_text()
    assert (summary["most"], summary["measured"]) == (7, 1)
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept["claims"] == summary["claims"]
    assert read_runs(tmp_path) == {
        "good": {"name": "good", "total_bytes": 7, "missing": None, "reason": ""},
        "lost": {
            "name": "lost",
            "total_bytes": None,
            "missing": None,
            "reason": "ValueError: no luck",
        },
    }
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", "total_bytes", "missing", "reason")
    assert [row["name"] for row in table] == ["good", "lost"]


def test_what_a_killed_call_measured_and_did_not_tell_is_told(tmp_path, capsys):
    jobs = {"one": lambda: {"total_bytes": 1}}
    measure(experiment(jobs, ("import",)), parsed(tmp_path))
    more = {**jobs, "two": lambda: {"total_bytes": 2}}

    def killed(measured):
        raise KeyboardInterrupt

    stopped = experiment(more, ("import",))._replace(facts=killed)
    with pytest.raises(KeyboardInterrupt):
        measure(stopped, parsed(tmp_path))
    summary = measure(experiment(more, ("import",)), parsed(tmp_path))
    assert summary["measured"] == 2
    assert json.loads((tmp_path / "summary.json").read_text())["measured"] == 2
    capsys.readouterr()
    measure(experiment(more, ("import",)), parsed(tmp_path))
    assert "nothing was changed" in capsys.readouterr().out


def test_a_finished_directory_takes_what_failed_and_nothing_else(tmp_path, capsys):
    calls = []

    def good():
        calls.append("good")
        return {"total_bytes": 7}

    measure(experiment({"good": good, "lost": broken}), parsed(tmp_path))
    mended = experiment({"good": good, "lost": lambda: {"total_bytes": 8}})
    summary = measure(mended, parsed(tmp_path))
    assert calls == ["good"]
    assert [row["total_bytes"] for row in summary["runs"]] == [7, 8]
    assert not any(row["reason"] for row in summary["runs"])
    capsys.readouterr()
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    assert measure(mended, parsed(tmp_path)) == summary
    assert "nothing was changed" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="--seed: 0 there, 1 now"):
        measure(mended, parsed(tmp_path, "--seed=1"))


def test_values_of_a_repeated_flag_may_be_added(tmp_path):
    first = experiment({"a": lambda: {"total_bytes": 1}}, repeated=("seed",))
    measure(first, parsed(tmp_path))
    second = first._replace(jobs=lambda values: {"b": lambda: {"total_bytes": 2}})
    summary = measure(second, parsed(tmp_path, "--seed=1"))
    assert {row["name"] for row in summary["runs"]} == {"a", "b"}


def test_a_mistake_leaves_nothing_behind(tmp_path):
    def refuse(values):
        raise ValueError("--x is wrong")

    with pytest.raises(ValueError, match="--x is wrong"):
        measure(experiment({})._replace(jobs=refuse), parsed(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
