"""Links: how long a message takes between a client and the server.

A message is cut into packets, each with a header. Its packets pass one after another as
the link's trace allows, then travel for the latency. Those lost are reported a round
trip later and sent again, until none is lost.

`fedjax_comp.network.networks` decides which client has which link.
"""

import dataclasses
import math

import numpy as np

from fedjax_comp.network.traces import (
    Trace,
    mean_rate,
    rate_trace,
    transfer_end,
)
from fedjax_comp.wire.message import HEADER_BYTES

PACKET_BYTES = 1500
PACKET_HEADER_BYTES = 40
"""Of IPv4 and TCP, without options."""


@dataclasses.dataclass(frozen=True)
class Channel:
    """One direction of a link.

    Attributes:
      trace: what passes when.
      latency_seconds: from one end to the other.
      loss: share of packets that do not arrive, in [0, 1).
    """

    trace: Trace
    latency_seconds: float = 0.0
    loss: float = 0.0


@dataclasses.dataclass(frozen=True)
class Presence:
    """When a client can be reached; repeats for ever.

    Attributes:
      seconds: float64 `[m]`, ascending: it comes at the even places and goes at the
        odd ones.
      period: seconds after which they repeat.
    """

    seconds: np.ndarray
    period: float


@dataclasses.dataclass(frozen=True)
class Link:
    """A client's link to the server. `presence` is None when it is always there."""

    up: Channel
    down: Channel
    presence: Presence | None = None


def packet_sizes(message_bytes: int) -> np.ndarray:
    """Bytes of each packet of a message, its frame and all headers included, `[p]`.

    >>> packet_sizes(1460).tolist(), packet_sizes(0).tolist()
    ([1500, 56], [56])
    """
    body = PACKET_BYTES - PACKET_HEADER_BYTES
    total = message_bytes + HEADER_BYTES
    count = math.ceil(total / body)
    sizes = np.full(count, PACKET_BYTES, np.int64)
    sizes[-1] = total - (count - 1) * body + PACKET_HEADER_BYTES
    return sizes


def arrival(
    channel: Channel,
    start: float,
    message_bytes: int,
    *,
    random: np.random.Generator | None = None,
) -> float:
    """When a message that is sent at `start` has arrived whole.

    Args:
      channel: the direction it takes.
      start: seconds.
      message_bytes: of its body; frame and packet headers are added here.
      random: draws what is lost; needed only where something is.

    Raises:
      ValueError: for a channel with loss and no `random`.

    >>> arrival(constant_channel(8000.0, latency_seconds=0.1), 0.0, 944)
    1.1
    """
    if channel.loss > 0 and random is None:
        raise ValueError(f"Expected random= with loss={channel.loss}.")
    left = packet_sizes(message_bytes)
    passed = transfer_end(channel.trace, start, left)
    while random is not None and channel.loss > 0:
        left = left[random.random(left.size) < channel.loss]
        if left.size == 0:
            break
        # The report comes back over the same distance as the packets went.
        passed += 2 * channel.latency_seconds
        passed = transfer_end(channel.trace, passed, left)
    return passed + channel.latency_seconds


def constant_channel(
    bits_per_second: float, *, latency_seconds: float = 0.0, loss: float = 0.0
) -> Channel:
    """A channel of one rate."""
    trace = rate_trace(np.ones(1), np.array([bits_per_second]))
    return Channel(trace, latency_seconds, loss)


def is_present(presence: Presence | None, seconds: float) -> bool:
    """Whether a client can be reached at a moment.

    >>> presence = Presence(np.array([1.0, 3.0]), 4.0)
    >>> [is_present(presence, t) for t in (0.5, 1.0, 2.9, 3.0, 5.5)]
    [False, True, True, False, True]
    """
    if presence is None:
        return True
    place = np.searchsorted(presence.seconds, seconds % presence.period, side="right")
    return bool(place % 2 == 1)


def leaves_at(presence: Presence | None, seconds: float) -> float:
    """When a client that is present at `seconds` goes; `inf` when never."""
    if presence is None:
        return math.inf
    phase = seconds % presence.period
    place = int(np.searchsorted(presence.seconds, phase, side="right"))
    if place % 2 == 0:
        return seconds
    return seconds - phase + float(presence.seconds[place])


def mean_uplink_rate(link: Link) -> float:
    """Bits a second of a link's uplink over a whole period, headers not deducted."""
    return mean_rate(link.up.trace)
