"""Runs are found at any depth, marked where unfinished, and named where damaged."""

import pytest

from fedjax_comp.report.found import find_runs
from fedjax_comp.run_directory import RunDirectoryError, write_json
from tests.report.found_runs import row, write_run

ROWS = [row(0, 0.1, 0), row(3, 0.5, 30, 70)]


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    write_run(tmp_path / "day" / "b" / "seed-1", ROWS)
    write_run(tmp_path / "a", ROWS)
    write_run(tmp_path / "a" / "checkpoints" / "no-run-of-its-own", ROWS)
    found = find_runs([tmp_path, tmp_path / "a"])
    paths = [str(run.path.relative_to(tmp_path)) for run in found.runs]
    assert paths == ["a", "day/b/seed-1"]
    assert [one["total_bytes"] for one in found.runs[0].rows] == [0, 100]
    assert not found.passed


def test_the_runs_of_a_comparison_are_in_its_order(tmp_path):
    for name in ("alpha", "dense", "seed-1"):
        write_run(tmp_path / name, ROWS)
    write_json(tmp_path / "config.json", {"experiment": "c", "flags": {}})
    rows = [{"name": "dense"}, {"name": "alpha"}]
    write_json(tmp_path / "summary.json", {"runs": rows})
    found = find_runs([tmp_path])
    assert [run.path.name for run in found.runs] == ["dense", "alpha", "seed-1"]


def test_runs_that_chose_a_rate_are_no_results(tmp_path):
    write_json(tmp_path / "config.json", {"experiment": "c", "flags": {}})
    for name in ("rate-0.1/dense", "tuning/rate-0.1/dense", "tuning/rate-1/dense"):
        write_run(tmp_path / name, ROWS)
    (run,) = find_runs([tmp_path]).runs
    assert run.path == tmp_path / "rate-0.1" / "dense"
    # Who names the folder wants it, and a run may have that name.
    assert len(find_runs([tmp_path / "tuning"]).runs) == 2
    write_run(tmp_path / "other" / "tuning", ROWS)
    write_json(tmp_path / "other" / "config.json", {"experiment": "c", "flags": {}})
    assert len(find_runs([tmp_path / "other"]).runs) == 1


def test_a_run_that_did_not_finish_is_marked(tmp_path):
    run = write_run(tmp_path / "a", ROWS, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "test_acc')  # it was killed here
    write_run(tmp_path / "b", ROWS)
    failed = write_run(tmp_path / "c", ROWS)
    write_json(failed / "summary.json", {"failures": ["the loss is not finite"]})
    states = [run.state for run in find_runs([tmp_path]).runs]
    assert states == [
        "not finished: round 3 of 9",
        "",
        "failed: the loss is not finite",
    ]


def test_what_has_no_rounds_is_passed_over(tmp_path):
    write_run(tmp_path / "a", ROWS)
    write_run(tmp_path / "empty", [], finished=False)
    write_run(tmp_path / "measured", [{"name": "qsgd", "total_bytes": 3}])
    found = find_runs([tmp_path])
    assert [path.name for path in found.passed] == ["empty", "measured"]
    assert len(found.runs) == 1


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "{"),
        ("config.json", '{"format": 1, "experiment": "x"}'),
        ("summary.json", "[]"),
        ("metrics.jsonl", '{"round": 1}\n{"round": "2"}\n'),
        ("metrics.jsonl", "\x00\n"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(tmp_path, name, text):
    run = write_run(tmp_path / "a", ROWS)
    (run / name).write_text(text)
    with pytest.raises(RunDirectoryError, match=name) as caught:
        find_runs([tmp_path])  # nothing else is there
    assert "\n" not in str(caught.value)
    write_run(tmp_path / "b", ROWS)
    for directories in ([tmp_path], [run, tmp_path / "b"]):
        found = find_runs(directories)
        assert [one.path.name for one in found.runs] == ["b"]
        assert found.damaged == [str(caught.value)]


def test_a_comparison_with_a_damaged_summary_still_has_its_runs(tmp_path):
    for name in ("dense", "alpha"):
        write_run(tmp_path / name, ROWS)
    write_json(tmp_path / "config.json", {"experiment": "c", "flags": {}})
    (tmp_path / "summary.json").write_text("{")
    found = find_runs([tmp_path])
    assert [run.path.name for run in found.runs] == ["alpha", "dense"]
    assert "summary.json cannot be read" in found.damaged[0]


def test_what_is_not_finite_is_not_known(tmp_path):
    run = write_run(tmp_path / "a", ROWS)
    text = '{"round": 1, "test_accuracy": NaN, "uplink_bytes": 1e999}\n'
    (run / "metrics.jsonl").write_text(text)
    ((only,),) = [run.rows for run in find_runs([tmp_path]).runs]
    assert (only["test_accuracy"], only["total_bytes"]) == (None, None)


def test_no_run_is_an_error_of_the_directory_named(tmp_path):
    write_run(tmp_path / "a", ROWS)
    (tmp_path / "nothing").mkdir()
    for name in ("nothing", "not-there"):
        with pytest.raises(RunDirectoryError, match=name):
            find_runs([tmp_path / "a", tmp_path / name])
