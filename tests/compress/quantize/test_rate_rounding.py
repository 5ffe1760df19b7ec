"""Levels of the least error and bits: against a search over all of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.quantize.rate_rounding import (
    DEAD_ZONE,
    cheapest_shape,
    rounded_for_rate,
    rounded_rows,
    rounding,
    token_bits,
)
from fedjax_comp.wire.codes.weibull import ROUNDED, SHAPES, weibull_tables

RNG = np.random.default_rng(0)
LEVELS = np.arange(-40, 41)


def costs(t, shape, sizes, weight):
    """Error and weighted bits of every level of `LEVELS`, `[m, levels]`."""
    tables = weibull_tables(DEAD_ZONE)
    z = np.where(LEVELS < 0, -2 * LEVELS - 1, 2 * LEVELS)
    token = np.minimum(z[None, :], tables.escapes[sizes][:, None])
    bits = token_bits(DEAD_ZONE)[shape][sizes[:, None], token].astype(np.float64)
    beyond = np.maximum(z[None, :] - token + 1, 1)
    escaped = z[None, :] >= tables.escapes[sizes][:, None]
    bits += np.where(escaped, 2 * np.floor(np.log2(beyond)) + 1, 0.0)
    return (t[:, None] - LEVELS) ** 2 + weight * bits


def drawn(sigma):
    sizes = np.full(4000, round(2 * np.log2(sigma)) - ROUNDED.least, np.int32)
    return sigma * RNG.laplace(size=4000) / np.sqrt(2), sizes


@pytest.mark.thorough
@pytest.mark.parametrize("sigma", [0.125, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weight", [0.0, 0.15])
def test_levels_are_nearly_the_best_of_all(sigma, weight):
    t, sizes = drawn(sigma)
    q, shape = rounded_for_rate(
        jnp.asarray(t, jnp.float32), jnp.asarray(sizes), 1, weight
    )
    cost = costs(t, int(shape), sizes, weight)
    places = np.arange(t.size)
    chosen = cost[places, np.asarray(q).astype(int) + 40].sum()
    assert chosen <= 1.01 * cost.min(axis=1).sum()
    if weight:
        for theta in (DEAD_ZONE, 0.5):
            other = np.sign(t) * np.floor(np.abs(t) + theta)
            assert chosen < cost[places, other.astype(int) + 40].sum()


def test_without_weight_it_is_the_nearest():
    t, sizes = drawn(2.0)
    q, _ = rounded_for_rate(jnp.asarray(t, jnp.float32), jnp.asarray(sizes), 1, 0.0)
    np.testing.assert_array_equal(q, np.round(t))


def test_a_step_is_never_lost_and_half_a_step_is_at_the_least():
    for weight in (0.0, 0.15, 1.0):
        threshold, offset = rounding(weight)
        assert threshold.min() >= 0.5
        assert threshold.max() <= 1.0
        assert offset.min() >= 0.0
        assert offset.max() <= 0.5
    assert np.all(rounding(0.3).threshold >= rounding(0.1).threshold)
    assert np.any(rounding(0.3).threshold > rounding(0.1).threshold)


def test_the_shape_is_the_one_of_the_fewest_bits():
    for name in ("1", "2", "8"):
        t = RNG.weibull(float(name), 3000) * RNG.choice([-1, 1], 3000) * 4
        q = np.floor(np.abs(t) + DEAD_ZONE)
        z = np.where((t < 0) & (q > 0), 2 * q - 1, 2 * q).astype(np.uint32)
        size = round(np.log2(np.mean(t**2))) - ROUNDED.least
        sizes = jnp.full(3000, size, jnp.int32)
        tables = weibull_tables(DEAD_ZONE)
        token = np.minimum(z >> tables.shifts[size], tables.escapes[size])
        bits = token_bits(DEAD_ZONE)[:, size][:, token].sum(axis=1)
        assert int(cheapest_shape(jnp.asarray(z), sizes)) == bits.argmin()
        assert abs(int(bits.argmin()) - SHAPES.index(name)) <= 1


def test_what_is_not_a_number_stays_visible():
    t = jnp.asarray([0.1, jnp.nan, jnp.inf, 3.0])
    q, _ = rounded_for_rate(t, jnp.full(4, 9, jnp.int32), 1, 0.15)
    assert not bool(jnp.any(jnp.isfinite(q[1:3])))


@pytest.mark.thorough
def test_many_matrices_at_once_are_each_as_alone():
    layout = [((3, 40), 1), ((1, 55), 1), ((5, 17), 2)]
    parts = [
        jnp.asarray(RNG.laplace(size=shape) * 2, jnp.float32) for shape, _ in layout
    ]
    sizes = [
        jnp.asarray(RNG.integers(5, 14, shape[0]), jnp.int32) for shape, _ in layout
    ]
    strides = [stride for _, stride in layout]
    q, shapes = rounded_rows(parts, jnp.concatenate(sizes), strides, 0.15)
    start = 0
    for part, size, stride, shape in zip(parts, sizes, strides, shapes, strict=True):
        each = jnp.repeat(size, part.shape[1])
        alone, own = rounded_for_rate(part.reshape(-1), each, stride, 0.15)
        np.testing.assert_array_equal(q[start : start + part.size], alone)
        assert int(shape) == int(own)
        start += part.size
    assert start == q.size
