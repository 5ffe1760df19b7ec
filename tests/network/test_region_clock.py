"""The clock of data centres: against events one by one, and bytes by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Algorithm, Bits, Ends, RoundInfo, Traffic
from fedjax_comp.network import region_clock as clock
from fedjax_comp.network import regions

CENTRES = 4


def some_links():
    rng = np.random.default_rng(0)
    rate = rng.uniform(1e3, 1e4, (CENTRES, CENTRES))
    np.fill_diagonal(rate, np.inf)
    latency = rng.uniform(0, 0.2, (CENTRES, CENTRES))
    np.fill_diagonal(latency, 0)
    return regions.Links(rate, latency)


def by_events(links, bits, compute, delay, waits):
    """When all that round t needs is there, message by message."""
    rounds = len(bits)
    computed = np.zeros((rounds, CENTRES))
    arrived = np.zeros((rounds, CENTRES))
    free = np.zeros((CENTRES, CENTRES))
    ends = []
    for t in range(rounds):
        for i in range(CENTRES):
            start = computed[t - 1, i] if t else 0.0
            if t and waits[t - 1]:
                start = max(start, arrived[:t, i].max())
            elif t > delay:
                start = max(start, arrived[: t - delay, i].max())
            computed[t, i] = start + compute
        for j in range(CENTRES):
            arrived[t, j] = computed[t, j]
        for i in range(CENTRES):
            for j in range(CENTRES):
                if i != j and bits[t, i] > 0:
                    free[i, j] = max(free[i, j], computed[t, i])
                    free[i, j] += bits[t, i] / links.bits_per_second[i, j]
                    there = free[i, j] + links.latency_seconds[i, j]
                    arrived[t, j] = max(arrived[t, j], there)
        needed = t if waits[t] else t - delay
        end = arrived[: needed + 1].max() if needed >= 0 else 0.0
        ends.append(max(computed[t].max(), end))
    return ends


@pytest.mark.parametrize("delay", [0, 2])
def test_the_clock_against_events(delay):
    rng = np.random.default_rng(1)
    links, rounds = some_links(), 12
    bits = rng.uniform(100, 3000, (rounds, CENTRES)) * (
        rng.random((rounds, CENTRES)) < 0.8
    )
    waits = rng.random(rounds) < 0.2
    expected = by_events(links, bits, 0.1, delay, waits)
    phases = clock.broadcast(CENTRES)
    step = jax.jit(
        lambda state, bits, waits: clock.tick(
            state, links, phases(bits), compute_seconds=0.1, waits=waits
        )
    )
    state, now = clock.new_clock(CENTRES, delay), 0.0
    for t in range(rounds):
        state, seconds = step(
            state, jnp.asarray(bits[t], jnp.float32), jnp.asarray(waits[t])
        )
        now += float(seconds)
        # A round that nobody waits for may end before one that was waited for.
        assert now == pytest.approx(max(expected[: t + 1]), rel=1e-4), t


def test_bytes_of_the_patterns():
    bits = jnp.array([8.0, 16.0, 0.0, 80.0])
    everyone = clock.broadcast(CENTRES)(bits)
    np.testing.assert_array_equal(everyone[0].sum(axis=1), 3 * bits)
    np.testing.assert_allclose(
        clock.sharded(CENTRES)(bits).sum(), 2 * 3 / 4 * bits.sum()
    )
    up, across, down = clock.overlay((0, 0, 2, 2))(bits)
    # Whatever the way, everyone gets what all the others sent.
    np.testing.assert_array_equal(up.sum(axis=0), [16, 0, 80, 0])
    np.testing.assert_array_equal(across.sum(axis=0), [80, 0, 24, 0])
    np.testing.assert_array_equal(down.sum(axis=0), [0, 88, 0, 24])
    assert not np.any(np.diagonal(up + across + down))
    # Between the groups, each message goes once and not twice.
    wan = float(across.sum())
    assert wan == 104 < float(everyone[0][:2, 2:].sum() + everyone[0][2:, :2].sum())


@pytest.mark.parametrize("size", [1000, 45_000_000, 6 << 30])
def test_a_round_may_send_more_than_4_gib(size):
    """`size` bytes on each link of eleven centres, 495 MB at the second size."""
    count = 11

    def run_round(key, server, clients, cohort):
        del key, cohort
        ends = Ends(jnp.arange(count), jnp.full(count, -1))
        bits = Bits(0, (jnp.full(count, 8.0 * size),))
        one = Traffic(bits, jnp.ones(count, bool), ends)
        info = RoundInfo(jnp.zeros(()), jnp.int32(0), jnp.int32(0), {"u": one}, {}, {})
        return server, clients, info

    made = clock.timed(
        Algorithm(lambda key, params: ((), ()), run_round, lambda server: server),
        clock.broadcast(count),
        {"lan": regions.lan(count, mbps=100.0)},
        num_centres=count,
        compute_seconds=1.0,
    )
    state, clients = made.init(jax.random.key(0), ())
    step, links = jax.jit(made.round), count * (count - 1)
    for rounds in (1, 2):
        state, clients, info = step(jax.random.key(0), state, clients, None)
        observed = float(info.observed["link_bytes"].value)
        assert observed == pytest.approx(size * links, rel=1e-6)
        total = clock.total_link_bytes(state)
        assert total.sum() == pytest.approx(rounds * size * links, rel=1e-12)


def test_totals_of_links_go_beyond_32_bits():
    below = jnp.full((2, 2), 3, jnp.uint32)
    state = clock.Timed((), {}, below, jnp.full((2, 2), 8192, jnp.uint32))
    assert clock.total_link_bytes(state).tolist() == [[2**33 + 3] * 2] * 2
