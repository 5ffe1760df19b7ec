"""What a compressor lost is added to what it sends next.

Seide et al., "1-bit stochastic gradient descent", 2014; Stich, Cordonnier and Jaggi,
"Sparsified SGD with memory", 2018; Karimireddy et al., "Error feedback fixes SignSGD",
2019, algorithm 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress import _checks
from fedjax_comp.compress.leafwise import is_open, require_open
from fedjax_comp.wire.fields import is_field


class FeedbackState(NamedTuple):
    """The sender's memory.

    Attributes:
      memory: what is still owed, float32, one array for each open leaf.
      sender: of the compressor inside.
      receiver: what the receiver's state is by now, to decode as it does.
    """

    memory: tuple[jax.Array, ...]
    sender: PyTree
    receiver: PyTree


def _open_leaves(tree: PyTree) -> list[jax.Array]:
    leaves = jax.tree.leaves(tree, is_leaf=is_field)
    return [leaf for leaf in leaves if is_open(leaf)]


def error_feedback(compressor: Compressor) -> Compressor:
    """Keeps what a compressor loses and adds it to the next message.

        p = C(x + e),   e <- x + e - decode(p).

    Over any number of messages the decoded sum equals the sum of what was to be sent
    but for the last `e`, so that nothing is lost for good. Wrap the whole pipeline:
    the memory then also holds the rounding of its last stage. The state is to stay as
    it was when a message was not sent.

    Args:
      compressor: `C`, biased or not.

    Returns:
      A `Compressor` with a memory of the size of the open leaves at the sender.

    Raises:
      ValueError: when `compressor` is none; from `init` when nothing is open.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import top_k
      >>> uplink = error_feedback(top_k(k=1))
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([3.0, 2.0])
      >>> state = uplink.init(x)
      >>> sender, total = state.sender, jnp.zeros(2)
      >>> for _ in range(5):
      ...     payload, sender = uplink.encode(context, x, sender)
      ...     total += uplink.decode(context, payload, state.receiver)[0]
      >>> total.tolist(), sender.memory[0].tolist()
      ([15.0, 8.0], [0.0, 2.0])
    """
    _checks.compressor("compressor", compressor)

    def init(like: PyTree) -> LinkState:
        require_open("error_feedback", like)
        state = compressor.init(like)
        memory = tuple(
            jnp.zeros(leaf.shape, jnp.float32) for leaf in _open_leaves(like)
        )
        return LinkState(
            sender=FeedbackState(memory, state.sender, state.receiver),
            receiver=state.receiver,
        )

    def encode(
        context: Context, tree: PyTree, sender: FeedbackState
    ) -> tuple[PyTree, FeedbackState]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        owed = [
            leaf.astype(jnp.float32) + memory
            for leaf, memory in zip(_open_leaves(tree), sender.memory, strict=True)
        ]
        still = iter(owed)
        target = jax.tree.unflatten(
            structure,
            [
                next(still).astype(leaf.dtype) if is_open(leaf) else leaf
                for leaf in leaves
            ],
        )
        payload, inner = compressor.encode(context, target, sender.sender)
        decoded, receiver = compressor.decode(context, payload, sender.receiver)
        memory = tuple(
            want - got.astype(jnp.float32)
            for want, got in zip(owed, _open_leaves(decoded), strict=True)
        )
        return payload, FeedbackState(memory, inner, receiver)

    return Compressor(init, encode, compressor.decode)
