"""A server's link that is shared: those who send at once divide its capacity.

Without it a server hears any number of clients at once, each as fast as its own link
allows. Here all that pass through the server's uplink, or its downlink, at a moment are
given max-min fair rates (Bertsekas and Gallager, "Data networks", 1992, section 6.5.2),
which is what TCP's congestion control aims at: with the client links' rates `c_i` at
that moment and the server's capacity `S`,

    r_i = min(c_i, level),   sum_i r_i = min(S, sum_i c_i).

Bits are simulated as a fluid, from event to event: a message begins, a link's rate
changes, a message has passed. The two directions are independent. Messages of clients
outside the cohort, which listen to a broadcast, are taken to pass when the link is
idle, and a late client stops sending when its round is closed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.clock import Visit, Work, as_visit, worked
from fedjax_comp.network.devices import Device
from fedjax_comp.network.links import Channel, Link, arrival, packet_sizes
from fedjax_comp.network.traces import RateTrace, Trace


class ServerLink(NamedTuple):
    """The server's capacity in each direction; infinite where it is no bottleneck.

    Attributes:
      up_bits_per_second: from all clients.
      down_bits_per_second: to all clients.
    """

    up_bits_per_second: float = math.inf
    down_bits_per_second: float = math.inf


def server_link(
    *, up_megabits: float | None = None, down_megabits: float | None = None
) -> ServerLink:
    """A server's link, in megabits a second; None is no bound.

    Raises:
      ValueError: for a capacity that is not positive.

    >>> server_link(up_megabits=2.0)
    ServerLink(up_bits_per_second=2000000.0, down_bits_per_second=inf)
    """
    for name, value in (("up_megabits", up_megabits), ("down_megabits", down_megabits)):
        if value is not None:
            checks.positive(name, value)
    return ServerLink(
        *(math.inf if x is None else x * 1e6 for x in (up_megabits, down_megabits))
    )


def fair_rates(caps: np.ndarray, capacity: float) -> np.ndarray:
    """Max-min fair rates: `min(c_i, level)` with the sum `min(S, sum_i c_i)`.

    Args:
      caps: `c_i`, not negative, `[C]`.
      capacity: `S`.

    >>> fair_rates(np.array([1.0, 9.0, 5.0]), 8.0).tolist()
    [1.0, 3.5, 3.5]
    """
    if caps.sum() <= capacity:
        return caps
    rates, left = np.zeros_like(caps), capacity
    order = np.argsort(caps)
    for place, i in enumerate(order):
        rates[i] = min(caps[i], left / (order.size - place))
        left -= rates[i]
    return rates


def shared_arrivals(
    channels: Sequence[Channel],
    starts: Sequence[float],
    sizes: Sequence[int | None],
    capacity: float,
    *,
    randoms: Sequence[np.random.Generator],
) -> list[float]:
    """When each of several messages has arrived whole, on links that meet at a server.

    With an infinite capacity this is `links.arrival` of each.

    Args:
      channels: the direction that each takes, `[C]`.
      starts: seconds at which each is sent, `[C]`.
      sizes: bytes of each body; None for no message, which arrives at its start.
      capacity: bits a second that pass at the server in all.
      randoms: draw what is lost of each.

    Raises:
      ValueError: for a capacity that bounds and a trace of packets, not of rates.
    """
    arrived = [float(start) for start in starts]
    sent = [i for i, size in enumerate(sizes) if size is not None]
    if math.isinf(capacity):
        for i in sent:
            arrived[i] = arrival(
                channels[i], starts[i], sizes[i] or 0, random=randoms[i]
            )
        return arrived
    flows = {i: _Flow(channels[i], starts[i], sizes[i] or 0, randoms[i]) for i in sent}
    now = min((starts[i] for i in sent), default=0.0)
    waiting = dict(flows)
    while waiting:
        active = [flow for flow in waiting.values() if flow.begins <= now]
        rates = fair_rates(np.array([flow.cap for flow in active]), capacity)
        events = [flow.begins for flow in waiting.values() if flow.begins > now]
        for flow, rate in zip(active, rates, strict=True):
            events.append(flow.segment_end)
            if rate > 0:
                events.append(now + flow.bits / rate)
        then = min(events)
        for flow, rate in zip(active, rates, strict=True):
            done = rate > 0 and now + flow.bits / rate <= then
            flow.bits = 0.0 if done else flow.bits - rate * (then - now)
        now = then
        for i, flow in list(waiting.items()):
            if flow.bits <= 0.0 and not flow.resend(now):
                arrived[i] = now + channels[i].latency_seconds
                del waiting[i]
            elif flow.begins <= now:
                flow.advance(now)
    return arrived


class _Flow:
    """A message under way: what is left of it, and its own link's rate now."""

    def __init__(
        self, channel: Channel, start: float, size: int, random: np.random.Generator
    ) -> None:
        self._channel, self._random = channel, random
        self._trace = _rates_of(channel.trace)
        self._packets = packet_sizes(size)
        self._send(start)

    def _send(self, start: float) -> None:
        self.begins = start
        self.bits = 8.0 * float(self._packets.sum())
        seconds = self._trace.seconds
        self._period = math.floor(start / seconds[-1])
        phase = start - self._period * seconds[-1]
        self._place = int(np.searchsorted(seconds, phase, side="right"))
        if self._place == seconds.size:
            self._period, self._place = self._period + 1, 1
        self.advance(start)

    @property
    def segment_end(self) -> float:
        """When the rate of the own link changes."""
        seconds = self._trace.seconds
        return float(self._period * seconds[-1] + seconds[self._place])

    @property
    def cap(self) -> float:
        """Bits a second of the own link."""
        trace, i = self._trace, self._place
        passed = trace.bits[i] - trace.bits[i - 1]
        return float(passed / (trace.seconds[i] - trace.seconds[i - 1]))

    def advance(self, now: float) -> None:
        """Goes on to the rate of this moment."""
        while self.segment_end <= now:
            self._place += 1
            if self._place == self._trace.seconds.size:
                self._period, self._place = self._period + 1, 1

    def resend(self, now: float) -> bool:
        """Sends what was lost a round trip later; False when nothing was."""
        loss = self._channel.loss
        if loss > 0:
            lost = self._random.random(self._packets.size) < loss
            self._packets = self._packets[lost]
            if self._packets.size:
                self._send(now + 2 * self._channel.latency_seconds)
                return True
        return False


