"""Epsilon against closed forms, numerical integrals, and the library's references."""

import importlib.util
import math
import sys

import numpy as np
import pytest
from scipy import integrate, special, stats

from fedjax_comp.extras import MissingExtra
from fedjax_comp.privacy import accounting
from fedjax_comp.privacy.accounting import (
    ORDERS,
    cohort_epsilon,
    discrete_gaussian_zcdp,
    gaussian_delta,
    gaussian_epsilon,
    rdp_epsilon,
    skellam_rdp,
)

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs dp-accounting"
)


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 10.0])
def test_delta_is_the_hockey_stick_divergence(epsilon, noise_multiplier):
    """The integral that it is by definition."""
    one = stats.norm(1.0, noise_multiplier)
    zero = stats.norm(0.0, noise_multiplier)

    def excess(x):
        return max(0.0, one.pdf(x) - math.exp(epsilon) * zero.pdf(x))

    # The integrand begins where the densities' ratio is e^epsilon.
    start = 0.5 + epsilon * noise_multiplier**2
    expected, _ = integrate.quad(excess, start, start + 40 * noise_multiplier)
    ours = gaussian_delta(epsilon, noise_multiplier=noise_multiplier)
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("rounds", [1, 7, 1000])
@pytest.mark.parametrize("noise_multiplier", [0.5, 2.0, 30.0])
def test_epsilon_inverts_delta(noise_multiplier, rounds):
    for delta in (1e-2, 1e-5, 1e-9):
        epsilon = gaussian_epsilon(
            noise_multiplier=noise_multiplier, rounds=rounds, delta=delta
        )
        z = noise_multiplier / math.sqrt(rounds)
        if epsilon == 0:
            assert gaussian_delta(0.0, noise_multiplier=z) <= delta
        else:
            again = gaussian_delta(epsilon, noise_multiplier=z)
            assert again == pytest.approx(delta, rel=1e-3)


def test_limits():
    infinite = {"noise_multiplier": 0.0, "rounds": 1, "delta": 1e-5}
    assert gaussian_epsilon(**infinite) == math.inf
    assert gaussian_delta(3.0, noise_multiplier=0.0) == 1.0
    assert gaussian_delta(3.0, noise_multiplier=1e-300) == 1.0
    assert cohort_epsilon(**infinite, cohort_size=1, population=9) == math.inf
    assert gaussian_epsilon(noise_multiplier=1.0, rounds=0, delta=1e-5) == 0.0
    # Everybody in every round: replacement moves the sum by twice the clip.
    assert cohort_epsilon(
        noise_multiplier=3.0, rounds=5, delta=1e-6, cohort_size=4, population=4
    ) == gaussian_epsilon(noise_multiplier=1.5, rounds=5, delta=1e-6)


def test_renyi_divergences_by_hand():
    """A constant divergence is pure privacy; the library's test has the same number."""
    epsilon = rdp_epsilon(lambda a: 1.1, delta=1e-5, orders=range(2, 33))
    assert epsilon == pytest.approx(1.32783806176, abs=1e-11)


def test_renyi_accounting_is_above_the_exact_one_and_near():
    for z in (0.05, 0.3, 1.0, 3.0):  # the best orders are 1.2, 2.4, 6 and 15
        exact = gaussian_epsilon(noise_multiplier=z, rounds=1, delta=1e-5)
        bound = rdp_epsilon(lambda a, z=z: a / (2 * z * z), delta=1e-5)
        assert exact <= bound <= 1.15 * exact


@needs_library
def test_everybody_in_a_round_is_what_the_library_says():
    library = accounting.require_library()
    for z in (0.5, 1.0, 2.0, 10.0):
        theirs = library.get_epsilon_gaussian(z, 1e-5)
        ours = gaussian_epsilon(noise_multiplier=z, rounds=1, delta=1e-5)
        assert ours == pytest.approx(theirs, rel=1e-9)


@needs_library
def test_sampling_helps_and_epsilon_grows_with_rounds():
    common = {"noise_multiplier": 2.0, "delta": 1e-5, "cohort_size": 5}
    values = [
        cohort_epsilon(**common, rounds=rounds, population=population)
        for population, rounds in ((1000, 10), (1000, 100), (100, 100), (5, 100))
    ]
    assert values == sorted(values)
    assert values[0] < values[-1] / 5


