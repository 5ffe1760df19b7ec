"""Noise that an epsilon takes, and epsilon of noise on integers, against oracles."""

import importlib.util
import math

import numpy as np
import pytest

from fedjax_comp.privacy.accounting import (
    cohort_epsilon,
    gaussian_epsilon,
    rdp_epsilon,
)
from fedjax_comp.privacy.solving import distributed_epsilon, least_noise, sampled_rdp
from fedjax_comp.privacy.traced_noise import client_noise

N = 500

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs dp-accounting"
)


def exact(rho, order, share):
    """Theorem 9 in Python integers and floats, without logarithms."""
    total = 1 + share**2 * math.comb(order, 2) * min(
        4 * (math.exp(2 * rho) - 1), 2 * math.exp(2 * rho)
    )
    for j in range(3, order + 1):
        total += share**j * math.comb(order, j) * 2 * math.exp((j - 1) * j * rho)
    return min(math.log(total) / (order - 1), rho * order)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("order", [2, 3, 17])
@pytest.mark.parametrize("rho", [0.0, 1e-3, 0.5])
def test_theorem_9(rho, order, share):
    got = sampled_rdp(lambda a: rho * a, order, share=share)
    assert got == pytest.approx(exact(rho, order, share), rel=1e-9, abs=1e-12)


def test_everybody_in_every_round_is_concentrated_privacy():
    noise = client_noise(clip=1.0, noise_multiplier=6.0, fewest=5, n=N)
    everyone = {"delta": 1e-6, "cohort_size": 7, "population": 7}
    got = distributed_epsilon(noise, n=N, fewest=5, rounds=3, **everyone)
    ratio = 2 * noise.rounding(N).bound / (math.sqrt(5) * noise.stddev)
    # Noise this wide leaves nothing of the correction for sums of discrete Gaussians.
    expected = rdp_epsilon(lambda a: 3 * a * ratio**2 / 2, delta=1e-6)
    assert got == pytest.approx(expected, rel=1e-9)
    # Rényi orders lose a little against the exact Gaussian, rounding almost nothing.
    continuous = gaussian_epsilon(noise_multiplier=3.0, rounds=3, delta=1e-6)
    assert continuous < got < 1.15 * continuous


@pytest.mark.parametrize("z", [0.7, 3.0, 40.0])
def test_a_sample_never_costs_more_than_everybody(z):
    noise = client_noise(clip=1.0, noise_multiplier=z, fewest=5, n=N)
    given = {"n": N, "fewest": 5, "rounds": 7, "delta": 1e-5, "population": 20}
    got = [
        distributed_epsilon(noise, cohort_size=size, **given)
        for size in (5, 10, 19, 20)
    ]
    assert max(got) == got[-1] > 0


@needs_library
@pytest.mark.parametrize(("cohort", "z"), [(20, 2.0), (100, 4.0)])
def test_samples_cost_what_the_library_s_gaussian_does(cohort, z):
    """Theorem 9 is the general form of the library's theorem 27: never below it."""
    noise = client_noise(clip=1.0, noise_multiplier=z, fewest=cohort, n=N)
    setting = {"rounds": 50, "delta": 1e-5, "cohort_size": cohort, "population": 1000}
    ours = distributed_epsilon(noise, n=N, fewest=cohort, **setting)
    library = cohort_epsilon(noise_multiplier=z, **setting)
    assert library <= ours < 1.15 * library


def test_the_least_noise_is_enough_and_no_less_would_be():
    setting = {"rounds": 10, "delta": 1e-5, "cohort_size": 9, "population": 9}

    def epsilon_of(z):
        return cohort_epsilon(noise_multiplier=z, **setting)

    for epsilon in (0.3, 2.0, 30.0):
        z = least_noise(epsilon_of, epsilon)
        assert epsilon_of(z) <= epsilon < epsilon_of(0.998 * z)


@pytest.mark.thorough
@needs_library
def test_a_part_of_the_clients_never_takes_more_noise_than_all():
    setting = {"rounds": 10, "delta": 1e-5, "population": 100}
    solved = [
        least_noise(
            lambda z, size=size: cohort_epsilon(
                noise_multiplier=z, cohort_size=size, **setting
            ),
            2.0,
        )
        for size in (10, 50, 90, 100)
    ]
    assert solved == sorted(solved)


def test_out_of_reach_and_mistakes():
    with pytest.raises(ValueError, match="epsilon=2 to be in reach"):
        least_noise(lambda z: 3.0, 2.0)
    with pytest.raises(ValueError, match="epsilon=0"):
        least_noise(lambda z: 3.0, 0.0)
    noise = client_noise(clip=1.0, noise_multiplier=0.0, fewest=5, n=N)
    given = {"delta": 1e-6, "cohort_size": 7, "population": 7}
    assert distributed_epsilon(noise, n=N, fewest=5, rounds=1, **given) == np.inf
    assert distributed_epsilon(noise, n=N, fewest=5, rounds=0, **given) == 0


@pytest.mark.parametrize(
    "wrong", [{"cohort_size": 11}, {"cohort_size": 0}, {"fewest": 8}, {"fewest": 0}]
)
def test_a_cohort_is_of_the_population_and_noise_of_the_cohort(wrong):
    noise = client_noise(clip=1.0, noise_multiplier=8.0, fewest=5, n=N)
    given = {"fewest": 5, "cohort_size": 7, "population": 10} | wrong
    (name,) = wrong
    with pytest.raises(ValueError, match=f"Expected {name}="):
        distributed_epsilon(noise, n=N, rounds=1, delta=1e-5, **given)