def _rates_of(trace: Trace) -> RateTrace:
    if isinstance(trace, RateTrace):
        return trace
    raise ValueError(
        "A server's link can be shared by links of rates only, and this network has "
        "traces of packets: leave --server_up_megabits and --server_down_megabits out."
    )


def shared_visits(
    links: Sequence[Link],
    devices: Sequence[Device],
    start: float,
    works: Sequence[Work],
    server: ServerLink,
    *,
    randoms: Sequence[np.random.Generator],
) -> list[Visit]:
    """A cohort's way through a round; `clock.visit` of each with an infinite server.

    Args:
      links: of each client, `[C]`.
      devices: likewise.
      start: when they are told to begin.
      works: what each does.
      server: what passes at the server in all.
      randoms: draw the packets that are lost, of the download and then of the upload.

    Raises:
      ValueError: as `shared_arrivals`.
    """
    downloaded = shared_arrivals(
        [link.down for link in links],
        [start] * len(links),
        [work.download_bytes for work in works],
        server.down_bits_per_second,
        randoms=randoms,
    )
    computed = [
        worked(device, work, at)
        for device, work, at in zip(devices, works, downloaded, strict=True)
    ]
    arrived = shared_arrivals(
        [link.up for link in links],
        [encoded for _, encoded in computed],
        [work.upload_bytes for work in works],
        server.up_bits_per_second,
        randoms=randoms,
    )
    return [
        as_visit(link, device, (start, down, *times, up))
        for link, device, down, times, up in zip(
            links, devices, downloaded, computed, arrived, strict=True
        )
    ]
