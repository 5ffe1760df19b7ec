"""Comparisons over seeds: where they lie, their means, and which claims hold."""

import csv
import json

import numpy as np
import pytest

from experiments.fed_avg.compare import COMPARISON
from fedjax_comp.experiment.outcome import (
    by_construction,
    claim,
    print_claims,
    reported,
)
from fedjax_comp.experiment.seeds import (
    STUDENT,
    claims_over_seeds,
    mean_rows,
)
from fedjax_comp.report import Run, mean_curves, write_report
from tests.experiments.small import mistake

QUICK = [
    "--model=linear()",
    "--num_clients=10",
    "--cohort_size=2",
    "--num_rounds=4",
    "--eval_every=2",
    "--audit_every=0",
    "--noprogress",
    "--pipeline=dense: identity() | identity()",
    "--pipeline=sign: error_feedback(scaled_sign()) | identity()",
]


def gain(measured, target=1.0):
    return [claim("gain (of the best)", target, x, at_least=True) for x in measured]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_more_seeds_are_added_to_a_run(tmp_path):
    folder = tmp_path / "run"
    command = ["compare", f"--workdir={folder}", "--seed=3", *QUICK]
    COMPARISON.main(command)
    (alone, _) = table(folder / "table.csv")
    began = (folder / "dense" / "metrics.jsonl").stat().st_mtime_ns
    others = {}

    def claims(results):
        others[results.values.seed] = [rows[1] for rows in results.others]
        return COMPARISON.claims(results)

    COMPARISON._replace(claims=claims).main([*command, "--num_seeds=3"])
    assert (folder / "dense" / "metrics.jsonl").stat().st_mtime_ns == began
    dense, sign = table(folder / "table.csv")
    single = [row for row in table(folder / "seeds.csv") if row["name"] == "sign"]
    assert [row["seed"] for row in single] == ["3", "4", "5"]
    accuracies = [float(row["test_accuracy"]) for row in single]
    # What a setting may be chosen on is what it is not graded on.
    for seed, left in ((3, accuracies[1:]), (4, accuracies[::2]), (5, accuracies[:2])):
        chosen_on = [row["test_accuracy"] for row in others[seed]]
        assert chosen_on == pytest.approx(left, rel=1e-5)
    assert alone["test_accuracy"] == table(folder / "seeds.csv")[0]["test_accuracy"]
    for name in ("test_accuracy", "uplink_bytes", "uplink_bytes_ratio"):
        each = [float(row[name]) for row in single]
        assert float(sign[name]) == pytest.approx(np.mean(each), rel=1e-5)
        assert float(sign[f"{name}_sd"]) == pytest.approx(
            np.std(each, ddof=1), rel=1e-4
        )
    assert dense["uplink_bytes_ratio"] == "1"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [3, 4, 5]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "<dt>curves</dt>" in report
    assert "mean ± deviation" in report
    # Of one seed again, nothing is left that speaks of more.
    COMPARISON.main(command)
    assert not (folder / "seeds.csv").exists()
    configs = [
        json.loads((path / "dense" / "config.json").read_text())["flags"]["seed"]
        for path in (folder, folder / "seed-4", folder / "seed-5")
    ]
    assert configs == [3, 4, 5]


def test_a_claim_holds_beyond_its_noise_alone():
    (clear,) = claims_over_seeds(gain([1.5, 1.6, 1.4]))
    (lucky,) = claims_over_seeds(gain([1.01, 1.5, 0.99]))
    assert clear["holds"]
    assert not lucky["holds"]
    assert clear["measured"] == 1.5
    assert clear["sd"] == pytest.approx(0.1)
    assert clear["name"] == "gain"


def test_a_bound_from_above_and_one_that_all_meet_alike():
    few = [claim("failed", 0, x, at_most=True) for x in (0, 0, 0)]
    assert claims_over_seeds(few)[0]["holds"]
    loss = [claim("loss", 1.0, x, at_most=True) for x in (0.5, 0.6)]
    assert claims_over_seeds(loss)[0]["holds"]
    loss = [claim("loss", 1.0, x, at_most=True) for x in (1.5, 1.6)]
    assert not claims_over_seeds(loss)[0]["holds"]
    tie = [claim("gain", 1.0, 1.0, above=True)] * 2
    assert not claims_over_seeds(tie)[0]["holds"]


def test_what_is_not_finite_has_no_mean_and_holds_for_nobody():
    assert mean_rows([[{"a": x, "reason": ""}] for x in (1.0, np.inf)])[0]["a"] is None
    for x in (np.inf, np.nan):
        (one,) = claims_over_seeds(gain([1.5, float(x), 1.4]))
        assert not one["holds"]


def test_what_was_not_measured_with_every_seed_does_not_hold():
    (one,) = claims_over_seeds([*gain([2.0, 2.1]), []])
    assert not one["holds"]
    assert one["name"] == "gain (2 of 3 seeds)"


def test_claims_by_construction_are_told_apart(capsys, tmp_path):
    each = [by_construction(claim("bytes", 1, x, at_most=True)) for x in (0.5, 0.5)]
    (one,) = claims_over_seeds(each)
    assert one["by_construction"]
    print_claims([one, *gain([2.0])[0]])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("holds by construction: bytes")
    assert second.startswith("holds: gain")
    path = tmp_path / "report.html"
    given = reported([one, *gain([2.0])[0]])
    write_report(path, title="t", summary={}, settings={}, claims=given)
    page = path.read_text()
    assert page.count("by construction") == page.count("✓ yes") == 1


def test_chance_alone_makes_a_claim_hold_one_time_in_twenty():
    # 20,000 draws of three seeds: 5 % +- 5 standard errors of .15 %.
    rng = np.random.default_rng(0)
    for count in (2, 3, 5):
        x = rng.normal(size=(20_000, count))
        t = x.mean(1) / (x.std(1, ddof=1) / np.sqrt(count))
        share = float(np.mean(t > STUDENT[count - 2]))
        assert abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 20_000)


def test_a_variant_that_failed_with_one_seed_has_failed():
    rows = [
        [{"name": "a", "reason": "", "mb": 1}],
        [{"name": "a", "reason": "no", "mb": None}],
    ]
    (row,) = mean_rows(rows)
    assert row["reason"] == "1 of 2 seeds: no"
    assert row["mb"] is None


def test_curves_end_with_the_first_that_ends():
    long = Run("a", [{"round": i, "loss": 2.0 * i} for i in range(5)])
    short = Run("a", [{"round": i, "loss": 4.0 * i} for i in range(3)])
    (mean,) = mean_curves([[long], [short]])
    assert [row["loss"] for row in mean.rows] == [0, 3, 6]
    assert [row["loss"] for row in mean.spread] == pytest.approx(
        [0, np.sqrt(2), 2 * np.sqrt(2)], rel=1e-5
    )


def test_a_mistake_is_told_before_anything_is_run(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--num_seeds=0", *QUICK]
    assert "num_seeds" in mistake(COMPARISON.main, capsys, flags)
    assert not list(tmp_path.iterdir())
