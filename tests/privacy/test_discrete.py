"""Noise on integers against its own definition."""

import decimal
import itertools
import math
import os

import numpy as np
import pytest
from scipy import stats

from fedjax_comp.privacy import discrete

ALARM = 1e-7
"""A dozen tests at this level: fewer than 1 of 10^6 runs raise a false alarm."""


def table_probabilities(kind, parameter):
    low, thresholds = discrete._table(kind, parameter)
    edges = [0, *thresholds.tolist(), 1 << 63]
    return low, [b - a for a, b in itertools.pairwise(edges)]


def exact_gaussian(stddev, low, count):
    """Weights in 60 digits, over a range twice as wide as the table's."""
    variance = decimal.Decimal(stddev) ** 2
    values = [
        (-(decimal.Decimal(k) ** 2) / (2 * variance)).exp()
        for k in range(low - count, low + 2 * count)
    ]
    total = sum(values)
    return [v / total for v in values], count


def exact_poisson(mean, low, count):
    mean = decimal.Decimal(mean)
    high = low + 2 * count
    pmf, values = (-mean).exp(), []
    for k in range(high):
        values.append(pmf)
        pmf = pmf * mean / (k + 1)
    return values, low


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [("gaussian", 0.3), ("gaussian", 7.5), ("poisson", 0.01), ("poisson", 900.0)],
)
def test_the_table_is_within_its_stated_total_variation(kind, parameter):
    low, table = table_probabilities(kind, parameter)
    assert sum(table) == 1 << 63
    with decimal.localcontext(prec=60):
        exact_of = {"gaussian": exact_gaussian, "poisson": exact_poisson}[kind]
        exact, start = exact_of(parameter, low, len(table))
        inside = exact[start : start + len(table)]
        off = sum(
            abs(decimal.Decimal(t) / (1 << 63) - p)
            for t, p in zip(table, inside, strict=True)
        )
        outside = 1 - sum(inside)
    assert float(off + abs(outside)) / 2 < 1e-12


@pytest.mark.parametrize("stddev", [0.5, 4.0])
def test_discrete_gaussian_counts(stddev):
    k = np.arange(-100, 101)
    weights = np.exp(-(k**2) / (2 * stddev**2))
    exact = dict(zip(k.tolist(), (weights / weights.sum()).tolist(), strict=True))
    samples = discrete.discrete_gaussian(os.urandom, 1 << 17, stddev=stddev)
    assert fits(samples, exact)
    assert not fits(samples + 1, exact)
    assert not fits(2 * samples, exact)


@pytest.mark.parametrize("stddev", [0.01, 1e-170, 5e-324])
def test_a_tiny_deviation_is_no_noise(stddev):
    with np.errstate(divide="raise", invalid="raise"):
        samples = discrete.discrete_gaussian(os.urandom, 1000, stddev=stddev)
    assert not samples.any()


@pytest.mark.parametrize("variance", [0.5, 30.0])
def test_skellam_counts(variance):
    k = np.arange(-100, 101)
    pmf = stats.skellam.pmf(k, variance / 2, variance / 2)
    exact = dict(zip(k.tolist(), pmf.tolist(), strict=True))
    samples = discrete.skellam(os.urandom, 1 << 17, variance=variance)
    assert fits(samples, exact)
    assert not fits(np.abs(samples), exact)


def fits(samples, exact):
    """Chi-square of counts against a pmf, values with few expected joined to one."""
    counts = np.array([np.count_nonzero(samples == k) for k in exact])
    expected = samples.size * np.array(list(exact.values()))
    common = expected >= 20
    rest = samples.size - counts[common].sum(), samples.size - expected[common].sum()
    observed = np.append(counts[common], rest[0])
    wanted = np.append(expected[common], max(rest[1], 1.0))
    chi_square = np.sum((observed - wanted) ** 2 / wanted)
    return chi_square < stats.chi2.isf(ALARM, common.sum())


DRAWS = 1 << 20


def has_variance(samples, variance):
    """Of n draws, |mean square / v - 1| < 6 sqrt((2 + 1 / v) / n): 0.9 %."""
    spread = math.sqrt((2 + 1 / variance) / samples.size)
    return abs(np.mean(samples.astype(np.float64) ** 2) / variance - 1) < 6 * spread


@pytest.mark.parametrize("variance", [30.0, 1e8])
def test_skellam_has_its_variance_to_one_percent(variance):
    samples = discrete.skellam(os.urandom, DRAWS, variance=variance)
    assert abs(samples.mean()) < 6 * math.sqrt(variance / DRAWS)
    assert has_variance(samples, variance)
    for factor in (0.98, 1.02):
        other = discrete.skellam(os.urandom, DRAWS, variance=factor * variance)
        assert not has_variance(other, variance)


def test_a_discrete_gaussian_has_its_deviation_to_one_percent():
    """From 4 on its variance is the square of `stddev` to sixty digits."""
    samples = discrete.discrete_gaussian(os.urandom, DRAWS, stddev=4.0)
    assert has_variance(samples, 16.0)
    for factor in (0.99, 1.01):
        other = discrete.discrete_gaussian(os.urandom, DRAWS, stddev=4.0 * factor)
        assert not has_variance(other, 16.0)


def test_sums_of_skellam_are_skellam():
    parts = [discrete.skellam(os.urandom, 1 << 15, variance=1.5) for _ in range(4)]
    k = np.arange(-40, 41)
    pmf = stats.skellam.pmf(k, 3.0, 3.0)
    assert fits(sum(parts), dict(zip(k.tolist(), pmf.tolist(), strict=True)))


def test_mistakes():
    for arguments, message in (
        ({"n": -1, "stddev": 1.0}, "n=-1"),
        ({"n": 1, "stddev": 0.0}, "stddev=0.0"),
        ({"n": 1, "stddev": 1e6}, "stddev=1000000.0"),
    ):
        with pytest.raises(ValueError, match=message):
            discrete.discrete_gaussian(os.urandom, **arguments)
    with pytest.raises(ValueError, match="variance"):
        discrete.skellam(os.urandom, 1, variance=-1.0)
