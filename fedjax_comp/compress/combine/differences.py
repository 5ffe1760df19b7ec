"""Sends the difference from a reference that both ends keep.

EF21: Richtárik, Sokolov and Fatkhullin, "EF21: a new, simpler, theoretically better,
and practically faster error feedback", 2021, algorithm 2. DIANA: Mishchenko, Gorbunov,
Takáč and Richtárik, "Distributed learning with compressed gradient differences", 2019,
algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.feedback import refuse_feedback
from fedjax_comp.compress.combine.leafwise import (
    open_leaves,
    replace_open,
    require_open,
    twin,
    zeros_of_open,
)


class SenderState(NamedTuple):
    """The sender's memory.

    Attributes:
      reference: `h`, float32, one array for each open leaf.
      sender: the sender's state of the compressor inside.
      receiver: a copy of the receiver's state, to decode as it does.
    """

    reference: tuple[jax.Array, ...]
    sender: PyTree
    receiver: PyTree


class ReceiverState(NamedTuple):
    """The receiver's memory: the same reference, and the state of the inner one."""

    reference: tuple[jax.Array, ...]
    receiver: PyTree


def differenced(compressor: Compressor, *, step: float = 1.0) -> Compressor:
    """Sends the difference from a reference that both ends update alike.

        p = C(x - h),   d = decode(p),   decoded = h + d,   h <- h + step * d.

    As `x` settles, the differences vanish, and with them the error of `C`. With a
    contractive `C` and `step=1` this is EF21 (a constant `x` is approached as
    `||x - h|| <= (1 - alpha)^(t/2) ||x||`); with an unbiased one and
    `step <= 1 / (1 + omega)` it is DIANA, unbiased in every round. When a message is
    not sent, both ends must keep the state they had.

    Both ends have to compute the reference alike: on machines that round in different
    ways the two would drift apart by a last digit per round.

    Args:
      compressor: `C`, contractive or unbiased.
      step: in (0, 1], DIANA's alpha.

    Returns:
      A `Compressor` with a reference of the size of the open leaves at each end.

    Raises:
      ValueError: when an argument is not as above; from `init` when the stages before
        it left nothing open, or when `C` has error feedback in it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import top_k
      >>> uplink = differenced(top_k(k=1))
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([3.0, 2.0])
      >>> sender, receiver = uplink.init(x)
      >>> for _ in range(2):
      ...     payload, sender = uplink.encode(context, x, sender)
      ...     decoded, receiver = uplink.decode(context, payload, receiver)
      ...     print(decoded)
      [3. 0.]
      [3. 2.]
    """
    checks.compressor("compressor", compressor)
    step = checks.fraction("step", step)

    def moved(
        reference: tuple[jax.Array, ...], difference: PyTree
    ) -> tuple[jax.Array, ...]:
        return tuple(
            h + step * d.astype(jnp.float32)
            for h, d in zip(reference, open_leaves(difference), strict=True)
        )

    def init(like: PyTree) -> LinkState:
        require_open("differenced", like)
        inner = compressor.init(like)
        refuse_feedback("differenced", inner)
        return LinkState(
            sender=SenderState(zeros_of_open(like), inner.sender, twin(inner.receiver)),
            receiver=ReceiverState(zeros_of_open(like), inner.receiver),
        )

    def encode(
        context: Context, tree: PyTree, sender: SenderState
    ) -> tuple[PyTree, SenderState]:
        differences = [
            x.astype(jnp.float32) - h
            for x, h in zip(open_leaves(tree), sender.reference, strict=True)
        ]
        payload, inner = compressor.encode(
            context, replace_open(tree, differences), sender.sender
        )
        decoded, receiver = compressor.decode(context, payload, sender.receiver)
        return payload, SenderState(moved(sender.reference, decoded), inner, receiver)

    def decode(
        context: Context, payload: PyTree, receiver: ReceiverState
    ) -> tuple[PyTree, ReceiverState]:
        decoded, inner = compressor.decode(context, payload, receiver.receiver)
        sums = [
            h + d.astype(jnp.float32)
            for h, d in zip(receiver.reference, open_leaves(decoded), strict=True)
        ]
        reference = moved(receiver.reference, decoded)
        return replace_open(decoded, sums), ReceiverState(reference, inner)

    return Compressor(init, encode, decode)
