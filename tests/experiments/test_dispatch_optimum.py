"""The exact assignment against a linear program, and the greedy one against it."""

import numpy as np
import pytest
from scipy.optimize import linprog

from experiments.data_dispatch.optimum import gap, greedy_gaps, optimal_assignment
from fedjax_comp.data.clusters import SizeBounds


def by_linear_program(costs, bounds, replication):
    """The vertices of the transportation polytope are assignments."""
    count, clusters = costs.shape
    rows = np.kron(np.eye(count), np.ones(clusters))
    columns = np.kron(np.ones(count), np.eye(clusters))
    found = linprog(
        costs.ravel(),
        A_ub=np.concatenate([columns, -columns]),
        b_ub=[bounds.upper] * clusters + [-bounds.lower] * clusters,
        A_eq=rows,
        b_eq=[replication] * count,
        bounds=(0, 1),
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize(
    ("bounds", "replication"),
    [
        (SizeBounds(6, 6), 1),
        (SizeBounds(3, 9), 1),
        (SizeBounds(0, 24), 1),
        (SizeBounds(12, 12), 2),
        (SizeBounds(9, 14), 2),
    ],
)
def test_it_is_the_optimum_of_the_linear_program(bounds, replication):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # Skewed, so that bounds bind and moves go over several clusters.
        costs = rng.exponential(size=(24, 4)) + np.array([0.0, 0.5, 1.0, 1.5])
        chosen = optimal_assignment(costs, bounds, replication=replication)
        assert (chosen.sum(1) == replication).all()
        assert (
            bounds.lower <= chosen.sum(0).min() <= chosen.sum(0).max() <= bounds.upper
        )
        best = by_linear_program(costs, bounds, replication)
        assert costs[chosen].sum() == pytest.approx(best, rel=1e-9)
        assert gap(costs, bounds, replication=replication) >= -1e-9


def test_greedy_moves_may_cost_more():
    gaps = [
        gap(np.random.default_rng(s).exponential(size=(40, 5)), SizeBounds(8, 8))
        for s in range(5)
    ]
    assert max(gaps) > 0.001


def test_gaps_are_told_for_what_can_be():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    rows = greedy_gaps(x, (4, 30), (1, 2, 5), seed=0)
    assert [(row["num_clients"], row["copies"]) for row in rows] == [
        (4, 1),
        (4, 1),
        (4, 2),
        (4, 2),
    ]
    assert all(0 <= row["mean_gap"] <= row["largest_gap"] for row in rows)
