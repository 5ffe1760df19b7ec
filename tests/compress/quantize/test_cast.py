"""Casts at the ends of their ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import to_dtype
from fedjax_comp.compress.quantize.cast import scale_exponent
from fedjax_comp.wire.accounting import num_bits

CONTEXT = make_context(jax.random.key(0), 0)
DTYPES = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16")


def send(compressor, x):
    payload, _ = compressor.encode(CONTEXT, x, ())
    return payload, np.asarray(compressor.decode(CONTEXT, payload, ())[0], np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("leaf", ["float32", "bfloat16"])
def test_overflow_saturates_and_nan_stays(dtype: str, leaf: str):
    x = jnp.asarray([3e38, -3e38, jnp.nan], leaf)
    decoded = send(to_dtype(dtype), x)[1]
    end = float(jnp.asarray(min(float(jnp.finfo(dtype).max), 3e38), dtype))
    np.testing.assert_allclose(decoded[:2], [end, -end], rtol=2.0**-7)
    assert np.isnan(decoded[2])


@pytest.mark.parametrize("dtype", [*DTYPES, "float4_e2m1fn"])
def test_a_scale_makes_the_error_relative(dtype: str):
    x = np.random.default_rng(0).uniform(1, 2, 200).astype(np.float32)
    for size in (1e-30, 1.0, 1e30):
        payload, decoded = send(to_dtype(dtype, scaled=True), jnp.asarray(x * size))
        error = 2.0 ** -(jnp.finfo(dtype).nmant + 2)
        # Near the lower end of its binade a number has half the precision.
        assert (
            np.abs(decoded / (x * np.float64(np.float32(size))) - 1).max() < 2 * error
        )
        assert num_bits(payload).fixed == 200 * jnp.finfo(dtype).bits + 8


@pytest.mark.parametrize("largest", [1.0, 6.0, 448.0])
@pytest.mark.parametrize("ratio", [0.25, 1.0, 1.0001, 1.9999, 2.0, 4.0])
def test_the_scale_is_the_least_that_fits(ratio: float, largest: float):
    x = jnp.asarray([0.0, -ratio * largest, largest / 8], jnp.float32)
    exponent = int(scale_exponent(x, largest))
    magnitude = float(jnp.max(jnp.abs(x)))
    assert 2.0 ** (exponent - 1) * largest < magnitude <= 2.0**exponent * largest


def test_a_dtype_without_nan_shows_it_by_the_exponent():
    x = jnp.asarray([1.0, jnp.nan])
    assert np.all(np.isnan(send(to_dtype("float4_e2m1fn", scaled=True), x)[1]))
    with pytest.raises(ValueError, match="use scaled=True"):
        to_dtype("float4_e2m1fn")


@pytest.mark.parametrize("scaled", [False, True])
def test_what_a_narrow_leaf_cannot_hold_is_brought_to_its_end(scaled):
    x = jnp.asarray([60_000, -65_504, 1], jnp.float16)
    _, decoded = send(to_dtype("bfloat16", scaled=scaled), x)
    np.testing.assert_allclose(decoded, [59_904, -65_504, 1], rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "scaled", "words"),
    [
        ("float8_e8m0fnu", False, "a sign and a zero"),
        ("float8_e8m0fnu", True, "a sign and a zero"),
        ("float64", True, "jax_enable_x64"),
    ],
)
def test_a_dtype_that_cannot_carry_numbers_is_refused(dtype, scaled, words):
    with pytest.raises(ValueError, match=words):
        to_dtype(dtype, scaled=scaled)
