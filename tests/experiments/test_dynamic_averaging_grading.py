"""Bytes at equal loss: against interpolation in NumPy, and at the ends of curves."""

import numpy as np
import pytest

from experiments.dynamic_averaging.grading import (
    FIXED,
    add_grades,
    bytes_at,
    bytes_by_level,
    fewer_at,
    loss_at,
)


def row(family, sent, loss):
    return {"family": family, "total_bytes": sent, "cumulative_loss": loss}


def test_a_curve_is_straight_in_the_logarithm_of_bytes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sent = np.sort(rng.integers(1, 10**6, 6))
        lost = np.sort(rng.uniform(10, 20, 6))[::-1]
        rows = [row("periodic", int(b), x) for b, x in zip(sent, lost, strict=True)]
        rng.shuffle(rows)
        for loss in rng.uniform(lost[-1], lost[0], 5):
            # np.interp wants the losses ascending.
            expected = np.exp(np.interp(loss, lost[::-1], np.log(sent)[::-1]))
            assert bytes_at(rows, FIXED, loss) == pytest.approx(expected)


def test_settings_that_are_beaten_in_both_are_not_on_the_curve():
    rows = [row("dynamic", 10, 5.0), row("dynamic", 20, 9.0), row("dynamic", 40, 4.0)]
    assert bytes_at(rows, ["dynamic"], 9.0) == 10
    assert bytes_at(rows, ["dynamic"], 4.5) == pytest.approx(20.0)
    assert bytes_at(rows, ["dynamic"], 3.9) is None
    # What is not known, and what sends nothing, is on no curve.
    rows += [row("dynamic", 5, None), row("dynamic", 0, 1.0)]
    assert bytes_at(rows, ["dynamic"], 9.0) == 10


def test_each_family_has_its_own_curve():
    # No straight line goes from one family's setting to another's.
    rows = [row("periodic", 100, 1.0), row("FedAvg", 1, 2.0)]
    assert bytes_at(rows, FIXED, 1.5) == 100
    assert fewer_at([*rows, row("dynamic", 10, 1.5)], "dynamic", FIXED, 1.5) == 10


def test_grades_of_a_table():
    rows = [
        row("periodic", 100, 10.0),
        row("periodic", 10, 14.0),
        row("dynamic", 20, 12.0),
        row("dynamic", 5, 21.0),
        row("FDA", 25, 12.0),
        row("none", 0, 20.0),
        row("serial", 0, 4.0),
        {"family": None, "total_bytes": None, "cumulative_loss": None},
    ]
    add_grades(rows)
    kept = [one["benefit_kept"] for one in rows]
    assert kept == [1.0, 0.6, 0.8, -0.1, 0.8, 0.0, None, None]
    fixed = [one["fixed_ratio"] for one in rows]
    middle = np.sqrt(1000.0)
    assert fixed == [
        None,
        None,
        pytest.approx(middle / 20, abs=1e-4),
        0.0,
        pytest.approx(middle / 25, abs=1e-4),
        None,
        None,
        None,
    ]
    assert [one["rival"] for one in rows] == [
        None,  # no other loses so little
        "dynamic",
        "FDA",
        "none",
        "dynamic",
        None,
        None,
        None,
    ]
    # At a loss of 14 dynamic averaging pays less than its cheaper setting's share.
    expected = np.exp(np.interp(14.0, [12.0, 21.0], np.log([20, 5]))) / 10
    assert rows[1]["rival_ratio"] == pytest.approx(expected, abs=1e-4)
    assert rows[2]["rival_ratio"] == 1.25


def test_the_map_names_the_cheapest_family_at_each_part_of_the_benefit():
    rows = [
        row("periodic", 1000, 100.0),
        row("periodic", 100, 140.0),
        row("dynamic", 400, 110.0),
        row("dynamic", 200, 140.0),
        row("none", 0, 200.0),
        row("serial", 0, 50.0),
    ]
    headings, lines = bytes_by_level(rows)
    assert headings == ["kept", "loss", "periodic", "dynamic", "cheapest"]
    found = {line[0]: line[1:] for line in lines}
    assert found[0.95] == [105.0, round(10 ** (2 + 35 / 40)), None, "periodic"]
    assert found[0.9] == [110.0, round(10 ** (2 + 30 / 40)), 400, "dynamic"]
    assert found[0.25] == [175.0, 100, 200, "periodic"]
    assert bytes_by_level(rows[:2])[1] == []


def test_no_benefit_no_share_of_it():
    rows = [row("periodic", 10, 10.0), row("none", 0, 9.0)]
    add_grades(rows)
    assert loss_at(rows, 0.5) is None
    assert [one["benefit_kept"] for one in rows] == [None, None]
    assert loss_at(rows[:1], 0.5) is None
