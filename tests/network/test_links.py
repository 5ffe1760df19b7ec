"""Links: messages as packets, loss, and the networks that ship as code."""

import math

import numpy as np
import pytest

from fedjax_comp.network.links import (
    Channel,
    Presence,
    arrival,
    constant_channel,
    is_present,
    leaves_at,
    mean_uplink_rate,
    packet_sizes,
)
from fedjax_comp.network.networks import (
    constant,
    intermittent,
    lognormal,
    markov,
    recorded,
)
from fedjax_comp.network.traces import mean_rate, rate_trace, transfer_end
from fedjax_comp.wire.message import HEADER_BYTES


@pytest.mark.parametrize("size", [0, 1, 1443, 1444, 1445, 100_000])
def test_every_byte_and_header_is_paid(size):
    sizes = packet_sizes(size)
    assert sizes.sum() == size + HEADER_BYTES + 40 * sizes.size
    assert (sizes[:-1] == 1500).all()
    assert 40 < sizes[-1] <= 1500


def test_loss_is_what_a_simulation_of_each_packet_gives():
    trace = rate_trace(np.array([0.3, 0.2, 0.5]), np.array([4e5, 0.0, 9e4]))
    channel = Channel(trace, latency_seconds=0.07, loss=0.3)
    measured = arrival(channel, 1.3, 30_000, random=np.random.default_rng(5))
    random = np.random.default_rng(5)
    now, waiting = 1.3, list(packet_sizes(30_000))
    while waiting:
        for size in waiting:
            now = transfer_end(trace, now, np.array([size]))
        fate = random.random(len(waiting))
        waiting = [s for s, u in zip(waiting, fate, strict=True) if u < 0.3]
        now += 0.14 if waiting else 0.07
    assert measured == pytest.approx(now, rel=1e-12)
    with pytest.raises(ValueError, match="random="):
        arrival(channel, 0.0, 10)


def test_loss_costs_one_over_what_arrives():
    # Mean transmissions of a packet: 1 / (1 - p). 4,000 packets, 8 deviations of
    # a geometric number: sqrt(p) / (1 - p) each.
    channel = constant_channel(1e6, loss=0.2)
    sizes = packet_sizes(4000 * 1460)
    clean = 8 * sizes.sum() / 1e6
    lossy = arrival(channel, 0.0, 4000 * 1460, random=np.random.default_rng(0))
    deviation = math.sqrt(0.2) / 0.8 / math.sqrt(sizes.size)
    assert abs(lossy / clean - 1 / 0.8) < 8 * deviation


def test_presence():
    presence = Presence(np.array([1.0, 3.0, 6.0, 7.0]), 10.0)
    assert leaves_at(presence, 11.5) == 13.0
    assert leaves_at(presence, 4.0) == 4.0
    assert leaves_at(None, 4.0) == math.inf
    links = intermittent(constant(), present_seconds=30, absent_seconds=10)(
        200, 0, None
    )
    there = [[is_present(k.presence, t) for k in links] for t in range(0, 4000, 40)]
    # Shares of one trace vary by its 64 pairs of times: 8 deviations over 200 clients.
    assert abs(np.mean(there) - 0.75) < 8 * 0.3 / math.sqrt(64 * 200) + 0.01
    for link in links[:50]:
        if is_present(link.presence, 100.0):
            gone = leaves_at(link.presence, 100.0)
            assert is_present(link.presence, gone - 1e-6)
            assert not is_present(link.presence, gone + 1e-6)


def test_networks_are_of_their_seed_alone():
    for network in (lognormal(loss=0.1), markov(), intermittent(markov())):
        one, same, other = (network(3, seed, None) for seed in (0, 0, 1))
        assert mean_uplink_rate(one[2]) == mean_uplink_rate(same[2])
        assert mean_uplink_rate(one[2]) != mean_uplink_rate(other[2])
        assert mean_uplink_rate(one[0]) != mean_uplink_rate(one[1])
    # The links of more clients begin with those of fewer.
    assert mean_uplink_rate(lognormal()(9, 0, None)[1]) == mean_uplink_rate(
        lognormal()(2, 0, None)[1]
    )


def test_markov_rate_is_its_shares_of_time():
    links = markov(3.0, 1.0, good_seconds=3, bad_seconds=1, uplink_share=1.0)
    rates = [mean_uplink_rate(link) / 1e6 for link in links(300, 0, None)]
    assert np.mean(rates) == pytest.approx(2.5, abs=8 * np.std(rates) / math.sqrt(300))


def test_recorded_links(raw_data_dir):
    network = recorded(uplink_share=0.5)
    links = network(150, 0, raw_data_dir)
    assert len(links) == 150
    assert links[0].up.trace.bits[-1] == links[0].down.trace.bits[-1] / 2
    # 142 traces: the first so many clients have one each.
    assert len({link.down.trace.bits[-1] for link in links[:142]}) > 130
    with pytest.raises(ValueError, match="lognormal"):
        network(1, 0, raw_data_dir / "nowhere")


def test_recorded_links_of_two_directions(tmp_path):
    rates = {"a": (1, 5), "a-2": (2, 6), "b": (3, 7)}
    for name, (up, down) in rates.items():
        (tmp_path / f"{name}.up").write_text(f"0 0\n1 {up}\n")
        (tmp_path / f"{name}.down").write_text(f"0 0\n1 {down}\n")
    network = recorded(str(tmp_path), name_contains=".down", up_contains=".up")
    links = network(3, 0, None)
    measured = {(mean_rate(k.up.trace), mean_rate(k.down.trace)) for k in links}
    assert measured == {(1e6 * up, 1e6 * down) for up, down in rates.values()}
    (tmp_path / "b.up").unlink()
    with pytest.raises(ValueError, match=r"each of b\.down"):
        network(3, 0, None)
    fewer = recorded(
        str(tmp_path), name_contains=".down", up_contains=".up", without="b.down"
    )
    ups = [link.up.trace for link in fewer(4, 0, None)]
    assert {round(mean_rate(trace)) for trace in ups} == {10**6, 2 * 10**6}


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(0.0),
        lambda: constant(loss=1.0),
        lambda: constant(latency_seconds=-1.0),
        lambda: lognormal(sigma_clients=-1.0),
        lambda: markov(bad_seconds=0.0),
        lambda: intermittent(constant(), absent_seconds=math.inf),
        lambda: recorded(uplink_share=0.0),
    ],
)
def test_impossible_networks_are_refused(make):
    with pytest.raises(ValueError, match="Expected"):
        make()
