"""Scalar quantizers: a scale for every leaf, and a few levels for every coordinate.

stochastic_quantize: Suresh, Yu, Kumar and McMahan, "Distributed mean estimation with
limited communication", 2017, section 2.2. qsgd: Alistarh et al., "QSGD", 2017, eq. 4
and lemma 3.1. scaled_sign: Karimireddy et al., "Error feedback fixes SignSGD", 2019,
with the scale of their section 4 (`||x||_1 / n`).

A NaN or an infinity in a leaf is in its scale as well, so that no coordinate of the
decoded leaf is finite by accident: the receiver sees NaN, and drops the message.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import euclidean_norm, in_units, power_of_two
from fedjax_comp.wire.fields import Raw, Symbols

MAX_LEVELS = 1 << 16
"""Beyond it the rounding of float32 is no longer small against a level."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized array.

    Attributes:
      scale: float32, what the levels are multiples of.
      symbols: one a coordinate, the shape of the array.
    """

    scale: Raw
    symbols: Symbols


def symbols_of(numbers: jax.Array, cardinality: int) -> Symbols:
    """Whole numbers in `[0, cardinality)` as symbols of the smallest dtype.

    Args:
      numbers: whole numbers as floats, any shape; what is outside is brought to the
        nearer end, and NaN to 0, so that they are symbols whatever was encoded.
      cardinality: number of symbols, at most `2**24`.

    >>> import jax.numpy as jnp
    >>> symbols_of(jnp.array([0.0, 3.0, 9.0, jnp.nan]), 4).values
    Array([0, 3, 3, 0], dtype=uint8)
    """
    dtype = jnp.uint8
    if cardinality > 1 << 8:
        dtype = jnp.uint16
    if cardinality > 1 << 16:
        dtype = jnp.uint32
    inside = jnp.where(numbers >= 0, jnp.minimum(numbers, cardinality - 1), 0.0)
    return Symbols(inside.astype(dtype), cardinality)


def zigzag(x: jax.Array, level: jax.Array) -> jax.Array:
    """Signed levels 0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ...: small ones small.

    Args:
      x: the sign that each level has, float.
      level: whole numbers `>= 0`, as floats in the shape of `x`.

    >>> zigzag(jnp.array([3.0, -3.0, -0.1]), jnp.array([1.0, 1.0, 0.0])).tolist()
    [2.0, 1.0, 0.0]
    """
    return 2.0 * level - ((x < 0) & (level > 0)).astype(jnp.float32)


def levels_of(symbols: Symbols) -> jax.Array:
    """The inverse of `zigzag`: float32, in the shape of the symbols.

    >>> levels_of(Symbols(jnp.arange(5, dtype=jnp.uint8), 5)).tolist()
    [0.0, -1.0, 1.0, -2.0, 2.0]
    """
    z = symbols.values.astype(jnp.int32)
    return jnp.where(z % 2 == 1, -((z + 1) // 2), z // 2).astype(jnp.float32)


_ROW = 128


def extrema(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(min x, max x)` of a float32 array of any shape; both NaN when a number is.

    In one pass, by rows first: a reduction to two numbers alone keeps one core busy.

    >>> extrema(jnp.array([3.0, -1.0, 2.0]))
    (Array(-1., dtype=float32), Array(3., dtype=float32))
    """
    flat = x.reshape(-1)
    flat = jnp.pad(flat, (0, -flat.size % _ROW), mode="edge")

    def reduced(low: jax.Array, high: jax.Array, axis: int) -> list[jax.Array]:
        ends = (jnp.float32(jnp.inf), jnp.float32(-jnp.inf))
        return jax.lax.reduce(
            (low, high),
            ends,
            lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])),
            (axis,),
        )

    rows = flat.reshape(-1, _ROW)
    lows, highs = reduced(rows, rows, 1)
    low, high = reduced(lows, highs, 0)
    return low, high


def steps_above(
    x: jax.Array, low: jax.Array, high: jax.Array, last: jax.typing.ArrayLike
) -> jax.Array:
    """Where numbers are among `last + 1` equally spaced ones from `low` to `high`.

        t = (x - low) / step,   step = (high - low) / last

    Args:
      x: float32 of any shape, within the ends.
      low: float32 scalar.
      high: float32 scalar, at least `low`.
      last: at least 1, may be traced.

    Returns:
      float32 in the shape of `x`, in `[0, last]`; 0 where both ends are one.

    >>> steps_above(jnp.array([3e38, 0.0]), jnp.float32(-3e38), jnp.float32(3e38), 2)
    Array([2., 1.], dtype=float32)
    """
    _, inverse = _unit_of_ends(low, high)
    start = low * inverse
    step = (high * inverse - start) / last
    return (x * inverse - start) / jnp.where(step > 0, step, 1.0)


def number_at(
    t: jax.Array, low: jax.Array, high: jax.Array, last: jax.typing.ArrayLike
) -> jax.Array:
    """The numbers at steps `t`: the inverse of `steps_above`, float32 like `t`.

    >>> number_at(jnp.array([2.0, 1.0]), jnp.float32(-3.0), jnp.float32(3.0), 2)
    Array([3., 0.], dtype=float32)
    """
    power, inverse = _unit_of_ends(low, high)
    start = low * inverse
    step = (high * inverse - start) / last
    return power * (start + step * t)


