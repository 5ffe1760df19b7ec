"""The frontier: its costs and front against oracles, and what it leaves behind."""

import csv
import json
from pathlib import Path

import pytest
from absl import flags

from experiments.frontier.pareto import pareto_front
from experiments.frontier.run import COLUMNS, compare, frontier_claims, main
from experiments.frontier.table import PIPELINES, QUICK_PIPELINES
from fedjax_comp.experiment.comparison import Results
from fedjax_comp.experiment.pipelines import parse_pipelines
from fedjax_comp.run_directory import RunDirectory
from tests.experiments.small import read_runs


def test_the_table_has_twenty_pipelines_and_all_are_valid():
    pipelines = parse_pipelines(PIPELINES)
    assert len(pipelines) >= 20
    assert pipelines[0].name == "dense"
    assert 3 <= len(QUICK_PIPELINES) <= 6


def test_pareto_front_is_what_comparing_all_pairs_gives():
    points = [{"a": a, "b": (7 * a) % 11} for a in range(1, 11)]

    def is_beaten(p):
        return any(q["a"] <= p["a"] and q["b"] <= p["b"] and q is not p for q in points)

    assert pareto_front(points, ("a", "b")) == [p for p in points if not is_beaten(p)]
    assert pareto_front([], ("a", "b")) == []


def test_ratios_are_to_the_first_pipeline():
    def outcome(name, rounds, total):
        up = None if total is None else total // 2
        return {
            "name": name,
            "rounds_to_target": rounds,
            "uplink_bytes_to_target": up,
            "total_bytes_to_target": total,
        }

    outcomes = [outcome("a", 5, 100), outcome("b", 7, 20), outcome("c", None, None)]
    compare(outcomes)
    ratios = [one["total_bytes_to_target_ratio"] for one in outcomes]
    assert ratios == [1.0, 5.0, None]
    assert [one["on_front"] for one in outcomes] == [True, True, False]


TASK = (
    "--quick",
    "--model=linear()",
    "--num_clients=10",
    "--cohort_size=5",
    "--client_optimizer=sgd(1.0)",
    "--num_rounds=12",
    "--execution=scanned()",
    "--noprogress",
)


@pytest.mark.thorough
def test_one_failed_pipeline_does_not_lose_the_others(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *TASK,
        "--target_accuracy=0.6",
        "--pipeline=dense: identity() | identity()",
        "--pipeline=half: to_dtype('bfloat16') | to_dtype('bfloat16')",
        # Valid as an expression, and refused when it meets the model.
        "--pipeline=wrong: chain(scaled_sign(), top_k(0.1)) | identity()",
    ]
    main(["frontier", *flags])
    assert read_runs(tmp_path).keys() == {"dense", "half", "wrong"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    dense, half, wrong = summary["runs"]
    assert dense["rounds_to_target"] is not None
    # It stopped there, and a round up is 5 messages of 650 numbers, as is one down.
    assert dense["rounds"] == dense["rounds_to_target"] < 12
    assert dense["uplink_bytes_to_target"] == dense["rounds"] * 5 * 650 * 4
    assert dense["total_bytes_to_target"] == 2 * dense["uplink_bytes_to_target"]
    assert half["total_bytes_to_target"] == half["rounds"] * 2 * 5 * 650 * 2
    assert wrong["rounds_to_target"] is None
    assert "open" in wrong["reason"]
    assert "\n" not in wrong["reason"]
    assert [claim["holds"] for claim in summary["claims"]] == [False, True]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert [line["name"] for line in table] == ["dense", "half", "wrong"]
    assert table[2]["reason"] == wrong["reason"]
    report = (tmp_path / "report.html").read_text()
    assert report.count("data:image/png") == 3
    shown = capsys.readouterr().out
    assert "failed" in shown
    # Piped, no figure is cut; who is on the front is marked.
    assert "…" not in shown
    assert "half *" in shown

    # A second call finds each finished run, and says the same.
    main(["frontier", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("bytes_to_target", "measured"),
    [((200, 50, 900), 4.0), ((200, 900, None), 0.2222), ((200, None, None), 0.0)],
)
def test_the_claim_is_of_what_is_compressed(bytes_to_target, measured):
    rows = [
        {
            "name": str(place),
            "reason": "",
            "rounds_to_target": None if cost is None else 3,
            "uplink_bytes_to_target": cost,
            "total_bytes_to_target": cost,
        }
        for place, cost in enumerate(bytes_to_target)
    ]
    compare(rows)
    values = flags.FlagValues()
    results = Results(values, rows, [], RunDirectory(Path(), {}, None))
    _, saved = frontier_claims(results)
    assert saved["measured"] == pytest.approx(measured, abs=1e-4)
    assert saved["holds"] == (measured > 1)
    # Without the first there is nothing to be less than, and nothing is claimed.
    rows[0] |= {"rounds_to_target": None, "total_bytes_to_target": None}
    rows[0]["uplink_bytes_to_target"] = None
    compare(rows)
    assert len(frontier_claims(results)) == 1


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--pipeline=a: topk(1) | identity()", "top_k"),
        ("--pipeline=../a: identity() | identity()", "NAME: UPLINK | DOWNLINK"),
        ("--target_accuracy=99", "--target_accuracy=99"),
        ("--model=cnn", "cnn("),
        ("--dataset=mnits", "did you mean mnist"),
        ("--cohort_size=11", "--num_clients=10"),
        ("--num_rounds=0", "num_rounds"),
        ("extra", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["frontier", f"--workdir={tmp_path}", *TASK, flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_names_must_differ(tmp_path, capsys):
    same = ["--pipeline=a: identity() | identity()"] * 2
    with pytest.raises(SystemExit):
        main(["frontier", f"--workdir={tmp_path}", *TASK, *same])
    assert "names must differ" in capsys.readouterr().err