@pytest.mark.thorough
@needs_library
@pytest.mark.parametrize("rounds", [1, 10, 200])
def test_a_larger_sample_is_never_more_private(rounds):
    """And none is less private than everybody in every round, of whom it is a part."""
    common = {"noise_multiplier": 2.0, "rounds": rounds, "delta": 1e-5}
    sizes = (1, 5, 20, 50, 70, 90, 99, 100)
    values = [
        cohort_epsilon(**common, cohort_size=size, population=100) for size in sizes
    ]
    assert values == sorted(values)
    everybody = gaussian_epsilon(noise_multiplier=1.0, rounds=rounds, delta=1e-5)
    assert values[0] < values[-1] == everybody


@needs_library
def test_a_cohort_of_one_half_is_not_below_what_an_attack_shows():
    """A mixture over one coin's outcome: no bound may be below its true delta."""
    z, delta = 2.0, 1e-3
    epsilon = cohort_epsilon(
        noise_multiplier=z, rounds=1, delta=delta, cohort_size=1, population=2
    )
    # The other client sends 0; this one +1 or, replaced, -1; it is drawn half the time.
    x = np.linspace(-40, 40, 400_001)
    here, there, none = (stats.norm.pdf(x, m, z) for m in (1.0, -1.0, 0.0))
    one, two = (here + none) / 2, (there + none) / 2
    true = np.trapezoid(np.maximum(0, one - math.exp(epsilon) * two), x)
    assert true <= delta


def renyi(order, pmf, shift):
    """The divergence of a distribution on integers from itself shifted."""
    logs = np.log(pmf[pmf > 1e-290])
    terms = order * logs[shift:] + (1 - order) * logs[:-shift]
    return special.logsumexp(terms) / (order - 1)


@pytest.mark.parametrize("variance", [4.0, 50.0, 400.0])
def test_the_skellam_bound_holds_and_is_near_in_one_dimension(variance):
    k = np.arange(-400, 401)
    pmf = stats.skellam.pmf(k, variance / 2, variance / 2)
    for order in (2, 3, 8):
        for shift in (1, 2, 5):
            exact = renyi(order, pmf, shift)
            bound = skellam_rdp(
                order, l2=float(shift), l1=float(shift), variance=variance
            )
            assert exact <= bound * (1 + 1e-6)
            if variance >= 50 and order < 8:
                assert bound <= 1.15 * exact


@pytest.mark.parametrize(("stddev", "parties"), [(0.5, 2), (0.7, 4), (1.0, 3), (3, 10)])
def test_the_bound_for_sums_of_discrete_gaussians_holds(stddev, parties):
    k = np.arange(-60, 61)
    one = np.exp(-(k**2) / (2 * stddev**2))
    one /= one.sum()
    total = np.ones(1)
    for _ in range(parties):
        total = np.convolve(total, one)
    rho = discrete_gaussian_zcdp(l2=1.0, stddev=stddev, parties=parties, n=1)
    for order in (1.5, 2, 4):
        exact = renyi(order, total, 1)
        assert exact <= rho * order * (1 + 1e-9)
        if stddev >= 1:
            assert rho * order <= 1.01 * exact


def test_without_the_library_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtra, match=r"fedjax_comp\[privacy\]"):
        cohort_epsilon(
            noise_multiplier=1.0, rounds=1, delta=1e-5, cohort_size=3, population=6
        )
    # Where everybody takes part nothing is needed.
    assert cohort_epsilon(
        noise_multiplier=1.0, rounds=1, delta=1e-5, cohort_size=3, population=3
    ) == pytest.approx(9.997256146434315)


def test_mistakes():
    good = {"noise_multiplier": 1.0, "rounds": 1, "delta": 1e-5}
    for bad, message in (
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"rounds": -1}, "rounds"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
    ):
        with pytest.raises(ValueError, match=message):
            gaussian_epsilon(**{**good, **bad})
    for epsilon, z, message in ((-1.0, 1.0, "epsilon"), (1.0, -1.0, "noise_mult")):
        with pytest.raises(ValueError, match=message):
            gaussian_delta(epsilon, noise_multiplier=z)
    with pytest.raises(ValueError, match="cohort_size"):
        cohort_epsilon(**good, cohort_size=5, population=4)
    assert min(ORDERS) > 1
