"""A message for each client: what changed in the model since the client last heard it.

A broadcast with memory can only be decoded by clients that heard all earlier ones, so
every client has to listen, and is paid for, in every round. Here the server remembers
what each client decoded last, and a client that is not in a round hears nothing. With
`w` the server's model and `h_i` what client `i` last decoded,

    p_i = C(w - h_i),   h_i <- h_i + decode(p_i),   client i trains from h_i.

What a message loses is part of the next difference, so `C` may be biased and needs no
`error_feedback`. But its error must not exceed its input, as that of an unbiased one of
few bits does, or the differences grow. All `h_i` begin at the initial model, which
follows from a seed that all know.

After Philippenko and Dieuleveut 2021, "Preserved central model for faster bidirectional
compression in distributed settings" (arXiv 2102.12528): downlink compression affects
only the clients' models, through a memory and, in the randomized variant, a separate
message for each worker. The server's model is never compressed. Here a client that is
not in a round gets no message, and its memory stays as it is.
"""

from typing import NamedTuple

import jax
import optax

from fedjax_comp import tree
from fedjax_comp.base import (
    Compressor,
    Context,
    LinkState,
    Messages,
    PyTree,
    Traffic,
)
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import to_client


class Listener(NamedTuple):
    """What the server and one client both know about what the client has heard.

    Attributes:
      model: what it last decoded, `h_i`.
      link: the memory of the compressor.
    """

    model: PyTree
    link: LinkState


class Told(NamedTuple):
    """One message to one client.

    Attributes:
      received: the model that it trains from.
      listener: afterwards.
      traffic: what it costs.
      message: for an audit.
    """

    received: PyTree
    listener: Listener
    traffic: Traffic
    message: Messages


def new_listener(compressor: Compressor, params: PyTree) -> Listener:
    """A client that knows the initial model and has heard nothing yet."""
    return Listener(params, compressor.init(params))


def tell(
    compressor: Compressor,
    context: Context,
    params: PyTree,
    listener: Listener,
    *,
    client_id: jax.Array,
    hears: jax.Array,
) -> Told:
    """Tells one client what changed.

    If the decoded model is not finite, both ends see it and keep their old memory.

    Args:
      compressor: of the downlink.
      context: of the message.
      params: the server's model, `w`.
      listener: before.
      client_id: int32 scalar.
      hears: bool scalar, whether the message is sent.

    >>> import jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> from fedjax_comp.compress import top_k
    >>> from fedjax_comp.keys import make_key
    >>> listener = new_listener(top_k(k=1), jnp.zeros(2))
    >>> context, who = make_context(make_key(0), 3), jnp.int32(3)
    >>> for _ in range(2):
    ...     told = tell(
    ...         top_k(k=1), context, jnp.array([3.0, 2.0]), listener,
    ...         client_id=who, hears=jnp.array(True),
    ...     )
    ...     listener = told.listener
    ...     print(told.received)
    [3. 0.]
    [3. 2.]
    """
    change = tree.settled(optax.tree.sub(params, listener.model))
    payload, sender = compressor.encode(context, change, listener.link.sender)
    decoded, receiver = compressor.decode(context, payload, listener.link.receiver)
    received = tree.settled(optax.tree.add(listener.model, decoded))
    moved = Listener(received, LinkState(sender, receiver))
    ends = to_client(client_id)
    return Told(
        received=received,
        listener=tree.where(hears & tree.all_finite(received), moved, listener),
        traffic=Traffic(num_bits(payload), hears, ends),
        message=Messages(
            context, payload, listener.link.receiver, hears, ends, used=decoded
        ),
    )
