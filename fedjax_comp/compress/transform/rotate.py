"""Randomised Hadamard rotation of a vector of any length.

Suresh, Yu, Kumar and McMahan, "Distributed mean estimation with limited communication",
2017, section 3: after a rotation the coordinates are of like size, which is what a
quantizer with one scale wants. The transform exists for powers of two; here any other
length is covered exactly, without padding, by windows that overlap. Coordinates are
transformed two or three times in groups of some `sqrt(n)`, which takes less time than
the transform of all by its `log2 n` butterflies and spreads one coordinate as evenly.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.transform.hadamard import (
    PRECISION,
    hadamard,
    hadamard_matrix,
)
from fedjax_comp.compress.transform.rotate_blocks import (
    rotated_blocks,
    side_of,
    unrotated_blocks,
)

_LANES = 128  # side of the matrices on a TPU, whose tiles have rows of so many


BLOCKS = 1
"""The axis that counts the blocks of `rotate(block=...)`; other leaves have no such."""


class _Pass(NamedTuple):
    """Signs and a transform of the coordinates `start` to `start + length`.

    Attributes:
      start: of the window.
      length: of it, a multiple of the group's size.
      size: of a group, `s`.
      near: whether neighbours are transformed together, as `[length / s, s]`, or what
        lies `length / s` apart, as `[s, length / s]`.
    """

    start: int
    length: int
    size: int
    near: bool


def _passes(n: int) -> tuple[_Pass, ...]:
    bits = (n - 1).bit_length()
    size = 1 << -(-bits // 2)
    if n == 1 << bits:
        return _Pass(0, n, size, near=True), _Pass(0, n, n // size, near=False)
    whole = n // size * size
    near = [_Pass(0, whole, size, near=True)]
    far = [_Pass(0, whole, size, near=False)]
    if whole < n:
        near.append(_Pass(n - size, size, size, near=True))
        far.append(_Pass(n - whole, whole, size, near=False))
    return (*near, *far, *near)


def rotation(key: jax.Array, x: jax.Array, *, inverse: bool = False) -> jax.Array:
    """A random orthogonal transform of a vector, or its inverse.

    Passes give the coordinates random signs and transform them in groups of
    `s = 2**ceil(log2(n) / 2)`: groups of neighbours, then groups of what lies `n / s`
    apart, and as `s >= n / s` the first spreads a coordinate to all groups of the
    second. Where `n` is a power of two, groups of `n / s` of these complete the
    transform of all, with signs in between. Elsewhere a group
    of the second has one coordinate or two of each of the first, and so an energy of
    its own, which groups of neighbours, transformed once more, even out. Where `s` does
    not divide `n`, each pass is of the first `s floor(n / s)` coordinates and again of
    the last group or the last so many.

    Args:
      key: scalar key array, the same at both ends.
      x: float32 `[n]`.
      inverse: whether to undo the transform.

    Returns:
      float32 `[n]` of the same norm.

    >>> import jax, jax.numpy as jnp
    >>> key, x = jax.random.key(0), jnp.arange(5.0)
    >>> rotated = rotation(key, x)
    >>> round(float(jnp.sum(rotated**2)), 3)  # 0 + 1 + 4 + 9 + 16
    30.0
    >>> bool(jnp.allclose(rotation(key, rotated, inverse=True), x, atol=1e-5))
    True
    """
    passes = _passes(x.shape[0])
    words = noise.sign_words(key, sum(one.length for one in passes))
    plain = functools.partial(_rotated, inverse=inverse)
    # There a pass has a whole number of words of signs.
    long = min(one.size for one in passes) >= 32
    tiled = functools.partial(_rotated_in_tiles, inverse=inverse) if long else plain
    return jax.lax.platform_dependent(x, words, tpu=tiled, default=plain)


def _rotated(x: jax.Array, words: jax.Array, *, inverse: bool) -> jax.Array:
    passes = _passes(x.shape[0])
    signs = noise.signs_of(words)
    ends = np.cumsum([one.length for one in passes])
    done = [
        (one, signs[end - one.length : end])
        for one, end in zip(passes, ends, strict=True)
    ]
    for one, sign in reversed(done) if inverse else done:
        window = x[one.start : one.start + one.length]
        groups = (-1, one.size, 1) if one.near else (1, one.size, -1)
        if inverse:
            window = hadamard(window.reshape(groups)).reshape(-1) * sign
        else:
            window = hadamard((window * sign).reshape(groups)).reshape(-1)
        # Concatenated with what lies around it, it would be copied number by number.
        x = jax.lax.dynamic_update_slice(x, window, (one.start,))
    return x


def _rotated_in_tiles(x: jax.Array, words: jax.Array, *, inverse: bool) -> jax.Array:
    """As `_rotated`, by a TPU's products; a sign is made where it is multiplied."""
    passes = _passes(x.shape[0])
    ends = np.cumsum([one.length for one in passes])
    starts = [
        (one, one.start, (end - one.length) // 32)
        for one, end in zip(passes, ends, strict=True)
    ]
    ordered = reversed(starts) if inverse else starts
    # Passes of one shape are turns of a loop: a program half as large to compile.
    for one, alike in itertools.groupby(
        ordered, lambda begins: begins[0]._replace(start=0)
    ):
        at = jnp.asarray([begins[1:] for begins in alike], jnp.int32)
        turn = functools.partial(_one_turn, words, one, inverse)
        x, _ = turn(x, at[0]) if len(at) == 1 else jax.lax.scan(turn, x, at)
    return x


def _one_turn(
    words: jax.Array, one: _Pass, inverse: bool, x: jax.Array, at: jax.Array
) -> tuple[jax.Array, None]:
    """A pass that begins at `at[0]`, its signs at `words[at[1]]`."""
    window = jax.lax.dynamic_slice(x, (at[0],), (one.length,))
    own = jax.lax.dynamic_slice(words, (at[1],), (one.length // 32,))
    transform = _near_in_tiles if one.near else _far_in_tiles
    if inverse:
        window = transform(window, one.size) * noise.signs_of(own)
    else:
        window = transform(window * noise.signs_of(own), one.size)
    return jax.lax.dynamic_update_slice(x, window, (at[0],)), None


def _sides(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrices of a transform, coarse and fine, the fine one of whole tiles."""
    bits = min(size, _LANES).bit_length() - 1
    return hadamard_matrix(size.bit_length() - 1 - bits), hadamard_matrix(bits)


def _near_in_tiles(x: jax.Array, size: int) -> jax.Array:
    coarse, fine = _sides(size)
    rows = jnp.matmul(x.reshape(-1, fine.shape[0]), fine, precision=PRECISION)
    if len(coarse) > 1:
        groups = rows.reshape(-1, len(coarse), len(fine))
        rows = jnp.einsum("ij,ajb->aib", coarse, groups, precision=PRECISION)
    return rows.reshape(-1)


def _far_in_tiles(x: jax.Array, size: int) -> jax.Array:
    coarse, fine = _sides(size)
    groups = x.reshape(len(coarse), len(fine), -1)
    # One matrix a group: with a shared one the axes come out in another order.
    shared = jnp.broadcast_to(fine, (len(coarse), *fine.shape))
    groups = jnp.matmul(shared, groups, precision=PRECISION)
    if len(coarse) > 1:
        groups = jnp.einsum("ij,jkb->ikb", coarse, groups, precision=PRECISION)
    return groups.reshape(-1)


def rotate(*, block: int | None = None) -> Compressor:
    """Rotates every leaf by a random orthogonal matrix that the cohort shares.

    It loses and saves nothing by itself: put a quantizer behind it, and `flattened`
    around both to rotate all leaves as one. What it sends is open: `[n]` numbers for
    `n`. With a `block` these are `[s, T, s]`, whose middle axis counts the blocks,
    `s**2 = block`, and `[r]`, the coordinates left over after the last block.

    Args:
      block: rotate blocks of so many coordinates, each by itself, at a third of the
        time, for a quantizer that has a scale for each: `eden(1, axis=1)`. A power of
        two squared, 4 to 16384; 16384 suits a TPU. None, and for leaves of fewer
        coordinates: all as one.

    Returns:
      A stateless `Compressor` with `decode(encode(x)) = x` up to rounding.

    Raises:
      ValueError: for another block.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = rotate().encode(context, jnp.array([4.0, 0, 0, 0]), ())
      >>> jnp.abs(payload.parts[0]).round(3).tolist()
      [2.0, 2.0, 2.0, 2.0]
    """
    side = None if block is None else side_of(block)

    def encode(context: Context, x: jax.Array) -> PyTree:
        vector = x.reshape(-1).astype(jnp.float32)
        if side is None or x.size < side**2:
            return rotation(context.round_key, vector).astype(x.dtype)
        blocks, rest = rotated_blocks(context.round_key, vector, side)
        parts = (blocks, rest) if rest.size else (blocks,)
        return tuple(part.astype(x.dtype) for part in parts)

    def decode(
        context: Context, payload: PyTree, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        if side is None or math.prod(like.shape) < side**2:
            vector = payload.astype(jnp.float32)
            x = rotation(context.round_key, vector, inverse=True)
        else:
            blocks, *rest = (part.astype(jnp.float32) for part in payload)
            left = rest[0] if rest else jnp.zeros(0, jnp.float32)
            x = unrotated_blocks(context.round_key, blocks, left, side)
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("rotate", encode, decode, linear=True))
