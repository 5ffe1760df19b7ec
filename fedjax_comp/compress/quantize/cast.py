"""Casts to dtypes of fewer bits.

The eight-bit dtypes are those of Micikevicius et al., "FP8 formats for deep learning",
2022: float8_e4m3fn reaches 448 and float8_e5m2 reaches 57344.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.wire.fields import Raw

_NOT_FINITE = -128  # in the place of an exponent


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    """An array in another dtype, as multiples of a power of two.

    Attributes:
      values: the numbers.
      exponent: of the power, int8; -128 when some number was not finite.
    """

    values: Raw
    exponent: Raw


def scale_exponent(x: jax.Array, largest: float) -> jax.Array:
    """The least `e` in [-126, 126] for which `max |x| <= 2**e largest`, int8.

    >>> int(scale_exponent(jnp.array([3.0, -5.0]), 1.0))
    3
    >>> int(scale_exponent(jnp.array([jnp.nan]), 1.0))
    -128
    """
    magnitude = jnp.max(jnp.abs(x))
    # Mantissas are divided and exponents subtracted: the ratio of the numbers may be
    # below the range of float32.
    top, top_exponent = math.frexp(largest)
    mantissa, exponent = jnp.frexp(jnp.where(magnitude > 0, magnitude, largest))
    above = (mantissa > np.float32(top)).astype(jnp.int32)
    inside = jnp.clip(exponent - top_exponent + above, -126, 126)
    return jnp.where(jnp.isfinite(magnitude), inside, _NOT_FINITE).astype(jnp.int8)


def _within(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` in a dtype, what is finite and beyond it at its end."""
    largest = float(jnp.finfo(dtype).max)
    if largest < float(jnp.finfo(x.dtype).max):
        if jnp.finfo(x.dtype).bits < 32:  # it would round `largest` itself
            x = x.astype(jnp.float32)
        x = jnp.where(jnp.isfinite(x), jnp.clip(x, -largest, largest), x)
    return x.astype(dtype)


def to_dtype(dtype: jax.typing.DTypeLike, *, scaled: bool = False) -> Compressor:
    """Rounds every open leaf to a float dtype and closes it.

    The error of a coordinate in the dtype's range is at most `2**-p` of it, `p` the
    significant bits (8 for bfloat16, 11 for float16, 4 for float8_e4m3fn, 3 for
    float8_e5m2). A finite number beyond the dtype's range becomes the end of the range;
    infinities and NaN stay visible. Numbers below the range become zeros: updates of
    0.001 are lost in float8_e4m3fn, which `scaled` is there to prevent.

    Args:
      dtype: of the numbers on the wire, e.g. `"bfloat16"`.
      scaled: whether each leaf is first divided by the power of two that brings its
        largest magnitude to the upper end of the range; eight more bits a leaf. With
        `blockwise(32, ...)` around it these are the microscaling formats.

    Returns:
      A stateless `Compressor`; what it decodes has the dtype that was encoded.

    Raises:
      ValueError: when `dtype` is not a float dtype with a sign and a zero, is float64
        where jax has none, or has no NaN and is not scaled: a broken update would look
        like a sound one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = to_dtype("bfloat16").encode(context, jnp.array([1.001]), ())
      >>> payload.parts[0].values.dtype.name
      'bfloat16'
      >>> to_dtype("bfloat16").decode(context, payload, ())[0]
      Array([1.], dtype=float32)
    """
    try:
        wire_dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"Expected dtype={dtype!r}, a float dtype's name.") from None
    if not jnp.issubdtype(wire_dtype, jnp.floating):
        raise ValueError(f"Expected dtype={dtype!r}, a float dtype's name.")
    largest = float(jnp.finfo(wire_dtype).max)
    if wire_dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(f"Expected dtype={dtype!r} only with jax_enable_x64.")
    signed = jnp.asarray([-1.0, 0.0], jnp.float32).astype(wire_dtype)
    if not np.array_equal(np.asarray(signed, np.float32), [-1.0, 0.0]):
        raise ValueError(f"Expected dtype={dtype!r} with a sign and a zero.")
    if not scaled and not bool(jnp.isnan(jnp.asarray(jnp.nan, wire_dtype))):
        raise ValueError(
            f"Expected dtype={dtype!r} with a NaN to show broken numbers by; use "
            "scaled=True, which shows them by its exponent."
        )

    def encode(context: Context, x: jax.Array) -> Raw | Scaled:
        del context
        if jnp.finfo(x.dtype).bits < 32:
            x = x.astype(jnp.float32)
        if scaled:
            exponent = scale_exponent(x, largest)
            x = jnp.ldexp(x, -exponent.astype(jnp.int32))
            return Scaled(Raw(x.astype(wire_dtype)), Raw(exponent))
        return Raw(_within(x, wire_dtype))

    def decode(
        context: Context, payload: Raw | Scaled, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        if isinstance(payload, Raw):
            return _within(payload.values, like.dtype)
        exponent = payload.exponent.values.astype(jnp.int32)
        x = jnp.ldexp(payload.values.values.astype(jnp.float32), exponent)
        return _within(jnp.where(exponent == _NOT_FINITE, jnp.nan, x), like.dtype)

    return leafwise(ArrayCode("to_dtype", encode, decode))
