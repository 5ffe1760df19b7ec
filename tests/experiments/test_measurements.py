"""Measurements: what is kept, what is taken again, and what one failure costs."""

import json

import pytest

from fedjax_comp.experiment.measurements import claim, complete, measure_missing
from fedjax_comp.report import Table
from fedjax_comp.run_directory import open_run


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
    assert rows == [{"job": "one", "value": 1}, {"job": "two", "value": 2}]
    assert failures == [{"job": "bad", "reason": "ValueError: no luck"}]
    # Half a line, as of a killed run, is measured again; order is that of the jobs.
    lines = directory.metrics_path.read_text().splitlines(keepends=True)
    directory.metrics_path.write_text(lines[1] + lines[0][:9])
    rows, failures = measure_missing(directory, {**jobs, "bad": job(3)}, show=None)
    assert [row["value"] for row in rows] == [1, 3, 2]
    assert not failures
    assert taken == [1, 2, 1, 3]


def test_nothing_at_all_is_the_users_mistake(tmp_path):
    with pytest.raises(ValueError, match="nothing could be measured: ValueError: no"):
        measure_missing(open_run(tmp_path, "a", {}), {"bad": broken}, show=None)


def test_what_is_left_behind(tmp_path, capsys):
    assert claim("x", 1.0, None, at_least=True) == []
    claims = [
        *claim("low", 1.0, 0.5, at_least=True),
        *claim("high", 1.0, 0.5, at_least=False),
    ]
    complete(
        open_run(tmp_path, "a", {}),
        {"claims": claims},
        title="t",
        headlines={"rows": 1},
        tables=[Table("numbers", ("n",), [[1]])],
        figures=[],
        failures=[{"job": "lost", "reason": "why"}],
    )
    out = capsys.readouterr().out
    assert "DOES NOT HOLD: low: 0.5 (1.0)" in out
    assert "holds: high" in out
    assert "Not measured" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["claims"] == claims
