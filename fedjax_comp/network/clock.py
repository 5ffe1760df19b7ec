"""The clock: what a round takes in seconds and joules, and who came in time.

A client downloads the model, trains, encodes and uploads, one after another; the server
decodes what has arrived. The round is over when the server has all it waits for, or at
the deadline. What a server without rounds does, and what becomes of late messages that
are not dropped, is in `fedjax_comp.network.timetable`.
"""

import math
from typing import NamedTuple

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.devices import Cost, Device, roofline_seconds
from fedjax_comp.network.links import Link, arrival, leaves_at

IDLE_SECONDS = 1.0
"""After which a server that could reach nobody asks again."""


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
    trained, encoded = worked(device, work, downloaded)
    arrived = encoded
    if work.upload_bytes is not None:
        arrived = arrival(link.up, encoded, work.upload_bytes, random=random)
    return as_visit(link, device, (start, downloaded, trained, encoded, arrived))


def worked(device: Device, work: Work, downloaded: float) -> tuple[float, float]:
    """When a client that has the model has trained, and has encoded its message."""
    decoded = downloaded + roofline_seconds(work.decode, device)
    trained = decoded + roofline_seconds(work.train, device)
    return trained, trained + roofline_seconds(work.encode, device)


def as_visit(
    link: Link, device: Device, times: tuple[float, float, float, float, float]
) -> Visit:
    """A client's way through a round, from the moments at which its stages ended.

    Args:
      link: its link, of which the presence is looked at.
      device: its device, for the energy.
      times: began, downloaded, trained, encoded, arrived unless it goes, in seconds.
    """
    start, downloaded, trained, encoded, arrived = times
    leaves = leaves_at(link.presence, start)
    came = arrived if arrived <= leaves else math.inf
    whole = Visit(start, downloaded, trained, encoded, came, 0.0)
    return whole._replace(joules=spent(device, whole, leaves))


def spent(device: Device, seen: Visit, until: float) -> float:
    """Joules of a client's device on its way through a round, up to a moment.

    Args:
      device: the device.
      seen: when it would reach each stage; its joules are not read.
      until: seconds at which it stops, because it goes or the round is closed.
    """

    def lasted(begin: float, end: float) -> float:
        return max(0.0, min(end, until) - min(begin, until))

    return (
        device.receive_watts * lasted(seen.began, seen.downloaded)
        + device.compute_watts * lasted(seen.downloaded, seen.encoded)
        + device.transmit_watts * lasted(seen.encoded, seen.arrived)
    )


def goes_at(link: Link, seen: Visit | None) -> float:
    """When a client that was told to begin goes; `-inf` for one that was not."""
    return -math.inf if seen is None else leaves_at(link.presence, seen.began)


class Policy(NamedTuple):
    """What a server waits for.

    Attributes:
      deadline_seconds: after the start of a round; what is not there then is late.
      report_goal: arrivals after which the round is closed; None for all. With more
        clients invited this is over-selection (Bonawitz et al., "Towards federated
        learning at scale", 2019, section 2.2).
    """

    deadline_seconds: float = math.inf
    report_goal: int | None = None


def check_policy(policy: Policy) -> Policy:
    """`policy`; `ValueError` for a deadline or a number that cannot be waited for."""
    if policy.deadline_seconds != math.inf:
        checks.positive("deadline_seconds", policy.deadline_seconds)
    if policy.report_goal is not None and policy.report_goal < 1:
        raise ValueError(f"Expected report_goal={policy.report_goal} >= 1.")
    return policy


class Closed(NamedTuple):
    """How a round ended.

    Attributes:
      end: when, in seconds.
      in_time: bool `[C]`, whose messages count.
    """

    end: float
    in_time: np.ndarray


def close_round(
    start: float,
    arrivals: np.ndarray,
    policy: Policy,
    *,
    gone: np.ndarray | None = None,
) -> Closed:
    """When a round ends and whose messages count in it.

    The round ends with the last message the server waits for, and not after the
    deadline. The server learns at once that a client has gone, as from a closed
    connection, and stops waiting for it. Where fewer clients come than the goal, or
    none, it waits until the deadline, if there is one.

    Args:
      start: seconds.
      arrivals: seconds `[C]`; `inf` for a client that never arrives.
      policy: what the server waits for.
      gone: seconds `[C]` at which clients that never arrive have gone; `-inf` for one
        that was not there to begin with, as all are when None.

    Returns:
      The end, and who was in time. Messages under way at the end are late: dropped, or
      carried over to the round in which they arrive (`timetable.carried`).

    >>> close_round(10.0, np.array([12.0, 30.0, 11.0]), Policy(deadline_seconds=5.0))
    Closed(end=15.0, in_time=array([ True, False,  True]))
    >>> close_round(10.0, np.array([12.0, 30.0, 11.0]), Policy(report_goal=2)).end
    12.0
    """
    deadline = start + policy.deadline_seconds
    come = np.isfinite(arrivals)
    left = [] if gone is None else gone[~come & np.isfinite(gone)].tolist()
    in_order = np.sort(arrivals[come])
    last = max([start, *in_order.tolist(), *left])  # when the server has heard of all
    goal = policy.report_goal
    if goal is None:
        end = min(last, deadline) if in_order.size else last
        if not in_order.size and math.isfinite(deadline):
            end = deadline
    elif goal <= in_order.size and in_order[goal - 1] <= deadline:
        end = float(in_order[goal - 1])
    else:
        end = deadline if math.isfinite(deadline) else last
    return Closed(float(end), arrivals <= end)
