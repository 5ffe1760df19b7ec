"""Rounding to powers of two against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import natural_compression, natural_dithering, nuqsgd
from fedjax_comp.wire.accounting import num_bits

CONTEXT = make_context(jax.random.key(0), 0)
X = np.random.default_rng(0).standard_normal(4000).astype(np.float32)


def send(compressor, x):
    payload, _ = compressor.encode(CONTEXT, jnp.asarray(x), ())
    return payload, np.asarray(compressor.decode(CONTEXT, payload, ())[0], np.float64)


def test_natural_numbers_are_the_two_powers_around():
    payload, decoded = send(natural_compression(), X)
    low = np.exp2(np.floor(np.log2(np.abs(X.astype(np.float64)))))
    ratio = decoded / np.copysign(low, X)
    assert set(ratio) == {1.0, 2.0}
    assert num_bits(payload).fixed == 9 * X.size


def test_natural_ends_of_the_range():
    ends = [0.0, 2.0**127, 3e38, -3e38, np.inf, -np.inf]
    decoded = send(natural_compression(), np.asarray(ends, np.float32))[1]
    expected = [0.0, 2.0**127, 2.0**127, -(2.0**127), np.inf, -np.inf]
    np.testing.assert_array_equal(decoded, expected)
    assert not np.isfinite(send(natural_compression(), np.float32([np.nan]))[1])


@pytest.mark.thorough
@pytest.mark.parametrize("levels", [1, 2, 8, 126])
def test_dithering_rounds_to_a_level_beside(levels: int):
    x = X[:50]
    payload, decoded = send(natural_dithering(levels), x)
    t = np.abs(x.astype(np.float64)) / np.linalg.norm(x.astype(np.float64))
    grid = np.concatenate([[0.0], 2.0 ** np.arange(1 - levels, 1)])
    above = np.searchsorted(grid, t)
    got = np.abs(decoded) / np.linalg.norm(x.astype(np.float64))
    beside = np.minimum(abs(got - grid[above]), abs(got - grid[above - 1]))
    assert np.all(beside <= 1e-5 * got)
    assert payload.parts[0].symbols.cardinality == 2 * levels + 1


def test_exact_powers_of_the_norm_stay():
    # 1/2 four times: a norm of 1 and every coordinate a level.
    x = np.float32([0.5, -0.5, 0.5, -0.5])
    np.testing.assert_array_equal(send(natural_dithering(4), x)[1], x)


@pytest.mark.thorough
def test_nuqsgd_is_natural_dithering_with_one_level_more():
    np.testing.assert_array_equal(
        send(nuqsgd(3), X)[1], send(natural_dithering(4), X)[1]
    )
    with pytest.raises(ValueError, match="levels=126"):
        nuqsgd(126)
