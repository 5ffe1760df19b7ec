"""The seconds that a run takes on given links, in turns or all clients at once.

    in turns:     sum over clients of   8 bytes / rate + latency a message + work
    at once:      the same of one client, as all have as much to do

with the bytes that were sent; every message waits for the one before it. The server
computes in no time, and clients that work at once do not slow each other's links: both
simplifications favour the method that sends more.
"""

from typing import NamedTuple

from absl import flags

from experiments.split_learning.methods import Method


class Links(NamedTuple):
    """One client's link to the server, and its speed.

    Attributes:
      uplink_mbps: Mbit/s.
      downlink_mbps: Mbit/s.
      latency_seconds: of a message, one way.
      gigaflops: operations a second, in 10**9.
    """

    uplink_mbps: float
    downlink_mbps: float
    latency_seconds: float
    gigaflops: float


def define_links(values: flags.FlagValues) -> None:
    """Defines the flags of `Links`."""
    for name, default, meaning in (
        ("uplink_mbps", 10.0, "A client's link to the server, Mbit/s."),
        ("downlink_mbps", 50.0, "The server's link to a client, Mbit/s."),
        ("latency_seconds", 0.02, "Of a message, one way."),
        ("gigaflops", 10.0, "Operations of a client a second, in 10**9."),
    ):
        flags.DEFINE_float(name, default, meaning, flag_values=values, lower_bound=1e-9)


def links_of(values: flags.FlagValues) -> Links:
    """The flags' values."""
    return Links(
        values.uplink_mbps,
        values.downlink_mbps,
        values.latency_seconds,
        values.gigaflops,
    )


def messages_of_client(method: Method, rounds: int, batches: int) -> int:
    """Messages that one client sends or receives, each after the one before.

    Args:
      method: what is trained, and where.
      rounds: of the run.
      batches: of the client in a round.

    >>> messages_of_client(Method("round_robin", ("Conv_1",)), 2, 5)
    24
    """
    # Weights go out and come back; with k cuts a batch crosses 2 k times.
    return rounds * (2 + 2 * len(method.cuts) * batches)


def run_seconds(
    method: Method,
    links: Links,
    *,
    num_clients: int,
    uplink_bytes: float,
    downlink_bytes: float,
    messages: int,
    flops: float,
) -> float:
    """What a run takes.

    Args:
      method: in turns or at once.
      links: of every client.
      num_clients: `K`.
      uplink_bytes: of all clients in the run.
      downlink_bytes: likewise.
      messages: of one client.
      flops: of one client.

    >>> links = Links(8.0, 8.0, 0.5, 1.0)
    >>> given = dict(num_clients=2, uplink_bytes=2e6, downlink_bytes=0.0, messages=2,
    ...     flops=1e9)
    >>> run_seconds(Method("round_robin", ("a",)), links, **given)
    6.0
    >>> run_seconds(Method("fed_avg"), links, **given)
    3.0
    """
    sending = 8 * uplink_bytes / num_clients / (links.uplink_mbps * 1e6)
    hearing = 8 * downlink_bytes / num_clients / (links.downlink_mbps * 1e6)
    waiting = messages * links.latency_seconds
    own = sending + hearing + waiting + flops / (links.gigaflops * 1e9)
    return own * num_clients if method.kind == "round_robin" else own
