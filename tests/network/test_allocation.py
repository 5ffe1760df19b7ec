"""Water-filling against scipy's optimiser, the knapsack against all choices."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from fedjax_comp.network.allocation import layer_knapsack, water_filling


def distortion(a, rates):
    return float(np.sum(a * 4.0**-rates))


@pytest.mark.parametrize("seed", range(8))
def test_water_filling_is_the_optimum(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 7))
    a = random.lognormal(0, 2, count)
    caps = random.uniform(0.2, 5, count)
    total = float(random.uniform(0.1, 1.0) * caps.sum())
    rates = water_filling(a, caps, total)
    assert rates.sum() == pytest.approx(total)
    assert (rates >= 0).all()
    assert (rates <= caps + 1e-12).all()
    # In units in which the objective is of order 1, from an allowed start.
    scale = a.max()
    found = minimize(
        lambda r: np.sum(a / scale * 4.0**-r),
        caps * total / caps.sum(),
        jac=lambda r: -np.log(4) * a / scale * 4.0**-r,
        bounds=[(0, cap) for cap in caps],
        constraints={"type": "ineq", "fun": lambda r: total - r.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    assert distortion(a, rates) == pytest.approx(scale * found.fun, rel=1e-6)


def test_water_filling_at_its_limits():
    caps = np.array([1.0, 2.0, 0.0])
    a = np.array([1.0, 5.0, 2.0])
    assert water_filling(a, caps).tolist() == caps.tolist()
    assert water_filling(a, caps, 0.0).tolist() == [0.0, 0.0, 0.0]
    # Bits are no use to a client that counts nothing.
    assert water_filling(np.array([0.0, 1.0]), np.ones(2), 1.5).tolist() == [0.0, 1.0]
    assert water_filling(np.zeros(2), np.ones(2), 1.0).tolist() == [0.0, 0.0]
    for arguments in ((-a, caps, 1.0), (a, -caps, 1.0), (a, caps, -1.0)):
        with pytest.raises(ValueError, match="at least 0"):
            water_filling(*arguments)


@pytest.mark.parametrize("seed", range(6))
def test_knapsack_is_the_best_of_all_choices(seed):
    random = np.random.default_rng(seed)
    layers, options = 4, 3
    # Whole errors that divide the steps: nothing is rounded, so the optimum is exact.
    errors = random.integers(0, 20, (layers, options)).astype(float)
    sizes = random.integers(1, 50, (layers, options)).astype(float)
    allowed = float(errors.min(axis=1).sum() + random.integers(0, 15))
    rows = np.arange(layers)
    best = min(
        sizes[rows, list(choice)].sum()
        for choice in itertools.product(range(options), repeat=layers)
        if errors[rows, list(choice)].sum() <= allowed
    )
    picks = layer_knapsack(errors, sizes, allowed, steps=max(1, int(allowed)))
    assert sizes[rows, picks].sum() == best
    assert errors[rows, picks].sum() <= allowed


def test_knapsack_never_exceeds_what_is_allowed():
    random = np.random.default_rng(0)
    for _ in range(20):
        errors, sizes = random.random((5, 4)), random.random((5, 4))
        allowed = errors.min(axis=1).sum() * 1.2 + 0.01
        picks = layer_knapsack(errors, sizes, allowed, steps=1000)
        assert errors[np.arange(5), picks].sum() <= allowed * (1 + 1e-9)
    with pytest.raises(ValueError, match="least error"):
        layer_knapsack(errors, sizes, errors.min(axis=1).sum() * 0.5)
    with pytest.raises(ValueError, match="steps=0"):
        layer_knapsack(errors, sizes, 1.0, steps=0)
    with pytest.raises(ValueError, match=r"\[L, R\]"):
        layer_knapsack(errors, sizes[:1], 1.0)
