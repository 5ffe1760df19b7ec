"""The clock: what a round takes in seconds and joules, and who came in time.

A client downloads the model, trains, encodes and uploads, one after another; the server
decodes what has arrived. The round is over when the server has all it waits for, or at
the deadline. FedBuff (Nguyen et al., "Federated learning with buffered asynchronous
aggregation", 2022, algorithm 1) has no rounds: the server steps whenever its buffer is
full, and a client that has sent starts anew from the model of that moment.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fedjax_comp.network import _checks
from fedjax_comp.network.devices import Cost, Device, roofline_seconds
from fedjax_comp.network.links import Link, arrival, leaves_at


class Work(NamedTuple):
    """What one client does in a round.

    Attributes:
      download_bytes: of the message from the server; None for no message.
      upload_bytes: of the message to it; None for no message.
      train: cost of the local training.
      encode: cost of encoding the upload.
      decode: cost of decoding the download.
    """

    download_bytes: int | None
    upload_bytes: int | None
    train: Cost
    encode: Cost
    decode: Cost


class Visit(NamedTuple):
    """When a client reached each stage, in seconds, and what it spent.

    Attributes:
      began: it was told to begin.
      downloaded: it had the model.
      trained: it had trained.
      encoded: it had encoded its message.
      arrived: the server had the message; `inf` when the client went away before.
      joules: spent by the client's device.
    """

    began: float
    downloaded: float
    trained: float
    encoded: float
    arrived: float
    joules: float


def visit(
    link: Link,
    device: Device,
    start: float,
    work: Work,
    *,
    random: np.random.Generator,
) -> Visit:
    """One client's way through a round.

    Args:
      link: its link.
      device: its device.
      start: when it is told to begin.
      work: what it does.
      random: draws the packets that are lost.

    Returns:
      Its times. A client that goes away before it has arrived never arrives.
    """
    downloaded = start
    if work.download_bytes is not None:
        downloaded = arrival(link.down, start, work.download_bytes, random=random)
    decoded = downloaded + roofline_seconds(work.decode, device)
    trained = decoded + roofline_seconds(work.train, device)
    encoded = trained + roofline_seconds(work.encode, device)
    arrived = encoded
    if work.upload_bytes is not None:
        arrived = arrival(link.up, encoded, work.upload_bytes, random=random)
    leaves = leaves_at(link.presence, start)

    def lasted(begin: float, end: float) -> float:
        return max(0.0, min(end, leaves) - min(begin, leaves))

    joules = (
        device.receive_watts * lasted(start, downloaded)
        + device.compute_watts * lasted(downloaded, encoded)
        + device.transmit_watts * lasted(encoded, arrived)
    )
    came = arrived if arrived <= leaves else math.inf
    return Visit(start, downloaded, trained, encoded, came, joules)


class Policy(NamedTuple):
    """What a server waits for.

    Attributes:
      deadline_seconds: after the start of a round; what is not there then is late.
      wanted: arrivals after which the round is closed; None for all. With more clients
        invited than wanted this is over-selection (Bonawitz et al., "Towards federated
        learning at scale", 2019, section 2.2).
    """

    deadline_seconds: float = math.inf
    wanted: int | None = None


def check_policy(policy: Policy) -> Policy:
    """`policy`; `ValueError` for a deadline or a number that cannot be waited for."""
    if policy.deadline_seconds != math.inf:
        _checks.positive("deadline_seconds", policy.deadline_seconds)
    if policy.wanted is not None and policy.wanted < 1:
        raise ValueError(f"Expected wanted={policy.wanted} >= 1.")
    return policy


class Closed(NamedTuple):
    """How a round ended.

    Attributes:
      end: when, in seconds.
      in_time: bool `[C]`, whose messages count.
    """

    end: float
    in_time: np.ndarray


def close_round(start: float, arrivals: np.ndarray, policy: Policy) -> Closed:
    """When a round ends and whose messages count in it.

    The round ends with the last message the server waits for, and not after the
    deadline; with clients that never arrive and no deadline, when all others have.

    Args:
      start: seconds.
      arrivals: seconds `[C]`; `inf` for a client that never arrives.
      policy: what the server waits for.

    Returns:
      The end, and who was in time. Messages under way at the end are late: dropped, or
      carried over to the round in which they arrive (`carried_over`).

    >>> close_round(10.0, np.array([12.0, 30.0, 11.0]), Policy(deadline_seconds=5.0))
    Closed(end=15.0, in_time=array([ True, False,  True]))
    >>> close_round(10.0, np.array([12.0, 30.0, 11.0]), Policy(wanted=2)).end
    12.0
    """
    deadline = start + policy.deadline_seconds
    come = np.isfinite(arrivals)
    expected = int(come.sum()) if policy.wanted is None else policy.wanted
    in_order = np.sort(arrivals[come])
    if 0 < expected <= in_order.size and in_order[expected - 1] <= deadline:
        end = float(in_order[expected - 1])
    elif math.isfinite(deadline):
        end = deadline
    else:
        end = float(in_order[-1]) if in_order.size else start
    return Closed(end, arrivals <= end)


def carried_over(ends: np.ndarray, arrivals: np.ndarray) -> np.ndarray:
    """The round in which each late message is counted when none is dropped.

    Args:
      ends: when each round ended, ascending `[R]`.
      arrivals: of messages, any shape.

    Returns:
      Indices of rounds; `R` for what arrives after the last.

    >>> carried_over(np.array([5.0, 9.0]), np.array([3.0, 5.0, 6.0, 10.0])).tolist()
    [0, 0, 1, 2]
    """
    return np.searchsorted(ends, arrivals, side="left")


class Step(NamedTuple):
    """One step of a server with a buffer.

    Attributes:
      seconds: when.
      clients: whose updates it took, in the order of their arrival, `[buffer_size]`.
      staleness: steps the server had made since each of them began, `[buffer_size]`.
    """

    seconds: float
    clients: np.ndarray
    staleness: np.ndarray


def fed_buff(
    seconds_of: Callable[[int, float], float],
    *,
    num_clients: int,
    concurrency: int,
    buffer_size: int,
    random: np.random.Generator,
) -> Iterator[Step]:
    """The steps of asynchronous buffered aggregation, for ever.

    Args:
      seconds_of: `(client, start) -> seconds` from being told to begin to arrival.
      num_clients: `K`.
      concurrency: clients that are at work at any moment.
      buffer_size: updates in a step.
      random: draws who begins when another has arrived.

    Yields:
      The server's steps, in order.

    Raises:
      ValueError: unless `1 <= concurrency <= num_clients` and `buffer_size >= 1`.

    >>> steps = fed_buff(lambda client, start: 1.0 + client, num_clients=2,
    ...     concurrency=2, buffer_size=2, random=np.random.default_rng(0))
    >>> [(step.seconds, step.staleness.tolist()) for _, step in zip(range(2), steps)]
    [(2.0, [0, 0]), (3.0, [1, 0])]
    """
    if not 1 <= concurrency <= num_clients:
        raise ValueError(
            f"Expected 1 <= concurrency={concurrency} <= num_clients={num_clients}."
        )
    if buffer_size < 1:
        raise ValueError(f"Expected buffer_size={buffer_size} >= 1.")
    return _steps(seconds_of, num_clients, concurrency, buffer_size, random)


def _steps(
    seconds_of: Callable[[int, float], float],
    num_clients: int,
    concurrency: int,
    buffer_size: int,
    random: np.random.Generator,
) -> Iterator[Step]:
    order = random.permutation(num_clients)
    idle = [int(client) for client in order[concurrency:]]
    # (arrival, client, version it began from)
    busy = [(seconds_of(int(c), 0.0), int(c), 0) for c in order[:concurrency]]
    heapq.heapify(busy)
    version = 0
    buffer: list[tuple[int, int]] = []
    while True:
        now, client, began = heapq.heappop(busy)
        buffer.append((client, version - began))
        idle.append(client)
        if len(buffer) == buffer_size:
            clients, staleness = np.array(buffer).T
            yield Step(now, clients, staleness)
            version, buffer = version + 1, []
        following = idle.pop(int(random.integers(len(idle))))
        heapq.heappush(busy, (now + seconds_of(following, now), following, version))
