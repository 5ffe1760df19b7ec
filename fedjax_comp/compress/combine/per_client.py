"""Randomness that a cohort would share, made each client's own."""

import jax

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree

_OWN = 0x7072  # apart from the indices by which stages and leaves fold their keys


def per_client(compressor: Compressor) -> Compressor:
    """Gives a stage a round key of the client's own.

    `rotate`, shared masks and sketches draw from the round's key, so that a cohort's
    messages lie in one basis. But so do their errors: clients that send the same vector
    make the same error, and the mean is no better than one of them. Under `per_client`
    the errors are independent, and the squared error of the mean is `1 / C` of a
    client's, as in EDEN; the sum can no longer be formed before decoding.

    Args:
      compressor: a stage or a whole pipeline, e.g. `rotate()`.

    Returns:
      A `Compressor` with the states of `compressor`, not linear.

    Raises:
      ValueError: when `compressor` is not a Compressor.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import random_k
      >>> own = per_client(random_k(k=1, shared=True))
      >>> key, x = jax.random.key(0), jnp.ones(100)
      >>> sent = [own.encode(make_context(key, c), x, ()) for c in range(2)]
      >>> sent[0][0].parts[0].shape
      (1,)
    """
    checks.compressor("compressor", compressor)

    def own(context: Context) -> Context:
        key = jax.random.fold_in(context.client_key, _OWN)
        return context._replace(round_key=key)

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        return compressor.encode(own(context), tree, sender)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        return compressor.decode(own(context), payload, receiver)

    return Compressor(compressor.init, encode, decode)
