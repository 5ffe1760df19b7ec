"""Rounding that weighs the error of a level against the bits that it takes.

Rate-distortion optimised quantization, as encoders of video do it: Sullivan and
Wiegand, "Rate-distortion optimization for video compression", 1998. A number `t` in
steps gets the level `q` that has the least, under the table that codes its class,

    (t - q)^2 + w bits(q),

`w` in squared steps a bit. Where bits grow evenly with `|q|`, as they nearly do for
Laplace's distribution, that is a threshold and an offset for each class:

    q = 0                                     for |t| < T = 1/2 + w/2 (b_1 - b_0),
    q = sign(t) max(1, floor(|t| + theta))    else, theta = 1/2 - w/2 (b_2 - b_1),

with `b_m` the bits of `|q| = m` and its sign. A number of a step or more never becomes
0: `T <= 1`. The decoder need not know how a level was chosen. The tables are those for
numbers rounded with `theta = 0.4`, which fit these levels to some per cent.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import tree as trees
from fedjax_comp.compress.quantize.scalar import zigzag
from fedjax_comp.wire.codes.frequencies import SCALE_BITS
from fedjax_comp.wire.codes.weibull import (
    SHAPES,
    TOKENS,
    Tables,
    weibull_tables,
)

DEAD_ZONE = 0.4
"""`theta` of the tables."""


@functools.lru_cache(maxsize=4)
def token_bits(dead_zone: float | None) -> np.ndarray:
    """Bits of every token of every size under each shape.

    Args:
      dead_zone: as for `weibull_tables`.

    Returns:
      float32 `[shapes, sizes, TOKENS]`.
    """
    frequencies = weibull_tables(dead_zone).frequencies
    bits = SCALE_BITS - np.log2(np.maximum(frequencies, 1).astype(np.float64))
    return bits.astype(np.float32).reshape(len(SHAPES), -1, TOKENS)


class Rounding(NamedTuple):
    """`T` and `theta` of the head of this module, float32 `[shapes, sizes]`."""

    threshold: np.ndarray
    offset: np.ndarray


@functools.lru_cache(maxsize=8)
def rounding(rate_weight: float) -> Rounding:
    """Thresholds and offsets of every class.

    Args:
      rate_weight: `w >= 0`.

    >>> from fedjax_comp.wire.codes.weibull import ROUNDED
    >>> laplace, size = SHAPES.index("1"), -ROUNDED.least  # of root mean square 1
    >>> [round(float(x[laplace, size]), 2) for x in rounding(0.15)]
    [0.64, 0.35]
    """
    bits, tables = token_bits(DEAD_ZONE), weibull_tables(DEAD_ZONE)
    shifts = tables.shifts.reshape(len(SHAPES), -1)
    escapes = tables.escapes.reshape(len(SHAPES), -1)
    first = np.clip(0.5 + rate_weight / 2 * (bits[..., 1] - bits[..., 0]), 0.5, 1.0)
    # Where 2 is not in the table a level more is some 4 bits.
    more = np.where(escapes > 3, bits[..., 3] - bits[..., 1], 4.0)
    offset = np.clip(0.5 - rate_weight / 2 * more, 0.0, 0.5)
    plain = shifts > 0  # of large sizes all levels take the same bits, or nearly
    return Rounding(
        np.where(plain, 0.5, first).astype(np.float32),
        np.where(plain, 0.5, offset).astype(np.float32),
    )


def cheapest_shape(
    z: jax.Array, sizes: jax.Array, dead_zone: float | None = DEAD_ZONE
) -> jax.Array:
    """The shape under which symbols have the fewest bits, int32 scalar.

    Args:
      z: uint32 `[m]`.
      sizes: int32 `[m]`, from 0 at the least.
      dead_zone: as for `weibull_tables`.
    """
    tables: Tables = weibull_tables(dead_zone)
    number = tables.sizes.number
    shift, escape = (
        jnp.asarray(of_size[:number]).at[sizes].get(mode="clip")
        for of_size in (tables.shifts, tables.escapes)
    )
    token = jnp.minimum(z >> shift, escape).astype(jnp.int32)
    counts = jnp.zeros(number * TOKENS, jnp.int32).at[sizes * TOKENS + token].add(1)
    bits = jnp.asarray(token_bits(dead_zone)).reshape(len(SHAPES), -1)
    return jnp.argmin(bits @ counts.astype(jnp.float32)).astype(jnp.int32)


def rounded_for_rate(
    t: jax.Array, sizes: jax.Array, stride: int, rate_weight: float
) -> tuple[jax.Array, jax.Array]:
    """Levels of the least error and bits, and the shape that they are coded under.

    The shape is chosen for numbers rounded with the tables' own dead zone, and chosen
    again for the levels that its thresholds lead to.

    Args:
      t: float32 `[m]`, in steps.
      sizes: int32 `[m]`, from 0 at the least of `ROUNDED`.
      stride: every how many-th number the shapes are chosen by.
      rate_weight: `w >= 0`.

    Returns:
      `q`, whole numbers as float32 `[m]`, and the shape, int32 scalar.

    >>> t = jnp.array([0.55, -0.7, 1.6, 0.1])
    >>> rounded_for_rate(t, jnp.full(4, 9), 1, 0.15)[0].tolist()
    [0.0, -1.0, 1.0, 0.0]
    """
    magnitude = jnp.abs(t)

    def shape_of_levels(level: jax.Array) -> jax.Array:
        z = zigzag(t, level)[::stride]
        # What is not finite is no level.
        z = jnp.where(z < 2.0**31, z, 0.0).astype(jnp.uint32)
        return cheapest_shape(z, sizes[::stride])

    shape = shape_of_levels(jnp.floor(magnitude + DEAD_ZONE))
    threshold, offset = (
        jnp.asarray(table)[shape].at[sizes].get(mode="clip")
        for table in rounding(rate_weight)
    )
    level = jnp.maximum(jnp.floor(magnitude + offset), 1.0)
    # Not `>= threshold`: what is not a number shall stay visible.
    level = jnp.where(magnitude < threshold, 0.0, level)
    return jnp.copysign(level, t), shape_of_levels(level)


def rounded_rows(
    parts: Sequence[jax.Array],
    sizes: jax.Array,
    strides: Sequence[int],
    rate_weight: float,
) -> tuple[jax.Array, jax.Array]:
    """`rounded_for_rate` of many matrices at once, each row of one size.

    Tables are looked up once a row, and all matrices are one program.

    Args:
      parts: `L` float32 matrices, in steps.
      sizes: of the rows of all of them, int32 `[R]`, from 0 at the least of `ROUNDED`.
      strides: of each matrix, every how many-th number its shape is chosen by.
      rate_weight: `w >= 0`.

    Returns:
      `q` of all of them, whole numbers as float32 `[n]`, and shapes, int32 `[L]`.

    >>> parts = [jnp.array([[0.55, -0.7, 1.6, 0.1]]), jnp.array([[2.2], [0.3]])]
    >>> rounded_rows(parts, jnp.full(3, 9), (1, 1), 0.15)[0].tolist()
    [0.0, -1.0, 1.0, 0.0, 2.0, 0.0]
    """
    tables = weibull_tables(DEAD_ZONE)
    number = tables.sizes.number
    t = trees.joined([part.reshape(-1) for part in parts])
    magnitude = jnp.abs(t)
    owner = np.repeat(np.arange(len(parts)), [part.shape[0] for part in parts])
    first_rows = np.cumsum([0, *(part.shape[0] for part in parts)])

    def each(of_row: jax.Array) -> list[jax.Array]:
        """What is known of rows, of every number of each matrix."""
        return [
            jnp.broadcast_to(of_row[start:end, None], part.shape).reshape(-1)
            for start, end, part in zip(
                first_rows[:-1], first_rows[1:], parts, strict=True
            )
        ]

    def sampled(of_numbers: Sequence[jax.Array]) -> jax.Array:
        pairs = zip(of_numbers, strides, strict=True)
        return jnp.concatenate([x[::stride] for x, stride in pairs])

    shift, escape = (
        sampled(each(jnp.asarray(of_size[:number])[sizes]))
        for of_size in (tables.shifts, tables.escapes)
    )
    start = sampled(each((jnp.asarray(owner * number, jnp.int32) + sizes) * TOKENS))
    bits = jnp.asarray(token_bits(DEAD_ZONE)).reshape(len(SHAPES), -1)
    ends = np.cumsum([part.size for part in parts])[:-1]

    def shapes_of(level: jax.Array) -> jax.Array:
        z = sampled(jnp.split(zigzag(t, level), ends))
        # What is not finite is no level.
        z = jnp.where(z < 2.0**31, z, 0.0).astype(jnp.uint32)
        token = jnp.minimum(z >> shift, escape).astype(jnp.int32)
        counts = jnp.zeros(len(parts) * number * TOKENS, jnp.int32)
        counts = counts.at[start + token].add(1).reshape(len(parts), -1)
        total = jnp.matmul(
            counts.astype(jnp.float32), bits.T, precision=jax.lax.Precision.HIGHEST
        )
        return jnp.argmin(total, axis=1).astype(jnp.int32)

    shapes = shapes_of(jnp.floor(magnitude + DEAD_ZONE))
    threshold, offset = (
        jnp.concatenate(each(jnp.asarray(table)[shapes[owner], sizes]))
        for table in rounding(rate_weight)
    )
    level = jnp.maximum(jnp.floor(magnitude + offset), 1.0)
    # Not `>= threshold`: what is not a number shall stay visible.
    level = jnp.where(magnitude < threshold, 0.0, level)
    return jnp.copysign(level, t), shapes_of(level)
