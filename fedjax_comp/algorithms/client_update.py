"""One client's part of a round of federated averaging: train, encode, be counted.

Algorithms that send the difference that local training made share it: what they differ
in is where a client starts from and what becomes of the sum.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree
from fedjax_comp.base import (
    Bits,
    ClientBatches,
    Compressor,
    Context,
    Examples,
    LinkState,
    Messages,
    PyTree,
    RoundInfo,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo
from fedjax_comp.server.aggregate import WeightedSum, weighted
from fedjax_comp.wire.accounting import num_bits


class Start(NamedTuple):
    """What a client begins with.

    Attributes:
      received: the model it decoded.
      uplink_key: of its message's context, scalar key array, one for all who began
        from the same broadcast.
    """

    received: PyTree
    uplink_key: jax.Array


class Summand(NamedTuple):
    """What an `Execution` adds up over a cohort.

    Attributes:
      update: the decoded updates, weighted by examples.
      info: of the local training, zeros for a client that stayed silent.
      dropped: clients left out because something was not finite, int32.
    """

    update: WeightedSum
    info: LocalInfo
    dropped: jax.Array


class Sent(NamedTuple):
    """What an `Execution` hands back of each client.

    Attributes:
      bits: of its message.
      spoke: bool, whether it was sent.
      messages: the message itself where an audit wants it, else None.
    """

    bits: Bits
    spoke: jax.Array
    messages: Messages | None


ClientUpdate = Callable[..., tuple[Summand, tuple[LinkState, Sent]]]
"""`(start, examples, batches, link, rank, scale=None)`; see `update_and_send`."""


def update_and_send(
    train: Callable[[PyTree, Examples, ClientBatches], tuple[PyTree, LocalInfo]],
    uplink: Compressor,
    *,
    keep_messages: bool,
) -> ClientUpdate:
    """The function that a cohort maps over its clients.

    A client whose update is not finite stays silent and keeps its memory; one whose
    decoded update is not finite is left out of the sum.

    Args:
      train: the local training, such as `local_sgd`.
      uplink: compressor of the update.
      keep_messages: return the message itself, for an audit.

    Returns:
      `(start, examples, batches, link, rank, scale) -> (Summand, (LinkState, Sent))`.
      `rank` is `Context.rank`; `scale`, if any, multiplies the decoded update and not
      its weight.
    """

    def update(
        start: Start,
        examples: Examples,
        batches: ClientBatches,
        link: LinkState,
        rank: jax.Array,
        scale: jax.Array | None = None,
    ) -> tuple[Summand, tuple[LinkState, Sent]]:
        local, info = train(start.received, examples, batches)
        delta = optax.tree.sub(local, start.received)
        healthy = tree.all_finite(delta)
        speaks = batches.active & healthy
        # The encoder never sees a broken update: its memory would keep the NaN.
        clean = tree.where(healthy, delta, optax.tree.zeros_like(delta))
        context = make_context(start.uplink_key, batches.client_id, rank)
        payload, sender = uplink.encode(context, clean, link.sender)
        decoded, receiver = uplink.decode(context, payload, link.receiver)
        counts = speaks & tree.all_finite(decoded)
        if scale is not None:
            decoded = optax.tree.scale(scale, decoded)
        summand = Summand(
            update=weighted(decoded, batches.num_examples.astype(jnp.float32), counts),
            info=tree.where(speaks, info, optax.tree.zeros_like(info)),
            dropped=(batches.active & ~counts).astype(jnp.int32),
        )
        message = Messages(context, payload, link.receiver, speaks)
        kept = message if keep_messages else None
        remembered = tree.where(speaks, LinkState(sender, receiver), link)
        return summand, (remembered, Sent(num_bits(payload), speaks, kept))

    return update


def one_message(
    context: Context, payload: PyTree, receiver: PyTree, spoke: jax.Array
) -> Messages:
    """A single message, such as a broadcast, as the cohort of one that audits read."""
    return jax.tree.map(lambda x: x[None], Messages(context, payload, receiver, spoke))


def round_info(
    total: Summand,
    sent: Sent,
    downlink: Traffic,
    spoken: Messages | None = None,
    **observed: jax.Array,
) -> RoundInfo:
    """What is observed of a round of such clients.

    Args:
      total: the cohort's sum.
      sent: of each client, `[C]`.
      downlink: what the clients heard.
      spoken: the broadcast, for an audit.
      **observed: an algorithm's own observations.
    """
    kept = {"uplink": sent.messages, "downlink": spoken}
    return RoundInfo(
        train_loss=total.info.loss_sum / jnp.maximum(total.info.examples_used, 1),
        client_steps=total.info.steps,
        dropped=total.dropped,
        uplink=Traffic(sent.bits, sent.spoke),
        downlink=downlink,
        observed=observed,
        messages={name: x for name, x in kept.items() if x is not None},
    )
