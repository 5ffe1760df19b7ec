"""Norms and scales of arrays, without overflow or underflow inside float32's range.

The square of 1e20 overflows float32 and that of 1e-23 underflows, so numbers are first
scaled to be near 1. They are scaled by a power of two, which rounds nothing, and not
divided by the largest magnitude `a`: for `a > 2**126`, `1 / a` is subnormal, and a
compiler that divides by multiplying with `1 / a` turns the array into zeros.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.compress.combine.leafwise import open_leaves, replace_open

_MANTISSA_BITS = 23
_LEAST, _MOST = 1, 253  # exponents as stored, of 2**-126 and of 2**126


def power_of_two(size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The power of two at or below a size, and its reciprocal.

    Both are normal numbers of float32, the power between `2**-126` and `2**126`; NaN
    and infinities are given `2**126`.

    Args:
      size: float32 of any shape, `>= 0`.

    Returns:
      Two float32 arrays of that shape.

    >>> [float(x) for x in power_of_two(jnp.float32(5.0))]
    [4.0, 0.25]
    """
    words = jax.lax.bitcast_convert_type(size.astype(jnp.float32), jnp.uint32)
    stored = jnp.clip(words >> _MANTISSA_BITS, _LEAST, _MOST)
    power, inverse = (
        jax.lax.bitcast_convert_type(x << _MANTISSA_BITS, jnp.float32)
        for x in (stored, _LEAST + _MOST - stored)
    )
    return power, inverse


def in_units(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An array as multiples of a power of two near its largest magnitude.

    Args:
      x: float32 of any shape, not empty.

    Returns:
      `(unit, power)` with `x = unit * power`, exactly except for numbers that are less
      than `2**-100` of the largest. The largest of `|unit|` is in [1, 4), less for `x`
      below `2**-126`; what is not finite in `x` is not finite in `unit`.

    >>> unit, power = in_units(jnp.array([3.0, -20.0]))
    >>> unit.tolist(), float(power)
    ([0.1875, -1.25], 16.0)
    """
    power, inverse = power_of_two(jnp.max(jnp.abs(x)))
    return x * inverse, power


def length_in_units(
    leaves: Sequence[jax.Array],
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Several arrays as multiples of one power of two, and their norm, all together.

    Args:
      leaves: float32 of any shapes.

    Returns:
      `(units, length, power)`, the norm being `length * power`, which may overflow
      where neither does.

    >>> units, length, power = length_in_units([jnp.array([3e38]), jnp.array([3e38])])
    >>> round(float(length) * float(power) / 1e38, 3)
    4.243
    """
    largest = jnp.zeros((), jnp.float32)
    for leaf in leaves:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0.0))
    power, inverse = power_of_two(largest)
    units = [leaf * inverse for leaf in leaves]
    squares = jnp.zeros((), jnp.float32)
    for unit in units:
        squares += jnp.sum(jnp.square(unit))
    return units, jnp.sqrt(squares), power


def clip_by_l2(tree: PyTree, norm: float) -> PyTree:
    """A tree shortened to a norm of at most `norm`, in its direction.

        x min(1, norm / ||x||_2)

    The bound holds in every dtype but for float32's rounding of the norm: numbers of a
    narrower one are rounded towards zero, since the nearest ones may be longer.

    Args:
      tree: floats of any shapes; other leaves stay as they are.
      norm: the bound, positive.

    Returns:
      A tree like `tree`; NaN everywhere when a number is not finite.

    >>> clip_by_l2([jnp.array([3.0, 4.0])], 1.0)
    [Array([0.6, 0.8], dtype=float32)]
    >>> clip_by_l2([jnp.array([3.0, 4.0])], 10.0)
    [Array([3., 4.], dtype=float32)]
    """
    leaves = open_leaves(tree)
    units, length, power = length_in_units([x.astype(jnp.float32) for x in leaves])
    # From the units: the norm of finite numbers may itself not be finite. What is not
    # finite must not be multiplied by zero, nor compare as short.
    scale = jnp.where(jnp.isfinite(length), norm / length, jnp.nan)
    short = length * power <= norm
    return replace_open(
        tree,
        [
            jnp.where(short, leaf, _towards_zero(scale * part, leaf.dtype))
            for leaf, part in zip(leaves, units, strict=True)
        ],
    )


def _towards_zero(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    nearest = x.astype(dtype)
    too_long = jnp.abs(nearest.astype(x.dtype)) > jnp.abs(x)
    return jnp.where(too_long, jnp.nextafter(nearest, jnp.zeros_like(nearest)), nearest)


def euclidean_norm(x: jax.Array) -> jax.Array:
    """`||x||_2` of a float32 array of any shape; infinite only beyond float32's range.

    >>> float(euclidean_norm(jnp.array([3e37, -4e37])) / 1e37)
    5.0
    """
    unit, power = in_units(x)
    return power * jnp.sqrt(jnp.sum(jnp.square(unit)))


def standardized(
    x: jax.Array, axes: tuple[int, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    """An array scaled to mean square 1, and the scale.

        x / sigma,   sigma = ||x||_2 / sqrt(n).

    `sigma` is no larger than the largest magnitude, so that it is finite where the
    norm is not.

    Args:
      x: float32 of any shape, not empty.
      axes: over which `n` numbers have a `sigma`; None for all of them.

    Returns:
      float32 in that shape, zeros for zeros, and `sigma`, a float32 scalar, or with
      `axes` of length 1 along these.

    >>> x, sigma = standardized(jnp.array([3e38, -3e38]))
    >>> x.round(3).tolist(), round(float(sigma / 1e38), 3)
    ([1.0, -1.0], 3.0)
    """
    kept = axes is not None
    power, inverse = power_of_two(jnp.max(jnp.abs(x), axes, keepdims=kept))
    unit = x * inverse
    squares = jnp.sum(jnp.square(unit), axes, keepdims=kept)
    root = np.sqrt(np.float32(x.size // squares.size))
    sigma = jnp.sqrt(squares) / root
    return unit / jnp.where(sigma == 0, 1.0, sigma), sigma * power
