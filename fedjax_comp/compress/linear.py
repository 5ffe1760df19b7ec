"""Messages that may be added before they are decoded.

Where `decode` is linear and needs no client's key, `sum_i w_i decode(p_i)` is
`decode(sum_i w_i p_i)`: one decoding for a cohort, a sum that a switch or a secure
aggregation can form without reading any message, and a server that may go on in the
compressed domain (Rothchild et al., "FetchSGD", 2020).
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context, PyTree


def sum_payloads(payloads: PyTree, weights: jax.Array | None = None) -> PyTree:
    """The weighted sum of a cohort's payloads, added as float32.

        p = sum_i w_i p_i

    Args:
      payloads: one payload with a leading axis `C` on every leaf, floats all of them.
      weights: float32 `[C]`; all 1 when None. A payload of weight 0 adds nothing,
        whatever it holds.

    Returns:
      A payload as one client's, in the dtypes of `payloads`.

    Raises:
      ValueError: when a leaf is not of floats: symbols and indices have no sum.

    >>> sum_payloads([jnp.array([[1.0], [2.0]])], jnp.array([1.0, 10.0]))
    [Array([21.], dtype=float32)]
    """

    def total(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Expected payloads of floats, got a leaf of dtype {leaf.dtype}: send "
                "integers apart, and do not quantize before the sum."
            )
        numbers = leaf.astype(jnp.float32)
        if weights is not None:
            column = trees.along(weights, leaf).astype(jnp.float32)
            numbers = jnp.where(column == 0, 0.0, column * numbers)
        return jnp.sum(numbers, axis=0).astype(leaf.dtype)

    return jax.tree.map(total, payloads)


def decode_sum(
    compressor: Compressor, context: Context, summed: PyTree, receiver: PyTree
) -> PyTree:
    """Decodes a sum of payloads: the sum of what each would decode to.

        decode(sum_i w_i p_i) = sum_i w_i decode(p_i)   up to rounding.

    Args:
      compressor: a linear one, the same at all clients.
      context: the round's. Its client key is not used.
      summed: from `sum_payloads`, or added on the way.
      receiver: any client's `init(like).receiver`: it holds no array.

    Returns:
      The decoded sum, a tree as one client's.

    Raises:
      ValueError: when the compressor is not linear.

    Example:
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress.sparsify.top_k import random_k
      >>> shared = random_k(0.5, shared=True)
      >>> context = make_context(jax.random.key(0), 0)
      >>> payloads = jax.vmap(lambda x: shared.encode(context, x, ())[0])(
      ...     jnp.ones((3, 4))
      ... )
      >>> decoded = decode_sum(shared, context, sum_payloads(payloads), ())
      >>> sorted(decoded.tolist())
      [0.0, 0.0, 6.0, 6.0]
    """
    checks.compressor("compressor", compressor)
    if not compressor.linear:
        raise ValueError(
            "Expected a linear compressor: the decoded sum of messages is not the sum "
            "of the decoded ones here. Decode each, or use random_k(shared=True), "
            "rotate, dct, count_sketch or random_projection."
        )
    return compressor.decode(context, summed, receiver)[0]
