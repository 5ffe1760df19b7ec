"""Sparsifiers: some coordinates travel, the others are taken for zero.

top_k: Aji and Heafield, "Sparse communication for distributed gradient descent", 2017.
random_k: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", 2018, section 2.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.wire.fields import IndexSet, keep_prefix


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse:
    """Some coordinates of an array.

    Attributes:
      values: `[k]` in the array's dtype, open.
      indices: where they belong in the raveled array.
    """

    values: jax.Array
    indices: IndexSet


def scatter(
    values: jax.Array,
    indices: jax.Array,
    like: jax.ShapeDtypeStruct,
    count: jax.Array | None = None,
) -> jax.Array:
    """Zeros in the shape of `like`, with `values` at the raveled `indices`.

    Both are `[k]`; with a `count`, uint32 scalar, only the first `count` are placed.
    """
    n = math.prod(like.shape)
    if count is not None:
        # Each its own place behind the end, where the scatter drops it.
        place = jnp.arange(indices.size, dtype=jnp.uint32)
        indices = jnp.where(place < count, indices, n + place)
    zeros = jnp.zeros(n, like.dtype)
    placed = zeros.at[indices].set(
        values.astype(like.dtype), unique_indices=True, mode="drop"
    )
    return placed.reshape(like.shape)


def _checked(fraction: float | None, k: int | None) -> None:
    if (fraction is None) == (k is None):
        raise ValueError(
            f"Expected one of fraction={fraction!r} and k={k!r}, and not the other."
        )
    if k is None:
        checks.fraction("fraction", fraction)
    else:
        checks.integer("k", k, minimum=1)


def poison(values: jax.Array, x: jax.Array) -> jax.Array:
    """`values`, or NaN for every one of them when a number of `x` is not finite.

    What keeps only some coordinates would otherwise hide from the receiver that an
    update is broken.
    """
    return jnp.where(jnp.all(jnp.isfinite(x)), values, jnp.nan).astype(values.dtype)


def top_k(
    fraction: float | None = None, *, k: int | None = None, sampled: bool = False
) -> Compressor:
    """Keeps the coordinates of largest magnitude of every leaf.

    Contractive: `||C(x) - x||^2 <= (1 - k/n) ||x||^2`. Of equal magnitudes the first
    are kept. The values stay open, the indices are closed. NaN counts as larger than
    infinity, so that it is among what is kept.

    Args:
      fraction: `k = round(fraction * n)` of a leaf's `n` coordinates, at least 1.
      k: instead of `fraction`, how many of every leaf; all of a smaller one.
      sampled: whether leaves of more than some 32,000 coordinates are cut at a
        threshold that is estimated from a sample of them. That is faster, and keeps
        somewhat fewer than `k` coordinates, still those of largest magnitude. Their
        count is sent with the indices; the values behind it are sent as zeros.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: unless exactly one of `fraction` in (0, 1] and `k >= 1` is given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([1.0, -4, 3, 2])
      >>> payload, _ = top_k(0.5).encode(context, x, ())
      >>> payload.parts[0].indices.values.tolist()
      [1, 2]
      >>> top_k(0.5).decode(context, payload, ())[0]
      Array([ 0., -4.,  3.,  0.], dtype=float32)
    """
    _checked(fraction, k)

    def encode(context: Context, x: jax.Array) -> Sparse:
        del context
        flat = x.reshape(-1)
        count = selection.num_kept(x.size, fraction=fraction, k=k)
        if sampled:
            indices, found = selection.indices_above_sampled(flat, count)
            values = keep_prefix(flat[indices], found)
            return Sparse(values, IndexSet(indices, bound=x.size, count=found))
        indices = selection.largest_indices(flat, count)
        return Sparse(flat[indices], IndexSet(indices, bound=x.size))

    def decode(
        context: Context, payload: Sparse, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        indices = payload.indices
        return scatter(payload.values, indices.values, like, indices.count)

    return leafwise(ArrayCode("top_k", encode, decode))


def random_k(
    fraction: float | None = None,
    *,
    k: int | None = None,
    shared: bool = False,
    rescale: bool = True,
) -> Compressor:
    """Keeps random coordinates of every leaf; no index is sent, both ends draw them.

    Unbiased with `E||C(x) - x||^2 = (n/k - 1) ||x||^2` when the receiver multiplies by
    `n/k`, contractive with `E||C(x) - x||^2 = (1 - k/n) ||x||^2` when it does not. The
    values stay open. All of them are NaN when a number of the leaf is not finite,
    whether it is among them or not.

    Args:
      fraction: `k = round(fraction * n)` of a leaf's `n` coordinates, at least 1.
      k: instead of `fraction`, how many of every leaf; all of a smaller one.
      shared: whether the whole cohort keeps the same coordinates in a round.
      rescale: whether the receiver multiplies by `n/k`.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: unless exactly one of `fraction` in (0, 1] and `k >= 1` is given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> half = random_k(0.5)
      >>> payload, _ = half.encode(context, jnp.ones(4), ())
      >>> sorted(half.decode(context, payload, ())[0].tolist())
      [0.0, 0.0, 2.0, 2.0]
    """
    _checked(fraction, k)

    def draw(context: Context, n: int) -> jax.Array:
        key = context.round_key if shared else context.client_key
        count = selection.num_kept(n, fraction=fraction, k=k)
        return selection.random_indices(key, n, count)

    def encode(context: Context, x: jax.Array) -> jax.Array:
        return poison(x.reshape(-1)[draw(context, x.size)], x)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        n = math.prod(like.shape)
        values = payload.astype(jnp.float32)
        scaled = values * (n / payload.shape[0]) if rescale else values
        return scatter(scaled, draw(context, n), like)

    return leafwise(ArrayCode("random_k", encode, decode, linear=shared))
