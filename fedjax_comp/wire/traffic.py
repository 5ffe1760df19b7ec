"""Traffic: the ends of messages inside jit, and exact totals of them on the host.

What clients send is uplink and what they receive is downlink, whoever is at the other
end: a message from one client to another counts as uplink of one and downlink of the
other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import SERVER, Bits, Ends, PyTree, Traffic
from fedjax_comp.wire.accounting import num_bits

# ---------------------------------------------------------------------- inside jit


def to_server(client: jax.typing.ArrayLike) -> Ends:
    """The ends of messages from clients to the server.

    Args:
      client: the clients' ids, int32 `[M]`, or one id.

    >>> to_server(jnp.array([4, 7])).receiver.tolist()
    [-1, -1]
    """
    sender = jnp.asarray(client).astype(jnp.int32)
    return Ends(sender, jnp.full_like(sender, SERVER))


def to_client(client: jax.typing.ArrayLike) -> Ends:
    """The ends of messages from the server to clients.

    Args:
      client: the clients' ids, int32 `[M]`, or one id; `EVERYONE` for a broadcast that
        an audit keeps.
    """
    receiver = jnp.asarray(client).astype(jnp.int32)
    return Ends(jnp.full_like(receiver, SERVER), receiver)


def broadcast_traffic(
    payload: PyTree, heard: jax.Array, client: jax.Array | None = None
) -> Traffic:
    """One message that several clients hear, each of whom is paid for.

    Args:
      payload: what is broadcast.
      heard: bool `[C]`, or `[K]` when the whole population listens.
      client: their ids, int32, of the shape of `heard`; 0, 1, ... when None, which are
        the ids of the whole population.

    >>> sent = broadcast_traffic(jnp.zeros(3), jnp.array([True, False, True]))
    >>> totals({"downlink": sent}).downlink_bytes
    24
    """
    ids = jnp.arange(heard.shape[0]) if client is None else client
    return Traffic(repeated(num_bits(payload), heard), heard, to_client(ids))


def repeated(bits: Bits, like: jax.Array) -> Bits:
    """The length of one message, once for each entry of `like`, `[M]`."""
    each = tuple(jnp.broadcast_to(v, like.shape) for v in bits.variable)
    return Bits(bits.fixed, each)


# --------------------------------------------------------------------- on the host


class Totals(NamedTuple):
    """Totals of all messages, Python ints; each one is rounded up to whole bytes."""

    uplink_bits: int
    uplink_bytes: int
    uplink_messages: int
    downlink_bits: int
    downlink_bytes: int
    downlink_messages: int


class Sent(NamedTuple):
    """The messages that were sent, one row each.

    Attributes:
      bits: uint64 `[M]`.
      sender: `[M]`, as in `Ends`.
      receiver: `[M]`.
    """

    bits: np.ndarray
    sender: np.ndarray
    receiver: np.ndarray


def sent(traffic: Mapping[str, Traffic]) -> Sent:
    """Every message that was sent, of all kinds together.

    Args:
      traffic: kind to `Traffic`, of a round (`[M]`) or of `R` rounds (`[R, M]`).

    >>> ends = to_server(jnp.array([3, 5]))
    >>> one = Traffic(Bits(8, (jnp.array([1, 2]),)), jnp.array([False, True]), ends)
    >>> sent({"uplink": one}).bits.tolist()
    [10]
    """
    parts = [_sent_of_kind(kind) for kind in traffic.values()]
    if not parts:
        return Sent(np.zeros(0, np.uint64), np.zeros(0, int), np.zeros(0, int))
    return Sent(*map(np.concatenate, zip(*parts, strict=True)))


def _sent_of_kind(traffic: Traffic) -> Sent:
    spoke = np.asarray(traffic.spoke, bool)
    bits = np.full(spoke.shape, traffic.bits.fixed, np.uint64)
    for array in traffic.bits.variable:
        bits = bits + np.asarray(array).astype(np.uint64)
    sender, receiver = (np.broadcast_to(x, spoke.shape) for x in traffic.ends)
    return Sent(bits[spoke], sender[spoke], receiver[spoke])


def whole_bytes(bits: np.ndarray) -> np.ndarray:
    """`ceil(bits / 8)` of each message, uint64."""
    return (bits + np.uint64(7)) >> np.uint64(3)


def totals(traffic: Mapping[str, Traffic]) -> Totals:
    """Exact totals of all messages sent, each rounded up to whole bytes, no frames.

    Args:
      traffic: as in `sent`.

    >>> ends = to_server(jnp.arange(3))
    >>> one = Traffic(Bits(9), jnp.array([True, False, True]), ends)
    >>> totals({"uplink": one})[:3]
    (18, 4, 2)
    """
    messages = sent(traffic)
    found: list[int] = []
    for end in (messages.sender, messages.receiver):
        bits = messages.bits[end >= 0]
        # Summed as Python ints: what a long run sends does not fit any dtype.
        found += [sum(bits.tolist()), sum(whole_bytes(bits).tolist()), bits.size]
    return Totals(*found)


class ClientBytes(NamedTuple):
    """What each client of the population sent and received, None where nothing."""

    sent: list[int | None]
    received: list[int | None]


def bytes_by_client(traffic: Mapping[str, Traffic], num_clients: int) -> ClientBytes:
    """The bytes of each client's messages in the rounds given.

    Args:
      traffic: as in `sent`.
      num_clients: `K`.

    Raises:
      ValueError: for a client that sent several messages, or one to another client:
        how long these take depends on what they wait for.

    >>> one = broadcast_traffic(jnp.zeros(3), jnp.array([True, False, True]))
    >>> bytes_by_client({"downlink": one}, 3).received
    [12, None, 12]
    """
    messages = sent(traffic)
    both = (messages.sender >= 0) & (messages.receiver >= 0)
    own = messages.sender[messages.sender >= 0]
    if both.any() or np.unique(own).size != own.size:
        raise ValueError(
            "Expected at most one message from each client to the server in a round to "
            "simulate a network: leave --network and --devices out here."
        )
    sizes = whole_bytes(messages.bits)
    return ClientBytes(
        *(
            _by_client(end, sizes, num_clients)
            for end in (messages.sender, messages.receiver)
        )
    )


def _by_client(
    ends: np.ndarray, sizes: np.ndarray, num_clients: int
) -> list[int | None]:
    found: list[int | None] = [None] * num_clients
    for client, size in zip(ends.tolist(), sizes.tolist(), strict=True):
        if client >= 0:
            found[client] = (found[client] or 0) + size
    return found
