"""What both ends of a link remember of past messages, to predict the next one.

The directions in which a layer moves change slowly: most of an update lies in the span
of the updates before it. Both ends know that span at no cost: one has sent these
updates, the other has decoded them. A direction `a` of a message is sent in two parts,

    c = Q a,   e = a - Q' c,

its coordinates in a basis `Q` of what is remembered, `h` numbers that hold much of it,
and the remainder, as many numbers as `a` has, but small ones that cost little.

The basis holds the leading `h` directions of all messages so far. Each message counts
alike at first, and fades by `KEPT` with every further one (a running principal
component analysis: Weng, Zhang and Hwang, "Candid covariance-free incremental principal
component analysis", 2003, by a small eigenproblem here). It is computed from decoded
numbers alone, so that both ends have the same one, and a message that does not arrive
is in neither. Rounding can turn eigenvectors of close eigenvalues by much more than its
own size, so both ends must round alike: the same program on the same kind of processor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.compress.low_rank.decompositions import eigh
from fedjax_comp.compress.low_rank.singular import matmul

KEPT = 0.8
"""What a message leaves of the squared weights of those before it."""

_LEAST = 1e-4  # squared weight of a direction against the first: below is rounding


class Remembered(NamedTuple):
    """Directions of past messages of a matrix, orthogonal and the largest first.

    Attributes:
      left: as long as their weights, float32 `[h, rows]`; zeros where there is none.
      right: likewise, float32 `[h, columns]`.
    """

    left: jax.Array
    right: jax.Array


def nothing_remembered(rows: int, columns: int, count: int) -> Remembered:
    """Before the first message: float32 `[count, rows]` and `[count, columns]`."""
    return Remembered(
        jnp.zeros((count, rows), jnp.float32), jnp.zeros((count, columns), jnp.float32)
    )


def basis_of(weighted: jax.Array) -> jax.Array:
    """Rows of length 1, `[h, m]`; zeros for those that weigh nothing.

    >>> basis_of(jnp.array([[0.0, -2.0], [0.0, 0.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0]]
    """
    squares = jnp.sum(jnp.square(weighted), axis=1, keepdims=True)
    is_known = squares > _LEAST * jnp.max(squares)
    return jnp.where(
        is_known, weighted * jax.lax.rsqrt(jnp.where(is_known, squares, 1.0)), 0.0
    )


def with_message(weighted: jax.Array, factor: jax.Array) -> jax.Array:
    """What is remembered after a message.

    Args:
      weighted: before, float32 `[h, m]`.
      factor: the message's directions times their values, float32 `[k, m]`.

    >>> after = with_message(jnp.zeros((1, 2)), jnp.array([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(float(after[0, 0]) ** 2, 2), float(after[0, 1])  # 9 parts in 10
    (0.9, 0.0)
    """
    energy = jnp.sum(jnp.square(factor))
    unit = factor * jax.lax.rsqrt(jnp.where(energy > 0, energy, 1.0))
    seen = jnp.concatenate([np.sqrt(np.float32(KEPT)) * weighted, unit])
    _, turn = eigh(matmul(seen, seen.T))
    leading = turn[:, ::-1][:, : weighted.shape[0]]
    # Of the two signs of an eigenvector the one whose largest number is positive:
    # which of them `eigh` finds is a matter of rounding.
    places = jnp.argmax(jnp.abs(leading), axis=0, keepdims=True)
    leading = leading * jnp.sign(jnp.take_along_axis(leading, places, axis=0))
    return jnp.where(energy > 0, matmul(leading.T, seen), weighted)
