"""Questions asked of whole pytrees that `jax.tree` and `optax.tree` do not answer.

Sums, scalings and norms of trees are in `optax.tree`; they are not repeated here.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree


def size(tree: PyTree) -> int:
    """How many numbers a tree holds, `n`.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s of any shapes.

    Returns:
      The sum of the leaves' sizes, a Python int.

    >>> import jax.numpy as jnp
    >>> size({"w": jnp.zeros((3, 4)), "b": jnp.zeros(4), "step": jnp.zeros(())})
    17
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no float of a tree is NaN or infinite; True for an empty tree.

    Args:
      tree: arrays of any shapes; integers count as finite.

    Returns:
      A bool scalar.

    >>> import jax.numpy as jnp
    >>> bool(all_finite({"w": jnp.ones(3), "count": jnp.arange(2)}))
    True
    >>> bool(all_finite([jnp.array([1.0, jnp.inf])]))
    False
    """
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def where(pred: jax.Array, when_true: PyTree, when_false: PyTree) -> PyTree:
    """Chooses one of two trees of the same structure, shapes and dtypes.

    Args:
      pred: a bool scalar.
      when_true: the tree returned where `pred`.
      when_false: the tree returned elsewhere.

    Returns:
      A tree like either; what was not chosen leaves no trace, NaN included.

    >>> import jax.numpy as jnp
    >>> where(jnp.asarray(True), [jnp.ones(2)], [jnp.full(2, jnp.nan)])
    [Array([1., 1.], dtype=float32)]
    """
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b), when_true, when_false)


def widened(tree: PyTree) -> PyTree:
    """The same numbers with floats in float32 at least, to be added up.

    bfloat16 stops counting at 256, and float16 ends at 65,504.

    >>> import jax.numpy as jnp
    >>> widened([jnp.ones((), jnp.bfloat16), jnp.ones((), jnp.int32)])
    [Array(1., dtype=float32), Array(1, dtype=int32)]
    """

    def widen(x: jax.Array) -> jax.Array:
        half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
        return x.astype(jnp.float32) if half else x

    return jax.tree.map(widen, tree)


def settled(tree: PyTree) -> PyTree:
    """The same tree, with floats in half precision rounded as they will be kept.

    A compiler may skip the rounding of a result in half precision that is used at once,
    so that what is added up is not what is sent or kept. Other leaves stay as they are,
    and so does what is compiled of them.

    >>> import jax.numpy as jnp
    >>> settled([jnp.ones(1, jnp.bfloat16), jnp.ones(1)])
    [Array([1], dtype=bfloat16), Array([1.], dtype=float32)]
    """

    def settle(x: jax.Array) -> jax.Array:
        half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
        return jax.lax.optimization_barrier(x) if half else x

    return jax.tree.map(settle, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """A tree in the dtypes of another one.

    Args:
      tree: arrays.
      like: arrays or `jax.ShapeDtypeStruct`s, of the same structure.

    >>> import jax.numpy as jnp
    >>> cast_like([jnp.ones(1)], [jnp.zeros(1, jnp.bfloat16)])
    [Array([1], dtype=bfloat16)]
    """
    return jax.tree.map(lambda x, to: x.astype(to.dtype), tree, like)


def mean_row(tree: PyTree) -> PyTree:
    """The mean over the leading axis, finite if all rows are.

    Args:
      tree: floats `[C, ...]`.

    Returns:
      A tree of `[...]`, in the same dtypes.

    >>> import jax.numpy as jnp
    >>> float(mean_row(jnp.full(4, 2e38))) < 2.1e38
    True
    """

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(widened(x) / x.shape[0], axis=0).astype(x.dtype)

    return jax.tree.map(mean, tree)


def along(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """A mask or weight for each row of a leaf, shaped so that it meets the whole row.

    Args:
      mask: any dtype, of the leading axes of `leaf`, e.g. `[C]`.
      leaf: e.g. `[C, ...]`.

    Returns:
      `mask` with axes of 1 behind its own, of as many axes as `leaf`.

    >>> import jax.numpy as jnp
    >>> along(jnp.array([True, False]), jnp.zeros((2, 3, 4))).shape
    (2, 1, 1)
    """
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def keep(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """The rows with `mask`, zeros for the others, whatever they hold.

    >>> import jax.numpy as jnp
    >>> keep(jnp.array([True, False]), jnp.array([[1.0], [jnp.nan]])).tolist()
    [[1.0], [0.0]]
    """
    return jnp.where(along(mask, leaf), leaf, jnp.zeros((), leaf.dtype))


def ravel(leaves: Sequence[jax.Array]) -> jax.Array:
    """Lays float arrays end to end as one float32 vector.

    Args:
      leaves: float arrays of any shapes.

    Returns:
      A float32 vector `[n]`, empty when there is no leaf.

    >>> import jax.numpy as jnp
    >>> ravel([jnp.ones((1, 2)), jnp.zeros((), jnp.bfloat16)])
    Array([1., 1., 0.], dtype=float32)
    """
    flat = [leaf.reshape(-1).astype(jnp.float32) for leaf in leaves]
    return joined(flat) if flat else jnp.zeros(0, jnp.float32)


def joined(vectors: Sequence[jax.Array]) -> jax.Array:
    """Lays long vectors of one dtype end to end, by writing each to its place.

    The result is that of `jnp.concatenate`, which a compiler for a CPU fuses into one
    loop with whatever computes the vectors: every number is then looked for in all of
    them, at several times the price of a copy.

    >>> import jax.numpy as jnp
    >>> joined([jnp.array([1, 2]), jnp.array([3])])
    Array([1, 2, 3], dtype=int32)
    """
    if len(vectors) == 1:
        return vectors[0]
    n = sum(vector.size for vector in vectors)
    # Were it known to be zeros, the first would be padded by them: that loop again.
    whole = jax.lax.optimization_barrier(jnp.zeros(n, vectors[0].dtype))
    start = 0
    for vector in vectors:
        whole = jax.lax.dynamic_update_slice(whole, vector, (start,))
        start += vector.size
    return whole


def unravel(vector: jax.Array, like: Sequence[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """Cuts a vector back into the arrays that `ravel` laid end to end.

    Args:
      vector: `[n]`.
      like: the shapes and dtypes of the arrays, `n` numbers in all.

    Returns:
      One array for each entry of `like`.

    >>> import jax, jax.numpy as jnp
    >>> unravel(jnp.arange(3.0), [jax.ShapeDtypeStruct((3, 1), jnp.float32)])[0].shape
    (3, 1)
    """
    parts, start = [], 0
    for leaf in like:
        stop = start + math.prod(leaf.shape)
        parts.append(vector[start:stop].reshape(leaf.shape).astype(leaf.dtype))
        start = stop
    return parts
