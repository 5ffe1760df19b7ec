"""Quantizers of rotated vectors, with the scale that makes them unbiased.

eden: Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak and Mitzenmacher, "EDEN:
communication-efficient and robust distributed mean estimation for federated learning",
2022; at one bit it is DRIVE, by the same authors, 2021. ecsq: a uniform step in front
of an entropy code, as EDEN's "entropy-encoded" variant.

After a random rotation the coordinates of any vector are nearly Gaussian, so both ends
know the best codebook beforehand. With `Q` its nearest level and `D` its distortion,

    S = ||x||^2 / <x, Q(x)>   gives   <x, S Q(x)> = ||x||^2

in every draw, so that a uniformly random rotation makes the estimate unbiased, at
`E||C(x) - x||^2 / ||x||^2 = D / (1 - D)`:

    bits a coordinate      0.1     0.5     1       2       3       4
    eden                   14.71   2.14    0.571   0.133   0.0358  0.00959
    ecsq                    9.93   1.61    0.535   0.0976  0.0227  0.00559
    limit 1 / (4^R - 1)     6.73   1.00    0.333   0.0667  0.0159  0.00392

The randomised Hadamard transform of `rotate` is not uniform: where one coordinate
outweighs the sum of all others, every rotated sign is its sign, and at one bit the
others are lost whatever the draw. Use two rotations where that may occur.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import standardized
from fedjax_comp.compress.quantize.codebooks import Codebook, lloyd_max, step_of_entropy
from fedjax_comp.compress.quantize.groups import Groups
from fedjax_comp.compress.quantize.scalar import Quantized, symbols_of
from fedjax_comp.compress.sparsify.selection import random_indices
from fedjax_comp.compress.sparsify.top_k import poison
from fedjax_comp.wire.fields import Raw, Symbols

MAX_BITS = 8
_MAX_COMPARED = 15  # up to so many boundaries comparing with all beats a search
_MAX_SELECTED = 4  # up to so many levels choosing beats looking up
_SUPPORT = 8.0  # standard deviations; a Gaussian leaves them once in 10^15 draws


def nearest_level(x: jax.Array, codebook: Codebook) -> jax.Array:
    """Which level of the codebook is nearest to each number, uint8 of `x`'s shape.

    >>> nearest_level(jnp.array([-9.0, -0.1, 0.1, 9.0]), lloyd_max(2)).tolist()
    [0, 1, 2, 3]
    """
    boundaries = codebook.boundaries.astype(np.float32)
    if boundaries.size <= _MAX_COMPARED:
        index = jnp.zeros(x.shape, jnp.uint8)
        for boundary in boundaries:
            index += (x > boundary).astype(jnp.uint8)
        return index
    found = jnp.searchsorted(jnp.asarray(boundaries), x, method="scan_unrolled")
    return found.astype(jnp.uint8)


def level_of(index: jax.Array, codebook: Codebook) -> jax.Array:
    """The numbers that indices stand for, float32; others go to the nearest.

    >>> level_of(jnp.array([0, 3], jnp.uint8), lloyd_max(2)).round(2)
    Array([-1.51,  1.51], dtype=float32)
    """
    levels = codebook.levels.astype(np.float32)
    if levels.size <= _MAX_SELECTED:
        number = jnp.full(index.shape, levels[-1], jnp.float32)
        for i in reversed(range(levels.size - 1)):
            number = jnp.where(index == i, levels[i], number)
        return number
    return jnp.asarray(levels).at[index.astype(jnp.int32)].get(mode="clip")


def fitted_scale(
    x: jax.Array,
    q: jax.Array,
    *,
    unbiased: bool,
    axes: tuple[int, ...] | None = None,
) -> jax.Array:
    """The number by which the levels `q` of a `standardized` `x` are multiplied.

        unbiased:  n / <x, q>     otherwise (least squares):  <x, q> / ||q||^2,

    Args:
      x: float32 of any shape, of mean square 1 or all zeros.
      q: float32 in that shape, of the same signs.
      unbiased: which of the two.
      axes: over which numbers have a scale of their own; None for all of them.

    Returns:
      float32 scalar, or with `axes` of length 1 along these; 0 when `x` or `q` is all
      zeros.
    """

    def total(products: jax.Array) -> jax.Array:
        return jnp.sum(products, axes, keepdims=axes is not None)

    along = total(x * q)
    count = jnp.float32(x.size // along.size)
    numerator, divisor = (count, along) if unbiased else (along, total(q * q))
    # Not `divisor > 0`: what is not a number shall stay visible in the scale.
    return jnp.where(divisor == 0, 0.0, numerator / divisor)


def rate_split(bits: float, n: int) -> tuple[tuple[int, int], ...]:
    """How many of `n` coordinates are sent at which whole number of bits.

    >>> rate_split(2, 10), rate_split(2.3, 10), rate_split(0.3, 10)
    (((2, 10),), ((2, 7), (3, 3)), ((1, 3),))
    """
    low = int(bits)
    if low == 0:
        return ((1, max(1, round(bits * n))),)
    high = round((bits - low) * n)
    return tuple(part for part in ((low, n - high), (low + 1, high)) if part[1] > 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Parts:
    """An array of which some coordinates are sent at one rate and some at another.

    Attributes:
      scale: float32, what the levels are multiples of: a scalar, or one a group.
      symbols: of each rate, one for each coordinate at that rate.
    """

    scale: Raw
    symbols: tuple[Symbols, ...]


def eden(bits: float, *, unbiased: bool = True, axis: int | None = None) -> Compressor:
    """EDEN's fixed-rate quantizer: the nearest Gaussian level, and one scale a leaf.

        C(x) = S sigma Q(x / sigma),   sigma = ||x|| / sqrt(n),   Q: Lloyd-Max.

    Put it behind `rotate`, e.g. `flattened(chain(rotate(), eden(bits=1)))`. Between two
    whole numbers of bits, a random choice of coordinates gets the higher one. Below one
    bit a random choice of `round(bits n)` coordinates is sent at one bit. The others
    are decoded as zeros, and with `unbiased` the scale is multiplied by the inverse of
    the share that was sent. Both ends draw the choice: it costs nothing. A leaf with a
    number that is not finite has such scales, whichever coordinates were chosen.

    Unbiased under a uniformly random rotation with the error in the table above. With
    `unbiased=False` it has the least error: `D`, and in every draw at most `||x||^2`.

    Args:
      bits: a coordinate, in (0, 8], whole or not.
      unbiased: whether the scale is `||x||^2 / <x, Q(x)>`, to be averaged over clients,
        or least squares, for one receiver or under `error_feedback`.
      axis: a scale for each index along this axis, where a leaf has it, as behind
        `rotate(block=4096)`, whose blocks axis 1 counts. None: one a leaf.

    Returns:
      A stateless `Compressor` that closes the scales and the symbols.

    Raises:
      ValueError: when `bits` is not in that range, or `axis` is below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([3.0, -1.0, 1.0, -3.0])
      >>> payload, _ = eden(bits=1).encode(context, x, ())
      >>> eden(bits=1).decode(context, payload, ())[0].round(3)  # <x, C(x)> = ||x||^2
      Array([ 2.5, -2.5,  2.5, -2.5], dtype=float32)
    """
    bits = checks.between("bits", bits, above=0, at_most=MAX_BITS)
    axis = None if axis is None else checks.integer("axis", axis, minimum=0)

    def chosen(context: Context, n: int) -> jax.Array | None:
        split = rate_split(bits, n)
        if len(split) == 1 and split[0][1] == n:
            return None
        total = sum(count for _, count in split)
        return random_indices(context.client_key, n, total)

    def encode(context: Context, x: jax.Array) -> Parts:
        groups = Groups(x.shape, axis)
        x, axes = x.astype(jnp.float32), groups.axes
        places = chosen(context, groups.size)
        if places is not None:
            axes = None if groups.one else (0,)
            x = poison(groups.columns(x)[places], x)
        unit, sigma = standardized(x, axes)
        flat, symbols, levels, start = unit.reshape(-1), [], [], 0
        for width, rows in rate_split(bits, groups.size):
            count = rows * groups.count
            part = nearest_level(flat[start : start + count], lloyd_max(width))
            symbols.append(Symbols(part, 1 << width))
            levels.append(level_of(part, lloyd_max(width)))
            start += count
        q = trees.joined(levels).reshape(x.shape)
        scale = sigma * fitted_scale(unit, q, unbiased=unbiased, axes=axes)
        if unbiased and places is not None:
            scale *= groups.size / places.size
        return Parts(Raw(groups.listed(scale)), tuple(symbols))

    def decode(
        context: Context, payload: Parts, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        groups, scales = Groups(like.shape, axis), payload.scale.values
        places = chosen(context, groups.size)
        levels = [
            level_of(part.values, lloyd_max(part.cardinality.bit_length() - 1))
            for part in payload.symbols
        ]
        q = trees.joined(levels)
        if places is None:
            x = q.reshape(like.shape) * groups.along(scales)
        else:
            columns = groups.columns(jnp.zeros(like.shape, jnp.float32))
            along = scales if groups.one else scales[None, :]
            sent = q.reshape(places.size, *columns.shape[1:]) * along
            filled = columns.at[places].set(sent, unique_indices=True)
            x = groups.of_columns(filled)
        return x.astype(like.dtype)

    return leafwise(ArrayCode("eden", encode, decode))


def ecsq(
    bits: float | None = None,
    *,
    step: float | None = None,
    unbiased: bool = True,
    axis: int | None = None,
) -> Compressor:
    """A uniform step in units of a leaf's standard deviation, for an entropy code.

        C(x) = S sigma round(x / (sigma step)),   sigma = ||x|| / sqrt(n),

    deterministic, with the scale of `eden`. Behind `rotate` and with `entropy_coded`
    after it the message has about `bits` a coordinate, whatever was sent:

        flattened(chain(rotate(), ecsq(bits=2), entropy_coded()))

    A step is one symbol, numbered 0, -1, 1, -2, 2, ... Beyond eight standard deviations
    it is clipped. When all coordinates round to 0, which takes few of them and a large
    step, nothing is sent, and only then `<x, C(x)>` is not `||x||^2`.

    Args:
      bits: a coordinate, that the entropy code takes for Gaussian ones; in (0, 8].
      step: instead of `bits`, in standard deviations; in (0.001, 16].
      unbiased: as for `eden`.
      axis: as for `eden`.

    Returns:
      A stateless `Compressor` that closes the scales and the symbols.

    Raises:
      ValueError: unless exactly one of `bits` and `step` is given, in its range, and
        when `axis` is below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([3.0, -1.0, 1.0, -3.0])
      >>> payload, _ = ecsq(step=2.0).encode(context, x, ())
      >>> payload.parts[0].symbols.values.tolist()
      [2, 0, 0, 1]
      >>> ecsq(step=2.0).decode(context, payload, ())[0].round(2)
      Array([ 3.33,  0.  ,  0.  , -3.33], dtype=float32)
    """
    if (bits is None) == (step is None):
        raise ValueError(
            f"Expected either bits or step, got bits={bits!r} and step={step!r}."
        )
    if step is None:
        width = step_of_entropy(checks.between("bits", bits, above=0, at_most=MAX_BITS))
    else:
        width = checks.between("step", step, above=0.001, at_most=16)
    half = int(np.ceil(_SUPPORT / width))
    axis = None if axis is None else checks.integer("axis", axis, minimum=0)

    def encode(context: Context, x: jax.Array) -> Quantized:
        del context
        groups = Groups(x.shape, axis)
        unit, sigma = standardized(x.astype(jnp.float32), groups.axes)
        q = jnp.clip(jnp.round(unit / width), -half, half)
        scale = sigma * fitted_scale(unit, q, unbiased=unbiased, axes=groups.axes)
        zigzag = jnp.where(q < 0, -2.0 * q - 1.0, 2.0 * q)
        return Quantized(Raw(groups.listed(scale)), symbols_of(zigzag, 2 * half + 1))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        zigzag = payload.symbols.values.astype(jnp.int32)
        q = jnp.where(zigzag % 2 == 1, -((zigzag + 1) // 2), zigzag // 2)
        scale = Groups(like.shape, axis).along(payload.scale.values)
        return (scale * q.astype(jnp.float32)).astype(like.dtype)

    return leafwise(ArrayCode("ecsq", encode, decode))
