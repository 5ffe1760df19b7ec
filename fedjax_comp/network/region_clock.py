"""The time that rounds take on given links, and the bytes that cross each of them.

A round is computing, then one or more phases of messages: a centre sends those of a
phase once it has received all of the phase before. A link carries one message after
another. A centre begins its next round when it has computed this one and has everything
that was sent `delay` rounds ago (the mirror clock), or now, where a message is waited
for (the selective barrier). Links do not slow each other down.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import (
    Algorithm,
    Cohort,
    Observed,
    PyTree,
    RoundInfo,
    Traffic,
)
from fedjax_comp.network.regions import Links

Phases = Callable[[jax.Array], jax.Array]
"""`(bits[N] of every centre's message) -> bits[P, N, N] on each link in each phase`."""


class Clock(NamedTuple):
    """Where everyone is, in seconds behind the end of the last round.

    Attributes:
      computed: when each centre has computed, `[N]`.
      complete: when each has had everything of the last `delay + 1` rounds, the oldest
        first, `[delay + 1, N]`.
      free: when each link has nothing left to carry, `[N, N]`.
      waits: whether the last round is waited for, bool scalar.
    """

    computed: jax.Array
    complete: jax.Array
    free: jax.Array
    waits: jax.Array


class Timed(NamedTuple):
    """An algorithm's state with clocks.

    Attributes:
      server: the algorithm's.
      clocks: one for each set of links.
      link_bytes: bytes so far behind the whole megabytes, uint32 `[N, N]`.
      link_megabytes: of `2**20` bytes, uint32 `[N, N]`.
    """

    server: PyTree
    clocks: dict[str, Clock]
    link_bytes: jax.Array
    link_megabytes: jax.Array


def new_clock(num_centres: int, delay: int) -> Clock:
    """All centres about to begin."""
    zeros = jnp.zeros(num_centres, jnp.float32)
    return Clock(
        zeros,
        jnp.zeros((delay + 1, num_centres), jnp.float32),
        jnp.zeros((num_centres, num_centres), jnp.float32),
        jnp.asarray(False),
    )


def tick(
    clock: Clock,
    links: Links,
    bits: jax.Array,
    *,
    compute_seconds: jax.typing.ArrayLike,
    waits: jax.Array,
) -> tuple[Clock, jax.Array]:
    """One round.

    Args:
      clock: before it.
      links: bandwidths and latencies.
      bits: on each link in each phase, `[P, N, N]`.
      compute_seconds: for which a centre computes.
      waits: whether a message of the round is waited for whatever the delay.

    Returns:
      The clock after it, and by how many seconds the end of the last round is later.

    >>> from fedjax_comp.network.regions import lan
    >>> everywhere = 8e6 * (1 - jnp.eye(2))[None]
    >>> _, seconds = tick(
    ...     new_clock(2, 0),
    ...     lan(2, mbps=8.0),
    ...     everywhere,
    ...     compute_seconds=0.5,
    ...     waits=jnp.asarray(False),
    ... )
    >>> float(seconds)
    1.5
    """
    oldest = clock.complete[0]
    held_up = jnp.where(clock.waits, clock.complete[-1], oldest)
    computed = jnp.maximum(clock.computed, held_up) + compute_seconds
    per_bit = jnp.asarray(1 / links.bits_per_second, jnp.float32)
    latency = jnp.asarray(links.latency_seconds, jnp.float32)
    ready, free = computed, clock.free
    for phase in bits:
        sends = phase > 0
        departs = jnp.maximum(free, ready[:, None])
        free = jnp.where(sends, departs + phase * per_bit, free)
        arrives = jnp.where(sends, free + latency, -jnp.inf).max(axis=0)
        ready = jnp.maximum(ready, arrives)
    complete = jnp.concatenate([clock.complete[1:], ready[None]])
    needed = jnp.where(waits, complete[-1], complete[0])
    now = jnp.maximum(computed, needed).max()
    later = Clock(computed - now, complete - now, free - now, waits)
    return later, now


def broadcast(num_centres: int) -> Phases:
    """Everyone's message to everyone else."""
    others = jnp.asarray(1 - np.eye(num_centres), jnp.float32)

    def phases(bits: jax.Array) -> jax.Array:
        return (bits[:, None] * others)[None]

    return phases


def sharded(num_centres: int) -> Phases:
    """Sums of dense vectors: a share of everyone's to each centre, the sums back.

    Two phases of `1 / N` of a message on each link: the least that a sum of vectors
    costs, and how parameter servers share the parameters among them.
    """
    others = jnp.asarray(1 - np.eye(num_centres), jnp.float32)

    def phases(bits: jax.Array) -> jax.Array:
        scatter = bits[:, None] * others / num_centres
        return jnp.stack([scatter, scatter])

    return phases


