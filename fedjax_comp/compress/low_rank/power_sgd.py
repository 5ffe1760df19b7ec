"""PowerSGD: one step of power iteration a message, started from the last one.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for
distributed optimization", 2019, algorithm 1.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.leafwise import (
    Lifted,
    is_open,
    require_open,
    shape_of,
)
from fedjax_comp.compress.low_rank.decompositions import orthonormal
from fedjax_comp.compress.low_rank.factors import (
    as_matrix,
    factors_are_smaller,
    in_dtype,
    matrix_shape,
    product,
)
from fedjax_comp.compress.low_rank.singular import Factors, matmul
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.keys import make_key
from fedjax_comp.wire.fields import is_field


def power_step(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both factors after one step of subspace iteration.

        P = orth(M Q),   Q <- M' P,   M ~ P Q'.

    Args:
      matrix: `M`, float32 `[m, n]`.
      right: `Q`, float32 `[n, r]`.

    Returns:
      `P` of orthonormal columns, `[m, r]`, and the new `Q`, `[n, r]`.

    >>> import jax.numpy as jnp
    >>> p, q = power_step(jnp.ones((4, 3)), jnp.ones((3, 1)))
    >>> jnp.round(p @ q.T, 4)[0].tolist()
    [1.0, 1.0, 1.0]
    """
    # The direction of M Q does not depend on M's size, but its range in float32 does.
    unit, power = in_units(matrix)
    left = orthonormal(matmul(unit, right))
    return left, power * matmul(unit.T, left)


def power_sgd(rank: int) -> Compressor:
    """Sends every leaf of two axes or more as `P` and `Q`; `Q` starts the next message.

    `P P'` projects, so `||C(x) - x||^2 <= ||x||^2` in every message; as the updates'
    leading subspace settles, the iteration converges to `low_rank(rank)` at the price
    of two thin products. Put it under `error_feedback`, as its authors do. Leaves are
    left open as by `low_rank`; the factors stay open, and a later stage that rounds `Q`
    does not round the sender's copy.

    Args:
      rank: `r >= 1`.

    Returns:
      A `Compressor` whose sender remembers `Q`, float32 `[n, r]` for each such leaf.
      The receiver needs no memory: `decode` has both factors.

    Raises:
      ValueError: when `rank` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> uplink, x = power_sgd(1), jnp.diag(jnp.array([4.0, 2, 1, 0]))
      >>> sender = uplink.init(x).sender
      >>> for _ in range(12):
      ...     payload, sender = uplink.encode(context, x, sender)
      >>> jnp.round(jnp.diag(uplink.decode(context, payload, ())[0]), 3).tolist()
      [4.0, 0.0, 0.0, 0.0]
    """
    rank = checks.integer("rank", rank, minimum=1)
    accepts = factors_are_smaller(rank)

    def acts_on(leaf: PyTree) -> bool:
        return is_open(leaf) and math.prod(leaf.shape) > 0 and accepts(shape_of(leaf))

    def init(like: PyTree) -> LinkState:
        require_open("power_sgd", like, accepts)
        leaves = jax.tree.leaves(like, is_leaf=is_field)
        key = make_key(0)
        start = tuple(
            jax.random.normal(
                jax.random.fold_in(key, i),
                (matrix_shape(leaf.shape)[1], rank),
                jnp.float32,
            )
            for i, leaf in enumerate(leaves)
            if acts_on(leaf)
        )
        return LinkState(sender=start, receiver=())

    def encode(
        context: Context, tree: PyTree, sender: tuple[jax.Array, ...]
    ) -> tuple[PyTree, tuple[jax.Array, ...]]:
        del context
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        shapes = tuple(shape_of(leaf) if acts_on(leaf) else None for leaf in leaves)
        starts, parts, kept = iter(sender), [], []
        for leaf, shape in zip(leaves, shapes, strict=True):
            if shape is None:
                parts.append(leaf)
                continue
            old = next(starts)
            left, right = power_step(as_matrix(leaf), old)
            parts.append(in_dtype(Factors(left, right.T), leaf.dtype))
            # From a zero update there is no direction to start the next step from.
            kept.append(jnp.where(jnp.any(right != 0), right, old))
        return Lifted(tuple(parts), structure, shapes), tuple(kept)

    def decode(
        context: Context, payload: Lifted, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        del context
        leaves = [
            part if like is None else product(part, like)
            for part, like in zip(payload.parts, payload.shapes, strict=True)
        ]
        return jax.tree.unflatten(payload.structure, leaves), receiver

    return Compressor(init, encode, decode)
