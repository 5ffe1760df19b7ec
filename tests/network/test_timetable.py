"""Timetables against a simulation by the second, and what they refuse."""

import math

import numpy as np
import pytest

from fedjax_comp.hooks import Live
from fedjax_comp.metrics import Ledger
from fedjax_comp.network.clock import Policy
from fedjax_comp.network.devices import Cost, Device
from fedjax_comp.network.links import Link, Presence, constant_channel, packet_sizes
from fedjax_comp.network.setting import Codec, Setting
from fedjax_comp.network.timed_cohorts import timetable_clock
from fedjax_comp.network.timetable import Trip, buffered, carried, trips

TIMES = np.array([1.0, 2.5, 4.0, 0.7, 3.3, 9.1])


def trip_of(client, start):
    """Client 5 never comes; the others slow down as time goes by."""
    return Trip(start + TIMES[client] * (1 + 0.01 * start), client != 5, 2.0)


def rng(seed=1):
    return np.random.default_rng(seed)


def make_buffered(trip=trip_of, **changes):
    options = {
        "num_clients": 6,
        "concurrency": 3,
        "buffer_size": 2,
        "num_steps": 40,
        "max_staleness": 3,
        "random": rng(),
        **changes,
    }
    return buffered(trip, **options)


def make_carried(trip=trip_of, **changes):
    options = {
        "num_clients": 6,
        "cohort_size": 3,
        "num_rounds": 40,
        "policy": Policy(deadline_seconds=2.0),
        "max_staleness": 3,
        "random": rng(),
        **changes,
    }
    return carried(trip, **options)


class Log:
    """Trips as they were asked for, in their order."""

    def __init__(self):
        self.made = []

    def __call__(self, client, start):
        trip = trip_of(client, start)
        self.made.append((client, start, trip))
        return trip


def check_against_log(table, log, max_staleness):
    """Every counted update is a trip that was made, and began when it says."""
    starts = np.array([0.0, *table.seconds])
    counted = set()
    for step, now in enumerate(table.seconds):
        before = table.seconds[step - 1] if step else -1.0
        expected = []
        for client, start, trip in log.made:
            # Versions made by the start, the one of this very moment included.
            began = int(np.searchsorted(starts[1:], start, side="right"))
            here = trip.came and before < trip.seconds <= now
            if here and step - began <= max_staleness:
                expected.append((client, step - began))
        here = table.active[step]
        got = zip(table.clients[step][here], table.staleness[step][here], strict=True)
        got = [(int(c), int(s)) for c, s in got]
        assert sorted(got) == sorted(expected), step
        counted |= {(step, c) for c, _ in got}
        assert len({c for c, _ in got}) == len(got)
        assert len(set(table.clients[step])) == table.clients.shape[1]
    over = [trip for _, _, trip in log.made if trip.seconds <= table.seconds[-1]]
    assert table.joules[-1] == pytest.approx(2.0 * len(over))
    assert table.discarded[-1] == len(over) - len(counted)


@pytest.mark.parametrize("max_staleness", [0, 3])
def test_buffered_against_its_trips(max_staleness):
    log = Log()
    table = make_buffered(log, max_staleness=max_staleness)
    check_against_log(table, log, max_staleness)
    assert (np.diff(table.seconds) > 0).all()
    assert table.clients.shape == (40, 2)
    assert table.active.all()
    # Never more than three at work, and three whenever one has just been replaced.
    for _, start, _ in log.made[3:]:
        at_work = sum(s <= start < t.seconds for _, s, t in log.made)
        assert at_work == 3
    counts = np.bincount(table.clients.ravel(), minlength=6)
    assert counts[3] > counts[2]  # the fast one arrives more often than the slow one
    assert counts[5] == 0


@pytest.mark.parametrize("max_staleness", [0, 3])
def test_carried_against_its_trips(max_staleness):
    log = Log()
    table = make_carried(log, max_staleness=max_staleness)
    check_against_log(table, log, max_staleness)
    assert (np.diff(table.seconds, prepend=0.0) <= 2.0 + 1e-12).all()
    # A client that is still at work is not invited.
    for client, start, _ in log.made:
        own = [(s, t.seconds) for c, s, t in log.made if c == client]
        assert sum(s <= start < end for s, end in own) == 1
    assert (table.staleness[table.active] > 0).any() == (max_staleness > 0)


def test_a_deadline_that_all_meet_carries_nothing():
    always = make_carried(
        lambda c, t: Trip(t + TIMES[c], True, 0.0),
        policy=Policy(deadline_seconds=100.0),
        cohort_size=6,
    )
    assert always.active.all()
    assert not always.staleness.any()
    np.testing.assert_allclose(np.diff(always.seconds), TIMES.max())


