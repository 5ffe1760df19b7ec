"""One client's part of a round with a server: train, encode, be counted.

The algorithms whose clients send the change that local training made share this code;
they differ in where a client starts from and in what becomes of the sum. Algorithms
whose clients send something else share `send` and `round_info`.
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
    Ends,
    Examples,
    LinkState,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo, mean_loss
from fedjax_comp.in_turn import in_turn
from fedjax_comp.server.aggregate import (
    WeightedSum,
    scaled,
    share,
    weighted,
)
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import to_server


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
      update: what was decoded of the messages, weighted by shares of examples.
      info: of the local training, zeros for a client that stayed silent.
      dropped: clients left out because something was not finite, int32.
    """

    update: WeightedSum
    info: LocalInfo
    dropped: jax.Array


class Sent(NamedTuple):
    """What an `Execution` returns for each message of a client, or to one.

    Attributes:
      bits: its length.
      spoke: bool, whether it was sent.
      ends: who sent it, and to whom.
      messages: the message itself where an audit wants it, else None.
    """

    bits: Bits
    spoke: jax.Array
    ends: Ends
    messages: Messages | None

    @property
    def traffic(self) -> Traffic:
        """What the messages cost."""
        return Traffic(self.bits, self.spoke, self.ends)


def sent_to_server(
    context: Context,
    payload: PyTree,
    receiver: PyTree,
    spoke: jax.Array,
    *,
    client_id: jax.Array,
    used: PyTree,
    keep_message: bool,
) -> Sent:
    """A client's message to the server.

    Args:
      context: what both ends know.
      payload: what is sent.
      receiver: the server's memory of the link before it decoded.
      spoke: bool scalar, whether it is sent.
      client_id: who sends it, int32 scalar.
      used: what the server goes on with: the very tree that is added up.
      keep_message: keep the message itself, for an audit.
    """
    ends = to_server(client_id)
    message = Messages(context, payload, receiver, spoke, ends, used)
    return Sent(num_bits(payload), spoke, ends, message if keep_message else None)


def send(
    uplink: Compressor,
    context: Context,
    value: PyTree,
    link: LinkState,
    *,
    batches: ClientBatches,
    info: LocalInfo,
    instead: PyTree | None = None,
    scale: jax.Array | None = None,
    sound: jax.Array | None = None,
    keep_message: bool,
) -> tuple[Summand, tuple[LinkState, Sent]]:
    """Sends a client's value and adds what is decoded of it to the cohort's sum.

    A client whose value is not finite stays silent. A client whose decoded value is not
    finite is left out of the sum. In both cases the memory of the link stays as it was;
    otherwise one overflow would silence the client for ever.

    Args:
      uplink: the compressor.
      context: of the message.
      value: what is sent.
      link: the link's memory.
      batches: whose work it was, for the id and the weight.
      info: of the local training.
      instead: what the encoder sees in place of a value that is not finite (its memory
        would keep the NaN); zeros when None.
      scale: multiplies what was decoded and not its weight; nothing when None.
      sound: bool scalar, False where something else of the client is not finite, such
        as an optimizer's state that lasts: it stays silent then, too.
      keep_message: keep the message itself, for an audit.
    """

    def through(
        context: Context,
        value: PyTree,
        link: LinkState,
        batches: ClientBatches,
        info: LocalInfo,
        instead: PyTree | None,
        scale: jax.Array | None,
        sound: jax.Array | None,
    ) -> tuple[Summand, LinkState, jax.Array, PyTree, PyTree]:
        healthy = tree.all_finite(value)
        if sound is not None:
            healthy = healthy & sound
        speaks = batches.active & healthy
        harmless = optax.tree.zeros_like(value) if instead is None else instead
        payload, sender = uplink.encode(
            context, tree.where(healthy, value, harmless), link.sender
        )
        decoded, receiver = uplink.decode(context, payload, link.receiver)
        followed = decoded if scale is None else scaled(decoded, scale)
        weight = share(batches.num_examples)
        counts = speaks & tree.all_finite(followed)
        summand = Summand(
            update=weighted(followed, weight, counts),
            info=tree.where(speaks, info, optax.tree.zeros_like(info)),
            dropped=(batches.active & ~counts).astype(jnp.int32),
        )
        # Both ends know what the other decodes, and forget a message that did not
        # count.
        remembered = tree.where(counts, LinkState(sender, receiver), link)
        return summand, remembered, speaks, payload, decoded if keep_message else None

    summand, remembered, speaks, payload, decoded = in_turn(through)(
        context, value, link, batches, info, instead, scale, sound
    )
    # Its length is that of many short steps where it is coded: those of all clients
    # are done at once.
    message = sent_to_server(
        context,
        payload,
        link.receiver,
        speaks,
        client_id=batches.client_id,
        used=decoded,
        keep_message=keep_message,
    )
    return summand, (remembered, message)


ClientUpdate = Callable[..., tuple[Summand, tuple[LinkState, Sent]]]
"""`(start, examples, batches, link, rank, scale=None)`; see `update_and_send`."""


def update_and_send(
    train: Callable[[PyTree, Examples, ClientBatches], tuple[PyTree, LocalInfo]],
    uplink: Compressor,
    *,
    keep_messages: bool,
) -> ClientUpdate:
    """The function that a cohort maps over its clients.

    Args:
      train: the local training, such as `local_sgd`.
      uplink: compressor of the update.
      keep_messages: return the message itself, for an audit.

    Returns:
      `(start, examples, batches, link, rank, scale) -> (Summand, (LinkState, Sent))`,
      the difference that training made, sent as `send` does. `rank` is `Context.rank`;
      `scale`, if any, multiplies the decoded update and not its weight.
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
        return send(
            uplink,
            make_context(start.uplink_key, batches.client_id, rank),
            optax.tree.sub(local, start.received),
            link,
            batches=batches,
            info=info,
            scale=scale,
            keep_message=keep_messages,
        )

    return update


def round_info(
    total: Summand,
    sent: Sent,
    downlink: Traffic,
    spoken: Messages | None = None,
    refused: jax.Array | None = None,
    **observed: Observed,
) -> RoundInfo:
    """The `RoundInfo` of a round of such clients.

    Args:
      total: the cohort's sum.
      sent: of each client, `[C]`.
      downlink: what the clients heard.
      spoken: the broadcast, for an audit.
      refused: bool scalar, whether the server's step was: then everyone was dropped.
      **observed: an algorithm's own observations.
    """
    kept = {"uplink": sent.messages, "downlink": spoken}
    dropped = total.dropped
    if refused is not None:
        spoke = jnp.sum(sent.spoke, dtype=jnp.int32)
        dropped = jnp.where(refused, jnp.maximum(dropped, spoke), dropped)
    return RoundInfo(
        train_loss=mean_loss(total.info),
        client_steps=total.info.steps,
        dropped=dropped,
        traffic={"uplink": sent.traffic, "downlink": downlink},
        observed=observed,
        messages={name: x for name, x in kept.items() if x is not None},
    )