def overlay(hub_of: tuple[int, ...]) -> Phases:
    """Messages to one's hub, from hub to hub, and from there to their own regions.

    Args:
      hub_of: the hub of each centre; a hub is its own.
    """
    hub = np.asarray(hub_of)
    count = len(hub)
    member = np.zeros((count, count), np.float32)  # member[i, h]: h is the hub of i
    member[np.arange(count), hub] = 1
    is_hub = hub == np.arange(count)
    to_hub = jnp.asarray(member * (1 - np.eye(count)), jnp.float32)
    hubs = jnp.asarray(np.outer(is_hub, is_hub) * (1 - np.eye(count)), jnp.float32)

    def phases(bits: jax.Array) -> jax.Array:
        of_group = bits @ jnp.asarray(member)
        up = bits[:, None] * to_hub
        across = of_group[:, None] * hubs
        # A member is sent everything but its own.
        down = to_hub.T * (bits.sum() - bits)[None, :]
        return jnp.stack([up, across, down])

    return phases


def timed(
    algorithm: Algorithm,
    phases: Phases,
    networks: Mapping[str, Links],
    *,
    num_centres: int,
    compute_seconds: float,
    delay: int = 0,
) -> Algorithm:
    """The same algorithm, observed on links.

    Args:
      algorithm: each centre sends one message a round, to however many others.
      phases: how these get to the others.
      networks: the links to time it on, by name.
      num_centres: `N`.
      compute_seconds: of one round.
      delay: rounds that messages may be late.

    Returns:
      An algorithm with `Timed` state. `observed` has the bytes sent between centres,
      `link_bytes` (float32: a uint32 ends at 4 GiB, which a round may send), and for
      every network the seconds, `seconds_<name>`. `total_link_bytes` adds whole bytes.
    """

    def init(key: jax.Array, params: PyTree) -> tuple[Timed, PyTree]:
        server, client = algorithm.init(key, params)
        clocks = {name: new_clock(num_centres, delay) for name in networks}
        nothing = jnp.zeros((num_centres, num_centres), jnp.uint32)
        return Timed(server, clocks, nothing, nothing), client

    def run_round(
        key: jax.Array, state: Timed, clients: PyTree, cohort: Cohort
    ) -> tuple[Timed, PyTree, RoundInfo]:
        server, clients, info = algorithm.round(key, state.server, clients, cohort)
        bits = message_bits(info.traffic, num_centres)
        loads = phases(bits)
        waited_for = info.observed.get("waited_for")
        waits = jnp.any(waited_for.value if waited_for else jnp.zeros(1, bool))
        observed = dict(info.observed)
        clocks = {}
        for name, links in networks.items():
            clocks[name], seconds = tick(
                state.clocks[name],
                links,
                loads,
                compute_seconds=jnp.float32(compute_seconds),
                waits=waits,
            )
            observed[f"seconds_{name}"] = Observed(seconds)
        of_links = jnp.ceil(loads.sum(axis=0) / 8)
        observed["link_bytes"] = Observed(of_links.sum())
        megabytes = jnp.floor(of_links / (1 << 20))
        so_far = state.link_bytes + (of_links - megabytes * (1 << 20)).astype(
            jnp.uint32
        )
        after = Timed(
            server,
            clocks,
            so_far & jnp.uint32((1 << 20) - 1),
            state.link_megabytes + megabytes.astype(jnp.uint32) + (so_far >> 20),
        )
        return after, clients, info._replace(observed=observed)

    return Algorithm(init, run_round, lambda state: algorithm.params(state.server))


def message_bits(traffic: Mapping[str, Traffic], num_centres: int) -> jax.Array:
    """The length of each centre's message, float32 `[N]`, zero where it sent none.

    What a centre sends to several others is the same message, and counts once here.

    Args:
      traffic: of a round whose clients are the centres.
      num_centres: `N`.

    >>> from fedjax_comp.base import Bits, Ends
    >>> ends = Ends(jnp.array([1, 1, 0]), jnp.array([0, 2, 1]))
    >>> spoke = jnp.array([True, True, False])
    >>> one = Traffic(Bits(8, (jnp.array([2, 2, 4]),)), spoke, ends)
    >>> message_bits({"updates": one}, 3).tolist()
    [0.0, 10.0, 0.0]
    """
    longest = jnp.zeros(num_centres, jnp.float32)
    for kind in traffic.values():
        each = jnp.full(kind.spoke.shape, kind.bits.fixed, jnp.float32)
        for part in kind.bits.variable:
            each = each + part.astype(jnp.float32)
        sender = kind.ends.sender
        each = jnp.where(kind.spoke & (sender >= 0), each, 0)
        longest = longest.at[jnp.maximum(sender, 0)].max(each)
    return longest


def total_link_bytes(state: Timed) -> np.ndarray:
    """Bytes on each link since the beginning, `[N, N]`, on the host."""
    whole = np.asarray(state.link_megabytes).astype(np.int64) << 20
    return whole + np.asarray(state.link_bytes).astype(np.int64)
