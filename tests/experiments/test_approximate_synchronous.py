"""The comparison among data centres: its clock, what it leaves behind, its mistakes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.approximate_synchronous.run import main
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


def test_the_regions():
    links = regions.wan(lan_mbps=600.0, nearest=15.0, farthest=60.0)
    apart = ~np.eye(11, dtype=bool)
    rates = links.bits_per_second[apart] / 1e6
    assert rates.max() == pytest.approx(40)
    assert rates.min() == pytest.approx(10)
    np.testing.assert_allclose(links.bits_per_second, links.bits_per_second.T)
    hubs = regions.hubs_of(11)
    assert all(hubs[hub] == hub for hub in hubs)


def test_quick_run_leaves_everything_behind(tmp_path, capsys):
    matrix = tmp_path / "links.csv"
    matrix.write_text("0,5,5\n5,0,1\n5,1,0\n")
    flags = [
        f"--workdir={tmp_path / 'run'}",
        "--quick",
        "--model=linear()",
        "--num_updates=12",
        "--eval_every=4",
        "--num_centres=3",
        f"--bandwidth={matrix}",
        "--target_accuracy=0.2",
        "--protocol=synchronous: synchronous()",
        "--protocol=gaia: gaia(0.2, delay=1)",
        "--noprogress",
    ]
    main(["approximate_synchronous", *flags])
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    synchronous, gaia = summary["protocols"]
    # 650 numbers of four bytes; each link carries two thirds of them a round.
    assert synchronous["total_bytes"] == pytest.approx(12 * 6 * 2 * 2600 / 3, rel=1e-3)
    assert synchronous["busiest_link_bytes"] == pytest.approx(
        synchronous["total_bytes"] / 6, rel=1e-3
    )
    assert 0 < gaia["significant_share"] < 1
    assert gaia["wan_seconds"] > 12 * 0.1
    assert gaia["worst_centre_accuracy"] <= gaia["all_centres_accuracy"]
    links = (folder / "gaia" / "link_bytes.csv").read_text().splitlines()
    sent = [[int(v) for v in line.split(",")[1:]] for line in links[1:]]
    assert sum(map(sum, sent)) == pytest.approx(gaia["total_bytes"], abs=1)
    assert (folder / "report.html").read_text().count("data:image/png") == 2
    main(["approximate_synchronous", *flags])
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--protocol=a: gaia(-0.1)", "initial=-0.1"),
        ("--protocol=a: gaia(0.1, delay=-1)", "delay=-1"),
        ("--protocol=a: giaa(0.1)", "did you mean 'gaia'"),
        ("--protocol=gaia(0.1)", "not of the form"),
        ("--protocol=a: synchronous() | shards(0)", "shards"),
        ("--protocol=a: fed_avg(7)", "no multiple of the 7 updates"),
        ("--num_centres=5", "--num_centres=5 needs --bandwidth=FILE"),
        ("--bandwidth=/nowhere/to.csv", "is no table of numbers"),
        ("--nearest_ratio=70", "in that order"),
        ("--target_accuracy=2", "--target_accuracy=2"),
        ("--batch_size=0", "batch_size=0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["approximate_synchronous", f"--workdir={tmp_path}", "--quick", flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
