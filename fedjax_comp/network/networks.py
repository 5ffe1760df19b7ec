"""Networks: which link each client has.

Constant, lognormal and Markov rates ship as code; recorded ones are read from files
(`fedjax_comp.network.trace_files`). A client's link depends on the seed and its number
alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.links import Channel, Link, Presence
from fedjax_comp.network.trace_files import read_trace_pairs, read_traces
from fedjax_comp.network.traces import Trace, rate_trace, rotated, scaled


class Network(Protocol):
    """`(num_clients, seed, raw_dir, labels) -> links[K]`.

    It reads recordings below `raw_dir`; `labels` are the mean labels of what each
    client holds, float64 `[K]`, where they are known (`by_label` alone looks at them).
    """

    def __call__(
        self,
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
        /,
    ) -> Sequence[Link]:
        """The links of a seed."""


UPLINK_SHARE = 0.71
"""Uplink rate over downlink rate where a recording has one direction: the median of the
19 users of FLASH's speed table (Yang et al., "Characterizing impacts of heterogeneity
in federated learning upon large-scale smartphone data", 2021)."""

SYNTHETIC_SECONDS = 600
"""Synthetic traces have a rate for each second and repeat after so many."""


def constant(
    megabits_per_second: float = 1.0,
    *,
    uplink_share: float = UPLINK_SHARE,
    latency_seconds: float = 0.05,
    loss: float = 0.0,
) -> Network:
    """Every client has the same link of one rate.

    Args:
      megabits_per_second: of the downlink.
      uplink_share: uplink rate over downlink rate.
      latency_seconds: one way.
      loss: share of packets lost.

    Raises:
      ValueError: for a rate that is not positive, and as `Channel` says.

    >>> len(constant(1.0)(3, 0, None))
    3
    """
    checks.positive("megabits_per_second", megabits_per_second)
    make = _maker(uplink_share, latency_seconds, loss)
    trace = rate_trace(np.ones(1), np.array([megabits_per_second * 1e6]))
    return lambda num_clients, seed, raw_dir, labels=None: (
        [make(trace, trace)] * num_clients
    )


def lognormal(
    median_megabits_per_second: float = 1.0,
    *,
    sigma_clients: float = 1.0,
    sigma_seconds: float = 0.5,
    uplink_share: float = UPLINK_SHARE,
    latency_seconds: float = 0.05,
    loss: float = 0.0,
) -> Network:
    """A client's median rate is lognormal over clients, its rate over seconds.

    Args:
      median_megabits_per_second: of the downlink, over clients and seconds.
      sigma_clients: standard deviation of a client's log median.
      sigma_seconds: standard deviation of the log rate of each second.
      uplink_share: uplink rate over downlink rate.
      latency_seconds: one way.
      loss: share of packets lost.

    Raises:
      ValueError: for a rate that is not positive or a negative deviation.
    """
    checks.positive("median_megabits_per_second", median_megabits_per_second)
    checks.not_negative("sigma_clients", sigma_clients)
    checks.not_negative("sigma_seconds", sigma_seconds)
    make = _maker(uplink_share, latency_seconds, loss)

    def network(
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
    ) -> Sequence[Link]:
        del raw_dir, labels
        links = []
        for k in range(num_clients):
            random = np.random.default_rng([seed, k, 1])
            own = median_megabits_per_second * np.exp(sigma_clients * random.normal())
            up, down = (
                rate_trace(
                    np.ones(SYNTHETIC_SECONDS),
                    own
                    * 1e6
                    * np.exp(sigma_seconds * random.normal(size=SYNTHETIC_SECONDS)),
                )
                for _ in range(2)
            )
            links.append(make(up, down))
        return links

    return network


def markov(
    good_megabits_per_second: float = 2.0,
    bad_megabits_per_second: float = 0.1,
    *,
    good_seconds: float = 20.0,
    bad_seconds: float = 10.0,
    uplink_share: float = UPLINK_SHARE,
    latency_seconds: float = 0.05,
    loss: float = 0.0,
) -> Network:
    """Two rates with exponential times in each (Gilbert and Elliott's channel, 1960).

    Args:
      good_megabits_per_second: of the downlink in its good state.
      bad_megabits_per_second: in its bad state.
      good_seconds: mean time in the good state.
      bad_seconds: mean time in the bad state.
      uplink_share: uplink rate over downlink rate.
      latency_seconds: one way.
      loss: share of packets lost.

    Raises:
      ValueError: for a rate or a time that is not positive.
    """
    rates = (good_megabits_per_second, bad_megabits_per_second)
    means = (good_seconds, bad_seconds)
    names = ("good", "bad")
    for name, rate, mean in zip(names, rates, means, strict=True):
        checks.positive(f"{name}_megabits_per_second", rate)
        checks.positive(f"{name}_seconds", mean)
    make = _maker(uplink_share, latency_seconds, loss)

    def network(
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
    ) -> Sequence[Link]:
        del raw_dir, labels
        links = []
        for k in range(num_clients):
            random = np.random.default_rng([seed, k, 2])
            times, first = two_state_times(random, means)
            bits = 1e6 * np.array(rates)[(np.arange(times.size) + first) % 2]
            trace = rate_trace(times, bits)
            links.append(make(trace, trace))
        return links

    return network


