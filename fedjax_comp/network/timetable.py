"""Who arrives when, and how stale, computed before a run: FedBuff, carried updates.

In both settings a client may arrive some steps of the server after it was told to
begin.

- FedBuff (Nguyen et al., "Federated learning with buffered asynchronous aggregation",
  2022, algorithm 1) has no rounds: `concurrency` clients are at work at any moment, the
  server steps whenever `buffer_size` of them have arrived, and whoever has sent or gone
  is followed by another client, which begins from the model of that moment.
- Synchronous rounds end by a policy, a deadline for instance; an update that is late
  is counted in the round that it arrives in instead of being dropped.

Arrival times depend on the sizes of messages and not on what is in them, so the whole
timetable is known before the first step, and the compiled run reads it as data
(`fedjax_comp.network.timed_cohorts`).
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fedjax_comp.network.clock import (
    IDLE_SECONDS,
    Policy,
    Work,
    check_policy,
    close_round,
    visit,
)
from fedjax_comp.network.devices import Cost, roofline_seconds
from fedjax_comp.network.links import is_present, leaves_at
from fedjax_comp.network.setting import Setting

MOST_FAILURES = 10_000
"""Clients in a row that do not arrive, after which a server is taken to have none."""


class Trip(NamedTuple):
    """One client's trip, from being told to begin.

    Attributes:
      seconds: when the server has its update, or knows that there will be none.
      came: whether it has.
      joules: spent by the client's device.
      told: whether it was there to be told to begin, and had examples.
    """

    seconds: float
    came: bool
    joules: float
    told: bool = True


TripOf = Callable[[int, float], Trip]
"""`(client, start) -> Trip`."""


class Timetable(NamedTuple):
    """Who is counted in each of `R` steps of the server.

    Attributes:
      clients: int32 `[R, C]`, distinct in each step.
      staleness: int32 `[R, C]`, steps made since each of them was told to begin.
      active: bool `[R, C]`; False where a step has fewer than `C` clients.
      seconds: float64 `[R]`, when each step was made.
      joules: float64 `[R]`, spent by all devices until then.
      discarded: int `[R]`, clients given up until then: they went away, or were so late
        that the server no longer has the model they began from.
    """

    clients: np.ndarray
    staleness: np.ndarray
    active: np.ndarray
    seconds: np.ndarray
    joules: np.ndarray
    discarded: np.ndarray


class _Step(NamedTuple):
    arrived: list[tuple[int, int]]  # (client, staleness)
    seconds: float
    joules: float
    discarded: int


def trips(
    setting: Setting,
    examples: Sequence[int],
    *,
    upload_bytes: int,
    download_bytes: int,
) -> TripOf:
    """The trips of a setting's clients.

    Args:
      setting: links, devices and costs; its policy is not read.
      examples: each client trains on, counting epochs, `[K]`; who has none is taken
        for one that is away.
      upload_bytes: of a client's message.
      download_bytes: of the server's.

    Returns:
      A function that draws lost packets from the setting's seed, the client and the
      moment, so that a trip is the same whenever it is asked for.
    """
    served = roofline_seconds(setting.downlink.encode[0], setting.server)
    decoded = roofline_seconds(setting.uplink.decode[0], setting.server)
    each = setting.train_example

    def trip(client: int, start: float) -> Trip:
        link, begin = setting.links[client], start + served
        count = examples[client]
        if not (count and is_present(link.presence, begin)):
            return Trip(start + IDLE_SECONDS, False, 0.0, told=False)
        work = Work(
            download_bytes,
            upload_bytes,
            Cost(each.flops * count, each.bytes * count, each.factor),
            setting.uplink.encode[0],
            setting.downlink.decode[0],
        )
        moment = int(np.float64(start).view(np.uint64))
        random = np.random.default_rng([setting.seed, client, moment])
        seen = visit(link, setting.devices[client], begin, work, random=random)
        if not math.isfinite(seen.arrived):
            return Trip(leaves_at(link.presence, begin), False, seen.joules)
        return Trip(seen.arrived + decoded, True, seen.joules)

    return trip


def buffered(
    trip_of: TripOf,
    *,
    num_clients: int,
    concurrency: int,
    buffer_size: int,
    num_steps: int,
    max_staleness: int,
    random: np.random.Generator,
) -> Timetable:
    """The steps of asynchronous buffered aggregation.

    A client is at work, in the buffer, or idle; those told to begin are drawn from the
    idle ones. An update older than `max_staleness` is given up.

    Args:
      trip_of: how long clients take.
      num_clients: `K`.
      concurrency: clients that are at work at any moment.
      buffer_size: updates in a step, `C`.
      num_steps: `R`.
      max_staleness: the oldest update that counts.
      random: draws who begins.

    Raises:
      ValueError: for numbers below their least, for too few clients to keep
        `concurrency` at work while the buffer fills, and when nobody ever arrives.

    >>> table = buffered(lambda client, start: Trip(start + 1 + client, True, 0.0),
    ...     num_clients=3, concurrency=2, buffer_size=2, num_steps=2, max_staleness=5,
    ...     random=np.random.default_rng(0))
    >>> table.clients.tolist(), table.staleness.tolist(), table.seconds.tolist()
    ([[0, 1], [2, 0]], [[0, 0], [1, 0]], [3.0, 4.0])
    """
    for name, value, least in (
        ("concurrency", concurrency, 1),
        ("buffer_size", buffer_size, 1),
        ("num_steps", num_steps, 1),
        ("max_staleness", max_staleness, 0),
    ):
        if value < least:
            raise ValueError(f"Expected {name}={value} >= {least}.")
    if concurrency + buffer_size - 1 > num_clients:
        raise ValueError(
            f"Expected concurrency={concurrency} + buffer_size={buffer_size} - 1 <= "
            f"num_clients={num_clients}: a client in the buffer is not at work."
        )
    steps = _buffered_steps(
        trip_of, num_clients, concurrency, buffer_size, max_staleness, random
    )
    return _table([next(steps) for _ in range(num_steps)], num_clients)


def _buffered_steps(
    trip_of: TripOf,
    num_clients: int,
    concurrency: int,
    buffer_size: int,
    max_staleness: int,
    random: np.random.Generator,
) -> Iterator[_Step]:
    order = [int(client) for client in random.permutation(num_clients)]
    idle = order[concurrency:]
    # (when, client, version it began from, came, joules)
    busy = [
        _under_way(client, 0, trip_of(client, 0.0)) for client in order[:concurrency]
    ]
    heapq.heapify(busy)
    version, failures, discarded, joules = 0, 0, 0, 0.0
    buffer: list[tuple[int, int]] = []
    while True:
        now, client, began, came, spent = heapq.heappop(busy)
        joules += spent
        if came and version - began <= max_staleness:
            buffer.append((client, version - began))
            failures = 0
        else:
            idle.append(client)
            discarded, failures = discarded + 1, failures + 1
            if failures >= MOST_FAILURES:
                raise _nobody(failures)
        if len(buffer) == buffer_size:
            yield _Step(buffer, now, joules, discarded)
            idle += [client for client, _ in buffer]
            version, buffer = version + 1, []
        following = idle.pop(int(random.integers(len(idle))))
        heapq.heappush(busy, _under_way(following, version, trip_of(following, now)))


def carried(
    trip_of: TripOf,
    *,
    num_clients: int,
    cohort_size: int,
    num_rounds: int,
    policy: Policy,
    max_staleness: int,
    random: np.random.Generator,
) -> Timetable:
    """Synchronous rounds whose late updates are counted when they arrive.

    A round begins when the last one ended, with clients drawn from those that are not
    still at work, and ends by the policy, which looks at these clients alone. Updates
    that arrive from earlier rounds until then are counted as well, unless they are
    older than `max_staleness`.

    Args:
      trip_of: how long clients take.
      num_clients: `K`.
      cohort_size: clients invited to a round, fewer where fewer are idle.
      num_rounds: `R`.
      policy: what the server waits for.
      max_staleness: the oldest update that counts.
      random: draws who is invited.

    Raises:
      ValueError: for numbers below their least, a policy that cannot be waited for, and
        when nobody ever arrives.

    >>> table = carried(lambda client, start: Trip(start + 1 + client, True, 0.0),
    ...     num_clients=2, cohort_size=2, num_rounds=2, max_staleness=5,
    ...     policy=Policy(deadline_seconds=1.5), random=np.random.default_rng(0))
    >>> table.clients.tolist(), table.active.tolist(), table.staleness[1].tolist()
    ([[0, 1], [1, 0]], [[True, False], [True, True]], [1, 0])
    """
    for name, value, least in (
        ("cohort_size", cohort_size, 1),
        ("num_rounds", num_rounds, 1),
        ("max_staleness", max_staleness, 0),
    ):
        if value < least:
            raise ValueError(f"Expected {name}={value} >= {least}.")
    if cohort_size > num_clients:
        raise ValueError(
            f"Expected cohort_size={cohort_size} <= num_clients={num_clients}."
        )
    check_policy(policy)
    steps: list[_Step] = []
    start, joules, discarded = 0.0, 0.0, 0
    late: list[tuple[float, int, int, bool, float]] = []
    while len(steps) < num_rounds:
        version = len(steps)
        at_work = {client for _, client, *_ in late}
        idle = [client for client in range(num_clients) if client not in at_work]
        invited = random.permutation(idle)[:cohort_size]
        trips_of = {int(c): trip_of(int(c), start) for c in invited}
        sent_out = [_under_way(c, version, trip) for c, trip in trips_of.items()]
        own = trips_of.values()
        arrivals = np.array([t.seconds if t.came else math.inf for t in own])
        gone = np.array([t.seconds if t.told else -math.inf for t in own])
        end = close_round(start, arrivals, policy, gone=gone).end
        if end <= start:
            # Nobody came: the server waits for whoever is under way, or asks again.
            waiting = [t for t, _, _, came, _ in [*late, *sent_out] if came]
            end = min([start + IDLE_SECONDS, *waiting])
        under_way = [*late, *sent_out]
        late, arrived = [], []
        for trip in sorted(under_way):
            seconds, client, began, came, spent = trip
            if seconds > end:
                late.append(trip)
                continue
            joules += spent
            if came and version - began <= max_staleness:
                arrived.append((client, version - began))
            else:
                discarded += 1
        steps.append(_Step(arrived, end, joules, discarded))
        start = end
    if not any(step.arrived for step in steps):
        raise _nobody(num_rounds)
    return _table(steps, num_clients)


def _under_way(
    client: int, version: int, trip: Trip
) -> tuple[float, int, int, bool, float]:
    return trip.seconds, client, version, trip.came, trip.joules


def _nobody(attempts: int) -> ValueError:
    return ValueError(
        f"Nobody arrived in {attempts} attempts in a row: the clients are away, or "
        "what they began from is older than max_staleness when they arrive."
    )


def _table(steps: Sequence[_Step], num_clients: int) -> Timetable:
    """Arrays of one width; what is empty is filled with clients that take no part."""
    width = max(1, *(len(step.arrived) for step in steps))
    shape = (len(steps), width)
    clients = np.zeros(shape, np.int32)
    staleness, active = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for row, step in enumerate(steps):
        ids = [client for client, _ in step.arrived]
        count = len(ids)
        staleness[row, :count] = [stale for _, stale in step.arrived]
        active[row, :count] = True
        others = np.setdiff1d(np.arange(num_clients), ids)[: width - count]
        clients[row] = [*ids, *others]
    return Timetable(
        clients,
        staleness,
        active,
        np.array([step.seconds for step in steps]),
        np.array([step.joules for step in steps]),
        np.array([step.discarded for step in steps]),
    )
