"""Randomised Hadamard rotations of blocks: two products for a vector of any length.

A rotation of the whole vector takes three passes over it, each two products, and moves
every number to its group and back. Where every block has a scale of its own, groups of
some thousand coordinates are as Gaussian as the whole, and need no more than their own
transform. Vargaftik et al., "EDEN", 2022, and Suresh et al. 2017 rotate the whole.

Which coordinates make a block is chosen for speed: `s` strips of `s` neighbours, the
strips as far apart as the vector allows. So the vector is read as `[s, T, s]` with
block `t` at `[:, t, :]`, and is multiplied by `H_s` from the left and from the right
without moving a number.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.compress import noise
from fedjax_comp.compress.transform.hadamard import PRECISION, sign_matrix

MAX_SIDE = 128
_LANES = 128  # of a TPU, whose tiles have rows of so many


def side_of(block: int) -> int:
    """`s` of a block of `s x s` coordinates, a power of two.

    Raises:
      ValueError: for what is not 4, 16, 64, 256, 1024, 4096 or 16384.

    >>> side_of(4096)
    64
    """
    block = checks.integer("block", block, minimum=4, maximum=MAX_SIDE**2)
    side = math.isqrt(block)
    if side * side != block or side & (side - 1):
        raise ValueError(
            f"Expected block={block} to be a power of two squared: 4, 16, 64, 256, "
            "1024, 4096 or 16384."
        )
    return side


def rotated_blocks(
    key: jax.Array, x: jax.Array, side: int
) -> tuple[jax.Array, jax.Array]:
    """Random signs, then the transform of each block of `side**2` coordinates.

    What is left behind the last whole block, `r` coordinates, is first transformed
    together with those before it, as one block more that overlaps.

    Args:
      key: scalar key array, the same at both ends.
      x: float32 `[n]`, `n >= side**2`.
      side: `s`, a power of two.

    Returns:
      float32 `[s, T, s]` with block `t` at `[:, t, :]`, and `[r]`.

    >>> z, rest = rotated_blocks(jax.random.key(0), jnp.ones(21), side=2)
    >>> z.shape, rest.shape, round(float(jnp.sum(z**2) + jnp.sum(rest**2)), 3)
    ((2, 5, 2), (1,), 21.0)
    """
    whole, signs, last = _split(key, x.shape[0], side)
    if last is not None:
        window = _transform(x[-(side**2) :] * last, side)
        x = jax.lax.dynamic_update_slice(x, window, (x.shape[0] - side**2,))
    z = _transform(x[:whole] * signs, side)
    return z.reshape(side, -1, side), x[whole:]


def unrotated_blocks(
    key: jax.Array, blocks: jax.Array, rest: jax.Array, side: int
) -> jax.Array:
    """Undoes `rotated_blocks`: float32 `[n]` of `[s, T, s]` and `[r]`."""
    _, signs, last = _split(key, blocks.size + rest.size, side)
    x = _transform(blocks.reshape(-1), side) * signs
    if last is None:
        return x
    before = blocks.size + rest.size - side**2
    window = _transform(jnp.concatenate([x[before:], rest]), side) * last
    # Faster here than writing both to their places.
    return jnp.concatenate([x[:before], window])


def _split(
    key: jax.Array, n: int, side: int
) -> tuple[int, jax.Array, jax.Array | None]:
    """How many coordinates are in whole blocks; their signs; those of the last window,
    None where nothing is left."""
    whole = n // side**2 * side**2
    if whole == n:
        return whole, noise.signs(key, n), None
    signs = noise.signs(key, whole + side**2)
    return whole, signs[:whole], signs[whole:]


def _transform(x: jax.Array, side: int) -> jax.Array:
    """`H` of all blocks of `[s * T * s]`, its own inverse.

    As ones and minus ones, after a division by a power of two: nothing is rounded but
    sums, and what cancels is zero, and not the rounding error of either of two.
    """
    matrix = sign_matrix(side.bit_length() - 1)
    near = jax.lax.platform_dependent(
        x * np.float32(1 / side),
        tpu=lambda x: _near_in_lanes(x, matrix).reshape(side, -1),
        default=lambda x: _near(x, matrix).reshape(side, -1),
    )
    # Two products made one would be several times as slow.
    near = jax.lax.optimization_barrier(near)
    far = jnp.matmul(matrix, near, precision=PRECISION)
    return far.reshape(-1)


def _near(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.matmul(x.reshape(-1, len(matrix)), matrix, precision=PRECISION)


def _near_in_lanes(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """As `_near`: strips that share a row of lanes by several matrices made one."""
    if len(matrix) >= _LANES or x.size % _LANES:
        return _near(x, matrix)
    several = np.eye(_LANES // len(matrix), dtype=np.float32)
    return _near(x, np.kron(several, matrix))
