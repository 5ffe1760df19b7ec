"""Sparsifiers whose number of coordinates is not fixed: it travels, and is paid for.

threshold: Strom, "Scalable distributed DNN training using commodity GPU cloud
computing", 2015; Sahu et al., "Rethinking gradient sparsification as total error
minimization", 2021. warm_up_top_k: Lin et al., "Deep gradient compression", 2018,
section 3.3.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.compress.sparsify.top_k import scatter
from fedjax_comp.wire.fields import IndexSet, Raw


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CountedSparse:
    """Some coordinates of an array, whose number is part of the message; closed.

    Attributes:
      values: `[capacity]` in the array's dtype, of which `count` travel.
      indices: where they belong in the raveled array, with the same count.
    """

    values: Raw
    indices: IndexSet


def compacted(x: jax.Array, indices: jax.Array, keep: jax.Array) -> CountedSparse:
    """The coordinates at those of `indices` that are to be kept, moved to the front.

    Args:
      x: float `[n]`.
      indices: uint32 `[capacity]`, ascending and distinct.
      keep: bool `[capacity]`.

    >>> sparse = compacted(
    ...     jnp.array([5.0, 6, 7]),
    ...     jnp.array([0, 2], jnp.uint32),
    ...     jnp.array([False, True]),
    ... )
    >>> int(sparse.indices.count), sparse.values.values.tolist()
    (1, [7.0, 0.0])
    """
    capacity = indices.shape[0]
    # Those that are not kept are placed out of bounds, where the scatter drops them.
    place = jnp.where(keep, jnp.cumsum(keep.astype(jnp.int32)) - 1, capacity)
    count = jnp.sum(keep, dtype=jnp.uint32)
    front = jnp.zeros(capacity, x.dtype).at[place].set(x[indices], mode="drop")
    where = jnp.zeros(capacity, jnp.uint32).at[place].set(indices, mode="drop")
    return CountedSparse(
        Raw(front, count), IndexSet(where, bound=x.shape[0], count=count)
    )


def largest(x: jax.Array, capacity: int, count: jax.Array) -> CountedSparse:
    """The `count` coordinates of largest magnitude; `count` is decided inside jit.

    Args:
      x: float `[n]`.
      capacity: at most so many, in `[1, n]`.
      count: uint32 scalar in `[0, capacity]`, traced.

    >>> sparse = largest(jnp.array([5.0, 6, -7]), 2, jnp.uint32(1))
    >>> sparse.indices.values.tolist(), sparse.values.values.tolist()
    ([2, 0], [-7.0, 0.0])
    """
    most = selection.largest_indices(x, capacity)
    indices, values = selection.largest_of(x, most, count)
    return CountedSparse(Raw(values, count), IndexSet(indices, x.shape[0], count))


def decode_counted(
    context: Context, payload: CountedSparse, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """Zeros shaped as `like` but for the coordinates that travelled."""
    del context
    indices = payload.indices
    return scatter(payload.values.values, indices.values, like, indices.count)


def threshold(value: float, *, cap: float = 0.1) -> Compressor:
    """Keeps the coordinates of magnitude `value` and more, the largest if too many.

    What is dropped is below `value` each, unless the cap bites; then it is top-k. No
    relative error is guaranteed below `||C(x) - x||^2 <= ||x||^2`: use it under
    `error_feedback`. A NaN is kept, so that it shows. Values and indices are closed.

    Args:
      value: above 0.
      cap: at most `round(cap * n)` of a leaf's `n` coordinates, at least 1; in (0, 1].

    Returns:
      A stateless `Compressor`; the message says how many there are.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> above_two, x = threshold(2.0, cap=0.75), jnp.array([1.0, -4, 0, 2])
      >>> payload, _ = above_two.encode(context, x, ())
      >>> int(payload.parts[0].indices.count)
      2
      >>> above_two.decode(context, payload, ())[0]
      Array([ 0., -4.,  0.,  2.], dtype=float32)
    """
    value = checks.number("value", value, minimum=5e-324, below=math.inf)
    cap = checks.fraction("cap", cap)

    def encode(context: Context, x: jax.Array) -> CountedSparse:
        del context
        flat = x.reshape(-1)
        capacity = selection.num_kept(x.size, fraction=cap, k=None)
        indices = selection.largest_indices(flat, capacity)
        is_small = jnp.abs(flat[indices]).astype(jnp.float32) < value
        return compacted(flat, indices, ~is_small)

    return leafwise(ArrayCode("threshold", encode, decode_counted))


def warm_up_top_k(
    fraction: float, *, warm_up: Sequence[float], messages: int
) -> Compressor:
    """Top-k that begins gently: a larger fraction at first, `fraction` from then on.

    Message `t` of a link keeps `warm_up[t // messages]`, and `fraction` when these are
    used up. Contractive as top-k of the fraction in force. Values and indices are
    closed, and only those in force travel; shapes are those of the largest fraction.

    Args:
      fraction: in (0, 1].
      warm_up: fractions in (0, 1], e.g. `(0.25, 0.0625, 0.015625, 0.004)`.
      messages: for how many messages each of them holds, at least 1.

    Returns:
      A `Compressor` whose sender counts its messages. A message that was not sent
      does not count, since its state is dropped.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> uplink, x = warm_up_top_k(0.25, warm_up=(0.75,), messages=2), jnp.ones(4)
      >>> sender = uplink.init(x).sender
      >>> for _ in range(3):
      ...     payload, sender = uplink.encode(context, x, sender)
      ...     print(uplink.decode(context, payload, ())[0])
      [1. 1. 1. 0.]
      [1. 1. 1. 0.]
      [1. 0. 0. 0.]
    """
    fractions = [checks.fraction("warm_up", f) for f in warm_up]
    fractions.append(checks.fraction("fraction", fraction))
    messages = checks.integer("messages", messages, minimum=1)

    def encode_at(stage: jax.Array, x: jax.Array) -> CountedSparse:
        flat = x.reshape(-1)
        counts = [selection.num_kept(x.size, fraction=f, k=None) for f in fractions]
        count = jnp.asarray(np.asarray(counts, np.uint32))[stage]
        return largest(flat, max(counts), count)

    def stage_of(sent: jax.Array) -> jax.Array:
        return jnp.minimum(sent // messages, len(fractions) - 1)

    def at(stage: jax.Array) -> Compressor:
        def encode(context: Context, x: jax.Array) -> CountedSparse:
            del context
            return encode_at(stage, x)

        return leafwise(ArrayCode("warm_up_top_k", encode, decode_counted))

    def init(like: PyTree) -> LinkState:
        at(jnp.int32(0)).init(like)
        return LinkState(sender=jnp.zeros((), jnp.int32), receiver=())

    def encode(
        context: Context, tree: PyTree, sender: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        payload, _ = at(stage_of(sender)).encode(context, tree, ())
        # Held at the last stage, so that no count is too large for it.
        last = messages * (len(fractions) - 1)
        return payload, jnp.minimum(sender + 1, last)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        return at(jnp.int32(0)).decode(context, payload, receiver)

    return Compressor(init, encode, decode)
