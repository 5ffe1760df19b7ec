"""The shared grid: sums of integers, and rounding that a cohort does together."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import common_range
from fedjax_comp.compress.quantize.common_range import (
    correlated_uniform,
    decode_symbol_sum,
)

C = 8


def cohort_errors(compressor, x: np.ndarray, trials: int) -> np.ndarray:
    """Errors of the mean of `C` decoded messages: float64 `[trials, n]`."""

    def one(key):
        def client(rank, row):
            context = make_context(key, 100 + 7 * rank, rank=rank)
            payload, _ = compressor.encode(context, row, ())
            return compressor.decode(context, payload, ())[0]

        return jnp.mean(jax.vmap(client)(jnp.arange(C), jnp.asarray(x)), axis=0)

    keys = jax.random.split(jax.random.key(0), trials)
    mean = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
    return mean - x.astype(np.float64).mean(axis=0)


def test_places_are_a_permutation_of_the_cohort():
    u = jnp.stack(
        [
            correlated_uniform(
                make_context(jax.random.key(1), 50 + r, rank=r), (99,), cohort_size=C
            )
            for r in range(C)
        ]
    )
    places = np.sort(np.floor(np.asarray(u) * C), axis=0)
    np.testing.assert_array_equal(places, np.tile(np.arange(C)[:, None], (1, 99)))
    assert float(u.max()) < 1.0


def test_correlated_means_are_better_and_unbiased():
    n, trials, step = 64, 500, 0.5
    rng = np.random.default_rng(0)
    center = rng.uniform(-0.9, 0.9, n)
    x = (center + 0.02 * rng.standard_normal((C, n))).astype(np.float32)
    alone = cohort_errors(common_range(5, limit=1.0), x, trials)
    together = cohort_errors(common_range(5, limit=1.0, cohort_size=C), x, trials)
    for errors in (alone, together):
        # 6.5 standard errors for 64 coordinates twice: false alarm below 1e-6.
        bound = 6.5 * errors.std(0) / math.sqrt(trials) + 1e-6
        assert np.all(np.abs(errors.mean(0)) < bound)
    assert np.mean(together**2) < np.mean(alone**2) / 3
    # Bernoulli variances of independent rounding add up.
    t = (x.astype(np.float64) + 1) / step
    variance = step**2 * np.mean((t % 1) * (1 - t % 1)) / C
    assert abs(np.mean(alone**2) / variance - 1) < 0.1


def test_equal_clients_are_off_by_less_than_a_step_over_the_cohort():
    x = np.tile(np.random.default_rng(1).uniform(-1, 1, 50).astype(np.float32), (C, 1))
    errors = cohort_errors(common_range(5, limit=1.0, cohort_size=C), x, 100)
    assert np.abs(errors).max() < 0.5 / C + 1e-6


def test_symbols_add_before_they_are_decoded():
    grid, x = common_range(7, limit=3.0), np.random.default_rng(2).normal(size=(C, 20))
    payloads, decoded = [], 0.0
    for client in range(C):
        context = make_context(jax.random.key(2), client)
        payload, _ = grid.encode(context, jnp.asarray(x[client], jnp.float32), ())
        payloads.append(payload.parts[0].symbols.values.astype(jnp.int32))
        decoded += np.asarray(grid.decode(context, payload, ())[0], np.float64)
    summed = decode_symbol_sum(sum(payloads), C, levels=7, limit=3.0)
    np.testing.assert_allclose(summed, decoded, rtol=1e-6, atol=1e-5)


def test_beyond_the_range_is_clipped_and_nan_shows():
    grid, context = common_range(3, limit=1.0), make_context(jax.random.key(0), 0)
    payload, _ = grid.encode(context, jnp.asarray([5.0, -5.0]), ())
    assert grid.decode(context, payload, ())[0].tolist() == [1.0, -1.0]
    payload, _ = grid.encode(context, jnp.asarray([5.0, jnp.nan]), ())
    assert bool(jnp.all(jnp.isnan(grid.decode(context, payload, ())[0])))


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="levels=4 to be odd"):
        common_range(4, limit=1.0)
    with pytest.raises(ValueError, match="limit=0"):
        common_range(3, limit=0)
    with pytest.raises(ValueError, match="cohort_size=0"):
        common_range(3, limit=1.0, cohort_size=0)
