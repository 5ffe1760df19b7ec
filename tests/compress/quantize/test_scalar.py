"""Quantizers against their formulas in float64, limits, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import qsgd, scaled_sign, stochastic_quantize
from fedjax_comp.compress.quantize.scalar import euclidean_norm, symbols_of

CONTEXT = make_context(jax.random.key(0), 0)
X = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)


def message(compressor, x):
    payload, _ = compressor.encode(CONTEXT, jnp.asarray(x), ())
    decoded = compressor.decode(CONTEXT, payload, ())[0]
    return payload.parts[0], np.asarray(decoded, np.float64)


@pytest.mark.thorough
@pytest.mark.parametrize("levels", [2, 3, 256, 257, 65536])
def test_uniform_levels(levels: int):
    step = (X.max().astype(np.float64) - X.min()) / (levels - 1)
    rounding = 1e-6 * np.abs(X).max()  # of a few float32 operations
    for how, slack in (("nearest", 0.5), ("stochastic", 1.0)):
        part, decoded = message(stochastic_quantize(levels, rounding=how), X)
        assert part.symbols.cardinality == levels
        assert np.abs(decoded - X).max() <= slack * step + rounding
        multiples = (decoded - X.min()) / step
        assert np.abs(multiples - np.round(multiples)).max() * step <= rounding
        # The ends of the range are levels, so they are exact.
        assert abs(decoded.max() - X.max()) <= rounding
        assert abs(decoded.min() - X.min()) <= rounding


def test_a_constant_leaf_is_exact_at_any_number_of_levels():
    _, decoded = message(stochastic_quantize(2), np.full(5, 0.1, np.float32))
    np.testing.assert_array_equal(decoded, np.full(5, np.float32(0.1), np.float64))


@pytest.mark.parametrize("levels", [1, 2, 100, 32767])
def test_qsgd_levels_and_signs(levels: int):
    part, decoded = message(qsgd(levels), X)
    unit = np.linalg.norm(X.astype(np.float64)) / levels
    assert part.symbols.cardinality == 2 * levels + 1
    assert np.abs(decoded - X).max() <= unit * (1 + 1e-3)
    multiples = decoded / unit
    np.testing.assert_allclose(multiples, np.round(multiples), atol=0.01)
    assert np.all(decoded * X >= 0)


def test_qsgd_numbers_small_magnitudes_first():
    part, _ = message(qsgd(1), np.array([0.0, 5.0, 0.0], np.float32))
    assert part.symbols.values.tolist() == [0, 2, 0]
    part, _ = message(qsgd(1), np.array([0.0, -5.0, 0.0], np.float32))
    assert part.symbols.values.tolist() == [0, 1, 0]


def test_sign_sends_the_mean_magnitude():
    part, decoded = message(scaled_sign(), X)
    scale = np.abs(X.astype(np.float64)).mean()
    np.testing.assert_allclose(decoded, np.where(X >= 0, scale, -scale), rtol=1e-6)
    assert part.symbols.cardinality == 2
    # ||C(x) - x||^2 = ||x||^2 - ||x||_1^2 / n
    identity = np.sum(X.astype(np.float64) ** 2) - X.size * scale**2
    np.testing.assert_allclose(np.sum((decoded - X) ** 2), identity, rtol=1e-5)


def test_norm_neither_underflows_nor_overflows():
    for scale in (1e-35, 1.0, 1e35):
        x = jnp.asarray([3.0, 4.0], jnp.float32) * scale
        np.testing.assert_allclose(float(euclidean_norm(x)), 5.0 * scale, rtol=1e-5)
    assert float(euclidean_norm(jnp.zeros(3))) == 0.0


@pytest.mark.parametrize(
    "cardinality, dtype",
    [
        (2, "uint8"),
        (256, "uint8"),
        (257, "uint16"),
        (65536, "uint16"),
        (65537, "uint32"),
    ],
)
def test_symbols_take_the_smallest_dtype(cardinality: int, dtype: str):
    field = symbols_of(jnp.asarray([0.0, cardinality - 1.0]), cardinality)
    assert field.values.dtype == dtype
    assert field.values.tolist() == [0, cardinality - 1]


def test_symbols_are_symbols_whatever_comes_in():
    numbers = jnp.asarray([-3.0, 300.0, jnp.nan, jnp.inf, -jnp.inf])
    assert symbols_of(numbers, 5).values.tolist() == [0, 4, 0, 4, 0]


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected levels=1 in \[2, 65536\]\."):
        stochastic_quantize(1)
    with pytest.raises(ValueError, match=r"levels=2\.5, an integer"):
        stochastic_quantize(2.5)
    with pytest.raises(ValueError, match="levels=True"):
        stochastic_quantize(True)
    with pytest.raises(ValueError, match="rounding='up'"):
        stochastic_quantize(4, rounding="up")
    with pytest.raises(ValueError, match="Expected levels=0 in"):
        qsgd(0)
