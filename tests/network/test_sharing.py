"""Shared server links: timelines by hand, and an infinite server, which is none."""

import json
import math

import numpy as np
import pytest

from experiments.fed_avg.run import main
from fedjax_comp.network import intermittent, lognormal, markov
from fedjax_comp.network.clock import Work, visit
from fedjax_comp.network.devices import LAPTOP, PHONE, Cost
from fedjax_comp.network.links import Channel, arrival, constant_channel, packet_sizes
from fedjax_comp.network.sharing import (
    ServerLink,
    fair_rates,
    server_link,
    shared_arrivals,
    shared_visits,
)
from fedjax_comp.network.traces import packet_trace, rate_trace


def generators(count):
    return [np.random.default_rng(i) for i in range(count)]


def bits(size):
    return 8.0 * packet_sizes(size).sum()


def test_fair_rates_are_max_min():
    random = np.random.default_rng(0)
    for _ in range(50):
        caps, capacity = random.lognormal(0, 2, 6), random.lognormal(1, 2)
        rates = fair_rates(caps, capacity)
        assert rates.sum() == pytest.approx(min(capacity, caps.sum()))
        assert (rates <= caps).all()
        # Who has less than another has all that its own link allows.
        held_back = rates < caps * (1 - 1e-9)
        if held_back.any():
            assert rates[held_back] == pytest.approx(rates.max())


def test_a_timeline_by_hand():
    """Two from 0, a third from 1 s on; the server passes 8,000 bits a second.

    The first two have 4,000 each for a second; then all three 8,000 / 3, but for the
    third, whose own link has 2,000: the others have 3,000. With 10,000 bits the first
    is done after 1 + 6,000 / 3,000 = 3 s. The second, of 16,000, then has 6,000 a
    second, for what is left of it: 16,000 - 4,000 - 6,000 = 6,000 bits, one second.
    """
    size = [(10_000 - bits(0)) / 8, (16_000 - bits(0)) / 8, 944]
    assert [bits(int(x)) for x in size[:1]] == [10_000]
    sizes = [int(x) for x in size]
    sizes[1] -= 40  # the second message is cut into two packets
    assert [bits(x) for x in sizes] == [10_000, 16_000, 8_000]
    channels = [
        constant_channel(1e6, latency_seconds=0.5),
        constant_channel(1e6),
        constant_channel(2e3),
    ]
    found = shared_arrivals(
        channels, [0.0, 0.0, 1.0], sizes, 8e3, randoms=generators(3)
    )
    assert found == pytest.approx([3.5, 4.0, 5.0])


def test_rates_that_change_are_followed():
    """A link that pauses leaves its share to the other one."""
    pausing = Channel(rate_trace(np.array([1.0, 1.0]), np.array([9e3, 0.0])))
    steady = constant_channel(9e3)
    sizes = [944, 944]  # 8,000 bits each
    # Half each for a second, 3,000 and 3,000; the steady one is alone until 2 s, which
    # it does not need: 5,000 bits at 6,000 a second. The other goes on at 2 s, alone.
    found = shared_arrivals(
        [pausing, steady], [0.0, 0.0], sizes, 6e3, randoms=generators(2)
    )
    assert found == pytest.approx([2 + 5 / 6, 1 + 5 / 6])


@pytest.mark.parametrize("capacity", [math.inf, 1e12])
def test_without_a_bottleneck_it_is_the_clock_of_single_clients(capacity):
    network = intermittent(lognormal(0.5, sigma_clients=2.0, loss=0.2))
    links = network(8, 3, None)
    devices = [LAPTOP, PHONE] * 4
    works = [
        Work(
            5000,
            None if k == 5 else 3000 * k,
            Cost(1e9 * k, 0),
            Cost(1e8, 0),
            Cost(1, 1),
        )
        for k in range(8)
    ]
    shared = shared_visits(
        links,
        devices,
        7.3,
        works,
        ServerLink(capacity, capacity),
        randoms=generators(8),
    )
    for k, one in enumerate(shared):
        alone = visit(
            links[k], devices[k], 7.3, works[k], random=np.random.default_rng(k)
        )
        assert one == pytest.approx(alone, rel=1e-9)


def test_the_server_never_passes_more_than_it_can():
    links = markov(2.0, 0.05)(12, 1, None)
    sizes = [20_000 + 1000 * k for k in range(12)]
    total, capacity = sum(bits(size) for size in sizes), 4e5
    channels = [link.up for link in links]
    ends = shared_arrivals(
        channels, [0.0] * 12, sizes, capacity, randoms=generators(12)
    )
    alone = [arrival(c, 0.0, size) for c, size in zip(channels, sizes, strict=True)]
    assert max(ends) >= total / capacity
    assert all(a <= b + 1e-9 for a, b in zip(alone, ends, strict=True))


def test_traces_of_packets_and_no_capacity_are_refused():
    channel = Channel(packet_trace(np.array([0.1, 0.2])))
    with pytest.raises(ValueError, match="traces of packets"):
        shared_arrivals([channel], [0.0], [10], 1e6, randoms=generators(1))
    with pytest.raises(ValueError, match="up_megabits"):
        server_link(up_megabits=0.0)


@pytest.mark.thorough
def test_a_run_waits_for_the_servers_link(tmp_path, capsys):
    flags = [
        "--quick",
        "--noprogress",
        "--model=linear()",
        "--num_clients=6",
        "--cohort_size=6",
        "--num_rounds=2",
        "--audit_every=0",
        "--network=constant(1.0, latency_seconds=0)",
    ]

    def seconds(name, *more):
        main(["fed_avg", f"--workdir={tmp_path / name}", *flags, *more])
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return summary["simulated_seconds"]

    free = seconds("free")
    costs = f"--costs={tmp_path / 'free' / 'costs.json'}"
    wide = seconds("wide", costs, "--server_up_megabits=9", "--server_down_megabits=9")
    narrow = seconds("narrow", costs, "--server_up_megabits=0.1")
    size = bits(4 * 650)
    assert wide == pytest.approx(free, rel=1e-6)
    # Six models of all clients through the server's uplink, in two rounds.
    assert narrow - free == pytest.approx(2 * size * (6 / 1e5 - 1 / 0.71e6), rel=1e-3)
    capsys.readouterr()
    for flag, words in (
        ("--server_up_megabits=-1", "up_megabits=-1"),
        ("--server_up_megabits=1 --network=", "need links that share"),
        ("--server_up_megabits=1 --concurrency=1 --cohort_size=2", "by itself"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["", f"--workdir={tmp_path / 'no'}", *flags, *flag.split()])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