def recorded(
    path: str = "traces/norway_hsdpa.tar.gz",
    *,
    name_contains: str = "test/",
    up_contains: str | None = None,
    without: str = "",
    uplink_share: float = UPLINK_SHARE,
    latency_seconds: float = 0.05,
    loss: float = 0.0,
) -> Network:
    """A recorded trace for each client, each beginning at a moment of its own.

    Clients are given traces at random, none twice before all are used.

    Args:
      path: a directory or archive; a relative one lies below the raw data directory.
      name_contains: the files of the downlink, e.g. `.down`.
      up_contains: those of the uplink, e.g. `.up`: the two traces of a link have names
        that differ in this alone. None where the recording has one direction, which is
        then taken for both.
      without: files with this in their path are left out, such as a link of which one
        direction is missing.
      uplink_share: uplink rate over downlink rate, where there is no uplink.
      latency_seconds: one way.
      loss: share of packets lost.

    Raises:
      ValueError: for such arguments; when called, `TraceError` as `read_traces` and
        `read_trace_pairs`.
    """
    share = uplink_share if up_contains is None else 1.0
    make = _maker(share, latency_seconds, loss)

    def network(
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
    ) -> Sequence[Link]:
        del labels
        place = Path(path) if raw_dir is None else raw_dir / path
        if up_contains is None:
            down = read_traces(place, name_contains=name_contains, without=without)
            pairs = list(zip(down, down, strict=True))
        else:
            pairs = read_trace_pairs(
                place,
                up_contains=up_contains,
                down_contains=name_contains,
                without=without,
            )
        random = np.random.default_rng([seed, 3])
        order = [i for _ in range(0, num_clients, len(pairs))
                 for i in random.permutation(len(pairs))]  # fmt: skip
        links = []
        for k in range(num_clients):
            own_up, own_down = pairs[order[k]]
            moment = random.uniform(0, 1e5)
            links.append(make(rotated(own_up, moment), rotated(own_down, moment)))
        return links

    return network


def intermittent(
    network: Network, *, present_seconds: float = 600.0, absent_seconds: float = 120.0
) -> Network:
    """Clients that come and go: a two-state process for each.

    Args:
      network: their links while they are there.
      present_seconds: mean time for which one is there.
      absent_seconds: mean time for which it is not.

    Raises:
      ValueError: for a time that is not positive.
    """
    checks.positive("present_seconds", present_seconds)
    checks.positive("absent_seconds", absent_seconds)

    def wrapped(
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
    ) -> Sequence[Link]:
        links = network(num_clients, seed, raw_dir, labels)
        return [
            dataclasses.replace(
                link,
                presence=_presence(
                    np.random.default_rng([seed, k, 4]),
                    (present_seconds, absent_seconds),
                ),
            )
            for k, link in enumerate(links)
        ]

    return wrapped


def two_state_times(
    random: np.random.Generator, means: tuple[float, float], pairs: int = 64
) -> tuple[np.ndarray, int]:
    """Exponential times in two states by turns, and which one is first (0 or 1).

    The first is drawn by the shares of time, so that no moment is a special one.
    """
    first = int(random.random() < means[1] / sum(means))
    order = np.array(means)[(np.arange(2 * pairs) + first) % 2]
    return random.exponential(order), first


def _presence(random: np.random.Generator, means: tuple[float, float]) -> Presence:
    times, first = two_state_times(random, means)
    ends = np.cumsum(times)
    # First present: it comes at 0. First absent: it comes when that time is over.
    switches = np.concatenate([[0.0], ends[:-1]]) if first == 0 else ends
    return Presence(switches, float(ends[-1]))


def _maker(
    uplink_share: float, latency_seconds: float, loss: float
) -> Callable[[Trace, Trace], Link]:
    checks.positive("uplink_share", uplink_share)
    checks.not_negative("latency_seconds", latency_seconds)
    if not 0 <= loss < 1:
        raise ValueError(f"Expected loss={loss} in [0, 1).")

    def make(up: Trace, down: Trace) -> Link:
        return Link(
            up=Channel(scaled(up, uplink_share), latency_seconds, loss),
            down=Channel(down, latency_seconds, loss),
        )

    return make
