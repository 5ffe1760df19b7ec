"""Spectral sampling, energy, power iteration and projections against linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import error_feedback, low_rank
from fedjax_comp.compress.low_rank.factors import randomized_low_rank
from fedjax_comp.compress.low_rank.power_sgd import power_sgd
from fedjax_comp.compress.low_rank.spectral import (
    energy_low_rank,
    inclusion_probabilities,
    spectral_sample,
    systematic_sample,
)
from fedjax_comp.compress.transform.projection import random_projection
from fedjax_comp.wire.accounting import message_bits, num_bits

CONTEXT = make_context(jax.random.key(0), 0)


def matrix_of(singular, m, n, seed=0):
    """A float32 matrix `[m, n]` with given singular values."""
    rng = np.random.default_rng(seed)
    r = len(singular)
    u = np.linalg.qr(rng.standard_normal((m, r)))[0]
    v = np.linalg.qr(rng.standard_normal((n, r)))[0]
    return jnp.asarray(u * np.asarray(singular) @ v.T, jnp.float32)


def error(compressor, x):
    payload, _ = compressor.encode(CONTEXT, x, compressor.init(x).sender)
    decoded, _ = compressor.decode(CONTEXT, payload, ())
    return float(np.sum((np.asarray(decoded, np.float64) - np.asarray(x)) ** 2))


@pytest.mark.parametrize(
    "s, count",
    [
        ([5.0, 3, 2, 1], 1),
        ([5.0, 3, 2, 1], 3),
        ([9.0, 1, 1, 1, 1], 3),
        ([1.0, 1, 1, 1], 4),
        ([4.0, 0, 0], 2),
        ([0.0, 0, 0], 1),
    ],
)
def test_probabilities_are_the_optimum_of_their_problem(s, count):
    p = np.asarray(inclusion_probabilities(jnp.asarray(s), count), np.float64)
    s = np.asarray(s)
    assert ((p >= 0) & (p <= 1)).all()
    if (s > 0).sum() >= count:
        np.testing.assert_allclose(p.sum(), count, rtol=1e-6)
    else:
        assert (p[s > 0] == 1).all()
    # The conditions of Karush, Kuhn and Tucker for min sum s^2/p, sum p = count: one
    # ratio s/p for all that are not certain, and none larger for those.
    inside = (s > 0) & (p < 1)
    if inside.any():
        ratios = s[inside] / p[inside]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
        assert (s[p == 1] >= ratios[0] * (1 - 1e-5)).all()


def test_positions_are_drawn_as_often_as_their_probabilities_say():
    p, draws = jnp.asarray([0.9, 0.0, 0.6, 0.5]), 20_000
    keys = jax.random.split(jax.random.key(1), draws)
    drawn = np.asarray(jax.vmap(lambda key: systematic_sample(key, p, 2))(keys))
    assert (drawn[:, 0] < drawn[:, 1]).all()
    share = (drawn[:, :, None] == np.arange(4)).any(axis=1).mean(axis=0)
    # Hoeffding: 0.02 is exceeded with probability 2 exp(-16) < 1e-6 each.
    np.testing.assert_allclose(share, p, atol=0.02)


def test_the_variance_of_spectral_sampling_is_that_of_its_probabilities():
    singular, rank, draws = [6.0, 3, 2, 1], 2, 4000
    x = matrix_of(singular, 12, 10)
    compressor = spectral_sample(rank)

    def one(key):
        context = make_context(key, 0)
        payload, _ = compressor.encode(context, x, ())
        return jnp.sum((compressor.decode(context, payload, ())[0] - x) ** 2)

    errors = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), draws))
    # Six is certain; the others share one draw.
    s, p = np.asarray([3.0, 2, 1]), np.asarray([3.0, 2, 1]) / 6
    expected = np.sum(s**2 * (1 / p - 1))
    # Errors lie in [0, 36]: Hoeffding with 1e-7.
    slack = 36 * np.sqrt(np.log(2e7) / (2 * draws))
    assert abs(float(jnp.mean(errors)) - expected) <= slack
    assert error(spectral_sample(2), matrix_of([3.0, 1], 12, 10)) <= 1e-8


@pytest.mark.parametrize("energy, rank", [(0.5, 1), (0.8, 2), (0.97, 3), (1.0, 3)])
def test_the_least_rank_with_the_energy_is_sent_and_paid_for(energy, rank):
    x = matrix_of([6.0, 4, 2, 1, 0.5], 12, 10)  # 36, 52, 56, 57 of 57.25
    compressor = energy_low_rank(energy, max_rank=3)
    payload, _ = compressor.encode(CONTEXT, x, ())
    # The counts are in [0, 36] and in [0, 30].
    assert message_bits(num_bits(payload)) == 6 + 5 + 32 * rank * (12 + 10)
    np.testing.assert_allclose(
        error(compressor, x), error(low_rank(rank), x), rtol=1e-3
    )
    zeros, _ = compressor.encode(CONTEXT, jnp.zeros((12, 10)), ())
    assert message_bits(num_bits(zeros)) == 6 + 5


def test_power_iteration_converges_to_the_truncated_svd():
    x = matrix_of([4.0, 3, 1, 0.5], 12, 10)
    compressor = power_sgd(2)
    sender, errors = compressor.init(x).sender, []
    for _ in range(12):
        payload, sender = compressor.encode(CONTEXT, x, sender)
        decoded, _ = compressor.decode(CONTEXT, payload, ())
        errors.append(float(jnp.sum((decoded - x) ** 2)))
    np.testing.assert_allclose(errors[-1], 1 + 0.25, rtol=1e-3)
    assert errors[0] >= errors[-1]
    # The singular values' gap is 3: an iteration gains a factor of 9.
    assert errors[4] - 1.25 <= 1e-2


def test_power_sgd_survives_zeros_and_keeps_the_subspace():
    x = matrix_of([4.0, 1], 12, 10)
    compressor = power_sgd(2)
    _, sender = compressor.encode(CONTEXT, x, compressor.init(x).sender)
    _, after = compressor.encode(CONTEXT, jnp.zeros_like(x), sender)
    np.testing.assert_array_equal(after[0], sender[0])
    payload, _ = compressor.encode(CONTEXT, 1e-25 * x, after)
    decoded, _ = compressor.decode(CONTEXT, payload, ())
    np.testing.assert_allclose(decoded * 1e25, x, atol=1e-4)
    memory = error_feedback(power_sgd(2)).init({"w": x, "b": jnp.ones(3)}).sender
    assert [q.shape for q in memory.sender] == [(10, 2)]


@pytest.mark.thorough
def test_a_random_subspace_with_power_iterations_is_near_the_best():
    x = matrix_of(2.0 ** -np.arange(10), 30, 20)
    best = error(low_rank(3), x)
    # Halko, Martinsson and Tropp: within a few per cent for a spectrum that halves.
    ratio = error(randomized_low_rank(3, power_iterations=2), x) / best
    assert 1 - 1e-5 <= ratio <= 1.05
    exact = matrix_of([3.0, 2, 1], 30, 20)
    assert error(randomized_low_rank(3, power_iterations=0), exact) <= 1e-8


def test_a_projection_is_exact_inside_its_subspace():
    compressor = random_projection(3)
    x = matrix_of([3.0, 2, 1, 1, 1], 12, 10)
    payload, _ = compressor.encode(CONTEXT, x, ())
    inside, _ = compressor.decode(CONTEXT, payload, ())
    again, _ = compressor.encode(CONTEXT, inside, ())
    np.testing.assert_allclose(again.parts[0], payload.parts[0], atol=1e-5)
    assert np.linalg.matrix_rank(np.asarray(inside), tol=1e-4) == 3
    # Nothing of what was lost lies inside.
    assert abs(float(jnp.sum((x - inside) * inside))) <= 1e-4


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: power_sgd(0), "Expected rank=0 >= 1"),
        (lambda: spectral_sample(0), "Expected rank=0 >= 1"),
        (lambda: random_projection(0), "Expected rank=0 >= 1"),
        (lambda: energy_low_rank(0, max_rank=1), r"Expected energy=0 in \(0, 1\]"),
        (lambda: energy_low_rank(0.5, max_rank=0), "Expected max_rank=0 >= 1"),
        (lambda: randomized_low_rank(1, oversample=-1), "Expected oversample=-1 >= 0"),
    ],
)
def test_refusals_name_the_value(make, match):
    with pytest.raises(ValueError, match=match):
        make()