def test_over_selection_carries_the_rest():
    table = make_carried(policy=Policy(report_goal=1), max_staleness=40)
    # Who is waited for is one of this round; the others come later.
    assert (np.diff(table.seconds, prepend=0.0) > 0).all()
    assert table.staleness[table.active].max() > 0
    assert (~table.active.any(axis=1)).sum() == 0


def test_a_trip_by_hand():
    device = Device("test", 1e6, 1e6, 5.0, transmit_watts=2.0, receive_watts=1.0)
    server = Device("server", 1e6, 1e6, 0.0)
    up, down = constant_channel(1e4), constant_channel(1e5)
    setting = Setting(
        [Link(up, down), Link(up, down, Presence(np.array([4.0, 5.0]), 1000.0))],
        [device, device],
        train_example=Cost(1e5, 0.0),
        uplink=Codec((Cost(2e6, 0.0),), (Cost(3e6, 0.0),)),
        downlink=Codec((Cost(4e6, 0.0),), (Cost(5e6, 0.0),)),
        server=server,
    )
    trip = trips(setting, [20, 20], upload_bytes=100, download_bytes=300)
    download = 8 * packet_sizes(300).sum() / 1e5
    upload = 8 * packet_sizes(100).sum() / 1e4
    seen = trip(0, 7.0)
    # Served 4 s, downloaded, decoded 5 s, trained 2 s, encoded 2 s, uploaded, decoded.
    assert seen.came
    assert seen.seconds == pytest.approx(7 + 4 + download + 5 + 2 + 2 + upload + 3)
    assert seen.joules == pytest.approx(download + 9 * 5 + upload * 2)
    assert seen == trip(0, 7.0)
    # Away when it is asked; and gone before it has arrived.
    assert trip(1, 2.0) == Trip(3.0, False, 0.0, told=False)
    gone = trip(1, 0.5)
    assert (gone.seconds, gone.came) == (5.0, False)
    assert gone.joules == pytest.approx(download + 5 * (0.5 - download))


def test_who_has_no_examples_is_never_counted():
    channel, device = constant_channel(1e6), Device("test", 1e6, 1e6, 5.0)
    setting = Setting([Link(channel, channel)] * 4, [device] * 4)
    trip = trips(setting, [20, 0, 20, 20], upload_bytes=100, download_bytes=100)
    assert trip(1, 2.0) == Trip(3.0, False, 0.0, told=False)
    for table in (
        make_buffered(trip, num_clients=4, concurrency=2),
        make_carried(trip, num_clients=4, cohort_size=4),
    ):
        counts = np.bincount(table.clients[table.active], minlength=4)
        assert counts[1] == 0
        assert (np.delete(counts, 1) > 0).all()
    # In rounds nobody waits for it.
    assert table.seconds[-1] < 40 * 0.1


def test_a_clock_goes_by_its_timetable_and_not_beyond():
    clock, ledger = timetable_clock(make_carried(num_rounds=3)), Ledger()
    live = Live(None, None, None, ledger, None)
    clock.begin(live, None)
    assert (ledger.simulated_seconds, ledger.joules) == (0.0, 0.0)
    ledger.rounds = 2
    clock.begin(live, None)  # a resumed run keeps its time
    clock.after(live, None, None)
    assert ledger.simulated_seconds == make_carried(num_rounds=3).seconds[1]
    ledger.rounds = 4
    with pytest.raises(ValueError, match="timetable of 4 steps or more, got 3"):
        clock.after(live, None, None)


def test_what_cannot_be_is_refused():
    for make, changes in (
        (make_buffered, {"concurrency": 0}),
        (make_buffered, {"buffer_size": 0}),
        (make_buffered, {"num_steps": 0}),
        (make_buffered, {"max_staleness": -1}),
        (make_buffered, {"concurrency": 6}),
        (make_carried, {"cohort_size": 0}),
        (make_carried, {"cohort_size": 7}),
        (make_carried, {"num_rounds": 0}),
        (make_carried, {"policy": Policy(math.nan)}),
    ):
        with pytest.raises(ValueError, match="Expected"):
            make(**changes)


@pytest.mark.parametrize("make", [make_buffered, make_carried])
def test_a_server_without_clients_does_not_wait_for_ever(make):
    with pytest.raises(ValueError, match="Nobody arrived"):
        make(lambda c, t: Trip(t + 1.0, False, 0.0))
