"""The adaptive experiment and the flags of simulated networks, end to end."""

import csv
import json
import math

import pytest

from experiments.adaptive.outcome import (
    COLUMNS,
    adaptive_claims,
    add_comparisons,
    best_fixed,
    mean_outcome,
    outcome_of,
)
from experiments.adaptive.run import main
from experiments.fed_avg.run import main as fed_avg_main

TASK = (
    "--quick",
    "--model=linear()",
    "--num_clients=8",
    "--cohort_size=4",
    "--downlink=identity()",
    "--client_optimizer=sgd(1.0)",
    "--num_rounds=10",
    "--target_accuracy=0.5",
    "--noprogress",
    "--rung=0.25",
    "--rung=1",
)


def test_quick_run_compares_methods_and_resumes(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *TASK,
        "--condition=3g: lognormal(0.2)",
        "--method=fixed-1",
        "--method=hardware-aware",
    ]
    main(["adaptive", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    first, aware = summary["outcomes"]
    assert first["reached"] == 1.0
    assert first["sooner"] == 1.0
    assert first["seconds_to_target"] > 0
    assert first["joules_to_target"] > 0
    assert summary["claims"][0]["target"] == 1.5
    # Every uplink byte is that of a rung: 650 coordinates, padded and with a scale.
    rungs = json.loads((tmp_path / "ladder.json").read_text())["rungs"]
    row = json.loads((tmp_path / "3g/fixed-1/0/summary.json").read_text())["to_target"]
    assert row["uplink_bytes"] == 4 * row["round"] * math.ceil(
        (rungs[1]["bits"] + 1) / 8
    )
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert [line["method"] for line in table] == ["fixed-1", "hardware-aware"]
    assert "data:image/png" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    main(["adaptive", *flags])
    assert "simulated" not in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["outcomes"][1] == aware


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--method=fixed-3", "hardware-aware"),
        ("--rung=3", "--rung='3'"),
        ("--condition=constant()", "NAME: NETWORK"),
        ("--condition=a: constnat()", "constant"),
        ("--network=constant()", "Unknown command line flag 'network'"),
        ("--devices=same('toaster')", "toaster"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["adaptive", f"--workdir={tmp_path}", *TASK, flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_any_experiment_can_be_timed(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        "--quick",
        "--model=linear()",
        "--num_clients=6",
        "--cohort_size=3",
        "--num_rounds=3",
        "--eval_every=1",
        "--audit_every=0",
        "--checkpoint_every=0",
        "--noprogress",
        "--network=constant(0.1, loss=0.05)",
        "--devices=mixed()",
        "--deadline_seconds=30",
    ]
    fed_avg_main(["fed_avg", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["simulated_seconds"] for line in lines]
    assert seconds[0] == 0.0
    assert sorted(seconds) == seconds
    # Two messages of 2,600 bytes at 100 and 71 kbit/s, three times, and latencies.
    sending = 8 * 2600 * (1 / 1e5 + 1 / 7.1e4) + 0.1
    assert 3 * sending < seconds[-1] == summary["simulated_seconds"] < 9 * sending
    assert summary["joules"] > 0
    assert (tmp_path / "figures" / "accuracy_against_time.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        fed_avg_main(
            ["fed_avg", f"--workdir={tmp_path}/b", "--quick", "--deadline_seconds=1"]
        )
    assert "--network" in capsys.readouterr().err


def outcome(method, seconds, condition="3g"):
    return {"condition": condition, "method": method, "seconds_to_target": seconds}


def test_claims_are_against_the_best_fixed_setting():
    outcomes = [
        outcome("fixed-1", 30.0),
        outcome("fixed-4", 20.0),
        outcome("fixed-1-8of10", 15.0),
        outcome("fixed-2", None),
        outcome("hardware-aware", 10.0),
    ]
    assert best_fixed(outcomes)["method"] == "fixed-4"
    assert best_fixed(outcomes, over_selected=True)["method"] == "fixed-1-8of10"
    add_comparisons(outcomes)
    assert [one["sooner"] for one in outcomes[:2]] == [20 / 30, 1.0]
    claims = adaptive_claims(outcomes)
    assert [claim["measured"] for claim in claims] == [2.0, 1.5]
    assert all(claim["holds"] for claim in claims)
    assert adaptive_claims([outcome("fixed-1", None)]) == []
    # One seed that did not reach the target: no mean over those that did.
    row = {"uplink_bytes": 1, "downlink_bytes": 2, "round": 3, "simulated_seconds": 4.0}
    reached = outcome_of({"to_target": {**row, "joules": 5}, "best_test_accuracy": 0.9})
    missed = outcome_of({"to_target": None, "best_test_accuracy": 0.1})
    assert mean_outcome("3g", "x", [reached, missed])["seconds_to_target"] is None
    assert mean_outcome("3g", "x", [reached, missed])["reached"] == 0.5
