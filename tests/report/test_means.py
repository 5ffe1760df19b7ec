"""Means over seeds are of the same round of each, whatever else was evaluated."""

import statistics

import pytest

from fedjax_comp.report.means import mean_curves
from fedjax_comp.report.rows import Run


def run_of(seed, rounds):
    return Run("a", [{"round": r, "loss": (1 + seed) * r} for r in rounds])


def test_seeds_that_were_evaluated_in_other_rounds_are_joined_by_round():
    # The first one was stopped in rounds 10 and 14, and went on from there.
    seeds = [(0, 4, 8, 10, 12, 14, 16), (0, 4, 8, 12, 16), (0, 8, 12, 16, 20)]
    runs = [run_of(seed, rounds) for seed, rounds in enumerate(seeds)]
    (mean,) = mean_curves([[run] for run in runs])
    assert [row["round"] for row in mean.rows] == [0, 8, 12, 16]
    assert [row["loss"] for row in mean.rows] == [2 * r for r in (0, 8, 12, 16)]
    assert all(row["round"] == 0 for row in mean.spread)
    for row, spread in zip(mean.rows, mean.spread, strict=True):
        deviation = statistics.stdev(seed * row["round"] for seed in (1, 2, 3))
        assert spread["loss"] == pytest.approx(deviation, rel=1e-5)


def test_rows_without_a_round_are_joined_by_their_places():
    one, two = (Run("a", [{"bits": b, "db": b * s} for b in (1, 2)]) for s in (1, 3))
    (mean,) = mean_curves([[one], [two._replace(rows=two.rows[:1])]])
    assert [dict(row) for row in mean.rows] == [{"bits": 1, "db": 2}]


def test_seeds_without_a_round_in_common_have_no_mean():
    (mean,) = mean_curves([[run_of(0, (1, 3))], [run_of(0, (2, 4))]])
    assert (list(mean.rows), list(mean.spread)) == ([], [])
