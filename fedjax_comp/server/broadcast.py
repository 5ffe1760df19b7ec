"""The server's message to everybody: encoded once, and decoded by each listener."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import (
    EVERYONE,
    Compressor,
    Context,
    LinkState,
    Messages,
    PyTree,
    Traffic,
)
from fedjax_comp.tree import where
from fedjax_comp.wire.traffic import broadcast_traffic, to_client


class Broadcast(NamedTuple):
    """A broadcast that was made.

    Attributes:
      received: what every listener decodes of it.
      link: the link's memory afterwards.
      payload: what is sent.
      context: what both ends know.
      state: the receivers' memory before they decoded.
    """

    received: PyTree
    link: LinkState
    payload: PyTree
    context: Context
    state: PyTree

    def traffic(self, heard: jax.Array, client: jax.Array | None = None) -> Traffic:
        """What it costs; the arguments are those of `broadcast_traffic`."""
        return broadcast_traffic(self.payload, heard, client)

    def traffic_of_round(
        self, active: jax.Array, client: jax.Array, population: int | None
    ) -> Traffic:
        """What it costs: the cohort hears it, or all `K` clients where they have to.

        Args:
          active: bool `[C]`.
          client: int32 `[C]`, the cohort's ids.
          population: `K`; all hear every message where receivers have memory.
        """
        if self._is_for_all(population):
            return self.traffic(jnp.ones(population or 0, bool))
        return self.traffic(active, client)

    def link_after(
        self, before: LinkState, active: jax.Array, population: int | None = None
    ) -> LinkState:
        """The link's memory after the round: unchanged if nobody heard the message.

        Args:
          before: the memory before.
          active: bool `[C]`, who of the cohort hears it.
          population: as for `traffic_of_round`.
        """
        if self._is_for_all(population):
            return self.link
        return where(active.any(), self.link, before)

    def _is_for_all(self, population: int | None) -> bool:
        return population is not None and bool(jax.tree.leaves(self.state))

    def messages(self, spoke: jax.Array) -> Messages:
        """The message for an audit, `[1]`, whoever heard it; `spoke` is a scalar."""
        one = Messages(
            context=self.context,
            payload=self.payload,
            receiver=self.state,
            spoke=spoke,
            ends=to_client(EVERYONE),
            used=self.received,
        )
        return jax.tree.map(lambda x: jnp.asarray(x)[None], one)


def broadcast(
    compressor: Compressor, context: Context, tree: PyTree, link: LinkState
) -> Broadcast:
    """Encodes the server's message, and decodes it as its listeners do.

    Args:
      compressor: of the downlink.
      context: of the message.
      tree: what is sent.
      link: the memory of the downlink; all listeners have the same.

    >>> from fedjax_comp.base import make_context
    >>> from fedjax_comp.compress import identity
    >>> from fedjax_comp.keys import make_key
    >>> context = make_context(make_key(0), 0)
    >>> link = identity().init(jnp.ones(2))
    >>> said = broadcast(identity(), context, jnp.ones(2), link)
    >>> said.received.tolist(), said.messages(jnp.array(True)).ends.receiver.tolist()
    ([1.0, 1.0], [-2])
    """
    payload, sender = compressor.encode(context, tree, link.sender)
    received, receiver = compressor.decode(context, payload, link.receiver)
    return Broadcast(
        received, LinkState(sender, receiver), payload, context, link.receiver
    )


def heard_by_all(
    compressor: Compressor, like: PyTree, population: int | None
) -> LinkState:
    """The memory of a downlink that all clients hear if its receivers have memory.

    Raises:
      ValueError: for such a downlink without `population`, the number of clients that
        have to hear it, each of which is paid for.

    >>> from fedjax_comp.compress import differenced, top_k
    >>> len(jax.tree.leaves(heard_by_all(differenced(top_k(k=1)), jnp.ones(2), 9)))
    2
    """
    state = compressor.init(like)
    if jax.tree.leaves(state.receiver) and population is None:
        raise ValueError(
            "Expected population=K with a broadcast whose receivers have memory: "
            "every client must hear every one, and each is paid for; fed_avg() can "
            "also do with unicast=True."
        )
    return state


def partly_heard(compressor: Compressor, like: PyTree) -> LinkState:
    """The memory of a downlink whose broadcasts not every client hears.

    Raises:
      ValueError: for a compressor with memory at the receiver: a client that misses a
        message could not decode the next one.

    >>> from fedjax_comp.compress import differenced, top_k
    >>> partly_heard(differenced(top_k(k=1)), jnp.ones(2))
    Traceback (most recent call last):
    ...
    ValueError: Expected a downlink without memory at the receiver: a client that is \
not in a round does not hear it.
    """
    state = compressor.init(like)
    if jax.tree.leaves(state.receiver):
        raise ValueError(
            "Expected a downlink without memory at the receiver: a client that is not "
            "in a round does not hear it."
        )
    return state