def _unit_of_ends(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The ends may be further apart than float32 reaches.
    return power_of_two(jnp.maximum(jnp.abs(low), jnp.abs(high)))


def stochastic_quantize(
    levels: int, *, rounding: Literal["stochastic", "nearest"] = "stochastic"
) -> Compressor:
    """Rounds to `levels` equally spaced numbers between a leaf's least and largest.

        t = (x - min x) / step,   step = (max x - min x) / (levels - 1),
        C(x) = min x + step * (floor(t) + Bernoulli(t - floor(t))).

    Unbiased with `E||C(x) - x||^2 <= n / (2 (levels - 1)^2) ||x||^2`; to the nearest
    level, the error has the same bound in every draw but is biased. Both fields are
    closed: the two ends as numbers, and a symbol for each coordinate.

    Args:
      levels: in `[2, 65536]`.
      rounding: `"stochastic"`, or `"nearest"` for the least error without noise.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> coarse = stochastic_quantize(levels=3, rounding="nearest")
      >>> payload, _ = coarse.encode(context, jnp.array([0.0, 0.9, 2.0]), ())
      >>> payload.parts[0].symbols.values.tolist()
      [0, 1, 2]
      >>> coarse.decode(context, payload, ())[0]
      Array([0., 1., 2.], dtype=float32)
    """
    levels = checks.integer("levels", levels, minimum=2, maximum=MAX_LEVELS)
    if rounding not in ("stochastic", "nearest"):
        raise ValueError(f"Expected rounding={rounding!r}, 'stochastic' or 'nearest'.")

    def encode(context: Context, x: jax.Array) -> Quantized:
        x = x.astype(jnp.float32)
        low, high = extrema(x)
        t = steps_above(x, low, high, levels - 1)
        if rounding == "stochastic":
            t = noise.bernoulli_round(context.client_key, t)
        return Quantized(Raw(jnp.stack([low, high])), symbols_of(jnp.round(t), levels))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        low, high = payload.scale.values
        t = payload.symbols.values.astype(jnp.float32)
        return number_at(t, low, high, levels - 1).astype(like.dtype)

    return leafwise(ArrayCode("stochastic_quantize", encode, decode))


def qsgd(levels: int) -> Compressor:
    """QSGD: magnitudes rounded at random to multiples of `||x|| / levels`.

        C(x) = ||x|| sign(x) q / s,   q = floor(t) + Bernoulli(t - floor(t)),
        t = s |x| / ||x||,   s = levels.

    Unbiased with `E||C(x) - x||^2 <= min(n / s^2, sqrt(n) / s) ||x||^2`. Sign and level
    are one symbol of `2 s + 1`, numbered 0, -1, 1, -2, 2, ... so that the frequent
    ones, of small magnitude, are small numbers.

    Args:
      levels: `s >= 1`, at most 32767.

    Returns:
      A stateless `Compressor` that closes the norm and the symbols.

    Raises:
      ValueError: when `levels` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = qsgd(levels=5).encode(context, jnp.array([-3.0, 4.0]), ())
      >>> payload.parts[0].symbols.values.tolist()
      [5, 8]
      >>> qsgd(levels=5).decode(context, payload, ())[0]
      Array([-3.,  4.], dtype=float32)
    """
    s = checks.integer("levels", levels, minimum=1, maximum=MAX_LEVELS // 2 - 1)

    def encode(context: Context, x: jax.Array) -> Quantized:
        x = x.astype(jnp.float32)
        unit, power = in_units(x)
        norm = euclidean_norm(unit)
        # A device whose division is not exact must not come out above 1.
        t = jnp.minimum(jnp.abs(unit) / jnp.where(norm > 0, norm, 1.0), 1.0) * s
        q = noise.bernoulli_round(context.client_key, t)
        return Quantized(Raw(norm * power), symbols_of(zigzag(x, q), 2 * s + 1))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        numbers = payload.symbols.values.astype(jnp.int32)
        q = jnp.where(numbers % 2 == 1, -((numbers + 1) // 2), numbers // 2)
        return (payload.scale.values * (q.astype(jnp.float32) / s)).astype(like.dtype)

    return leafwise(ArrayCode("qsgd", encode, decode))


def decode_signs(
    context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """The scale for symbol 1, its negative for symbol 0."""
    del context
    signs = 2.0 * payload.symbols.values.astype(jnp.float32) - 1.0
    return (payload.scale.values.astype(jnp.float32) * signs).astype(like.dtype)


def scaled_sign() -> Compressor:
    """Scaled sign: one bit a coordinate and the leaf's mean magnitude.

        C(x) = (||x||_1 / n) sign(x),   sign(0) = 1.

    Contractive: `||C(x) - x||^2 = ||x||^2 - ||x||_1^2 / n <= (1 - 1/n) ||x||^2`.
    Use it under `error_feedback`.

    Returns:
      A stateless `Compressor` that closes the scale and the signs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = scaled_sign().encode(context, jnp.array([-3.0, 1.0]), ())
      >>> scaled_sign().decode(context, payload, ())[0]
      Array([-2.,  2.], dtype=float32)
    """

    def encode(context: Context, x: jax.Array) -> Quantized:
        del context
        x = x.astype(jnp.float32)
        positive = (x >= 0).astype(jnp.float32)
        unit, power = in_units(x)
        return Quantized(Raw(power * jnp.mean(jnp.abs(unit))), symbols_of(positive, 2))

    return leafwise(ArrayCode("scaled_sign", encode, decode_signs))
