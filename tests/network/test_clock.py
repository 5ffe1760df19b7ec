"""The clock: stages of a visit, ends of rounds, buffers."""

import math

import numpy as np
import pytest

from fedjax_comp.network.clock import (
    Closed,
    Policy,
    Visit,
    Work,
    check_policy,
    close_round,
    spent,
    visit,
)
from fedjax_comp.network.devices import NOTHING, Cost, Device
from fedjax_comp.network.links import Link, Presence, constant_channel, packet_sizes

DEVICE = Device("test", 1e6, 1e6, 5.0, transmit_watts=2.0, receive_watts=1.0)


def bits(size):
    return 8.0 * packet_sizes(size).sum()


def link(presence=None):
    up = constant_channel(1e4, latency_seconds=0.5)
    return Link(up, constant_channel(1e5, latency_seconds=0.25), presence)


def test_a_visit_is_the_sum_of_its_stages():
    work = Work(1000, 200, Cost(3e6, 1.0), Cost(1.0, 2e6), Cost(1e6, 1.0))
    seen = visit(link(), DEVICE, 7.0, work, random=np.random.default_rng(0))
    down, up = bits(1000) / 1e5 + 0.25, bits(200) / 1e4 + 0.5
    assert seen.downloaded == pytest.approx(7 + down)
    assert seen.trained == pytest.approx(7 + down + 1 + 3)
    assert seen.encoded == pytest.approx(7 + down + 1 + 3 + 2)
    assert seen.arrived == pytest.approx(7 + down + 6 + up)
    assert seen.joules == pytest.approx(down * 1 + 6 * 5 + up * 2)


def test_silence_costs_nothing_and_a_leaver_never_arrives():
    silent = Work(None, None, NOTHING, NOTHING, NOTHING)
    seen = visit(link(), DEVICE, 7.0, silent, random=np.random.default_rng(0))
    assert (seen.arrived, seen.joules) == (7.0, 0.0)
    gone = link(Presence(np.array([0.0, 9.0]), 100.0))
    work = Work(0, 0, Cost(4e6, 0.0), NOTHING, NOTHING)
    seen = visit(gone, DEVICE, 7.0, work, random=np.random.default_rng(0))
    assert seen.arrived == math.inf
    # It computed until it went, and spent no more.
    downloading = bits(0) / 1e5 + 0.25
    assert seen.joules == pytest.approx(downloading + 5 * (2 - downloading))


@pytest.mark.parametrize("seed", range(5))
def test_close_round_against_waiting(seed):
    random = np.random.default_rng(seed)
    arrivals = 10 + random.exponential(5, size=8)
    arrivals[random.random(8) < 0.2] = math.inf
    for deadline in (3.0, 8.0, math.inf):
        for wanted in (None, 1, 4, 8):
            policy = Policy(deadline, wanted)
            # A server that looks at each arrival in turn.
            here = [t for t in sorted(arrivals) if math.isfinite(t)]
            end, need = None, len(here) if wanted is None else wanted
            seen = [t for t in here if t <= 10 + deadline]
            if need and len(seen) >= need:
                end = seen[need - 1]
            elif math.isfinite(deadline):
                end = 10 + deadline
            else:
                end = max(here, default=10.0)
            closed = close_round(10.0, arrivals, policy)
            assert closed.end == end
            assert closed.in_time.tolist() == [t <= end for t in arrivals]


def test_a_client_that_goes_is_waited_for_until_it_does():
    arrivals, never = np.array([1.0, 2.0, math.inf]), -math.inf
    for deadline, left, end in (
        (5.0, 4.5, 4.5),
        (5.0, 1.5, 2.0),
        (5.0, 9.0, 5.0),
        (5.0, never, 2.0),  # it was not there, and was told nothing
        (math.inf, 4.5, 4.5),
    ):
        gone = np.array([math.inf, math.inf, left])
        closed = close_round(0.0, arrivals, Policy(deadline), gone=gone)
        assert closed.end == end
        assert closed.in_time.tolist() == [True, True, False]
    # A goal that was reached is not waited beyond.
    goal = close_round(0.0, arrivals, Policy(5.0, 2), gone=np.array([9.0, 9.0, 4.5]))
    assert goal.end == 2.0


def test_what_is_spent_ends_with_the_round():
    seen = Visit(1.0, 2.0, 4.0, 5.0, 9.0, 0.0)
    for until, joules in ((0.5, 0), (1.5, 0.5), (3.0, 6.0), (7.0, 20.0), (99.0, 24.0)):
        assert spent(DEVICE, seen, until) == pytest.approx(joules)


def test_a_round_without_clients():
    nobody = close_round(4.0, np.array([]), Policy())
    assert isinstance(nobody, Closed)
    assert nobody.end == 4.0
    assert close_round(4.0, np.array([math.inf]), Policy(3.0)).end == 7.0


def test_what_cannot_be_waited_for_is_refused():
    assert check_policy(Policy()) == Policy()
    for policy in (Policy(0.0), Policy(math.nan), Policy(-math.inf), Policy(1.0, 0)):
        with pytest.raises(ValueError, match="Expected"):
            check_policy(policy)
