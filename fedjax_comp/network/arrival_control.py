"""Controllers by the `k`-th arrival: late clients send little, or are left out.

A server that closes a round at the `k`-th arrival seldom learns from the data of slow
clients. With `everyone_speaks` it does: a client that would arrive later than the
`k`-th sends the shortest message instead. `first_arrivals` still leaves late clients
out, and lets the first `k` use the time until the last of them arrives for longer
messages. Both are this project's own.
"""

import math

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.control import (
    Conditions,
    Controller,
    ControlState,
    Ladder,
    Statistics,
    rung_within,
)
from fedjax_comp.network.timed_control import least_error_within


def everyone_speaks(ladder: Ladder, bits: float, *, share: float = 0.6) -> Controller:
    """Everyone is heard; clients that would be late send a short message.

    With `t_i(r)` the time at which client `i`'s message of rung `r` arrives, as
    expected before the round,

        T = the k-th least t_i(b),   k = ceil(share C),

    where `b` is the rung within `bits`. A client then reckons with the rate that it has
    just seen. If its message of rung `b` arrives by `T`, it sends that. Otherwise it
    sends the shortest rung that arrives by `T`, or the first rung if none does. The
    server waits for all of them.

    Args:
      ladder: what can be sent.
      bits: of the message of who is in time.
      share: of the cohort, by whose arrival it is decided who is late, in (0, 1].

    Raises:
      ValueError: unless `bits` is positive and `share` in (0, 1].
    """
    checks.positive("bits", bits)
    checks.fraction("share", share)
    own = int(rung_within(ladder, np.array(bits)))

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del state, statistics
        expected, actual = arrivals(ladder, conditions)
        limit = kth(expected[:, own], share)
        in_time = actual <= limit * (1 + 1e-9)
        # The rungs ascend: the first that is in time is the shortest, or rung 0.
        rungs = np.where(in_time[:, own], own, in_time.argmax(axis=1))
        rungs = np.where(conditions.known, rungs, 0)
        return {"seconds": limit}, ladder.bits[rungs]

    return Controller({"seconds": 0.0}, step)


def first_arrivals(ladder: Ladder, *, share: float = 0.6) -> Controller:
    """Over-selection in which clients use the time until the `k`-th arrival.

        T = the k-th least min_r t_i(r),   k = ceil(share C),

    Every client sends the message of the least error that it finishes by `T`, or its
    fastest if it finishes none. Set the server's `report_goal` to `k`: the round then
    ends when it would if all sent their fastest message, but the server has heard
    better ones.

    Args:
      ladder: what can be sent, with the measured error of each rung.
      share: of the cohort that the server waits for, in (0, 1].

    Raises:
      ValueError: unless `share` is in (0, 1].
    """
    checks.fraction("share", share)

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del state, statistics
        expected, actual = arrivals(ladder, conditions)
        limit = kth(expected.min(axis=1), share)
        rungs = least_error_within(actual, ladder, limit)
        rungs = np.where(conditions.known, rungs, 0)
        return {"seconds": limit}, ladder.bits[rungs]

    return Controller({"seconds": 0.0}, step)


def arrivals(ladder: Ladder, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
    """When each client has each rung at the server: `t_i(r)`, `[C, R]`, twice.

        t_i(r) = ready_i + t_encode(i, r) + bits_r / uplink_i + latency_i + t_decode(r)

    Returns:
      As the server expects it, and as the client does that has just downloaded.
    """
    fixed = conditions.encode_seconds + conditions.decode_seconds[None, :]
    fixed = fixed + conditions.latency_seconds[:, None]
    bits = ladder.bits[None, :]
    expected = (
        bits / conditions.known_rates[:, None] + conditions.ready_seconds[:, None]
    )
    actual = bits / conditions.fresh_rates[:, None] + conditions.spent_seconds[:, None]
    return fixed + expected, fixed + actual


def kth(seconds: np.ndarray, share: float) -> float:
    """The time by which a share of the cohort has arrived.

    >>> kth(np.array([5.0, 1.0, 3.0, 9.0]), 0.5), kth(np.array([5.0, 1.0]), 0.6)
    (3.0, 5.0)
    """
    count = math.ceil(share * seconds.size - 1e-9)
    return float(np.sort(seconds)[count - 1])
