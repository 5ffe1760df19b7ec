"""Runs one rule on the streams of all trials side by side, and records its error."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.stream_minibatch.problems import StreamProblem
from experiments.stream_minibatch.rules import Rule
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.graphs import contraction
from fedjax_comp.algorithms.stream_minibatch import (
    Pace,
    Rates,
    decaying_step,
    minibatch_sgd,
    pace,
)
from fedjax_comp.base import Algorithm, Traffic
from fedjax_comp.data.arrivals import ArrivalSpec, Synthetic, arrivals, draw_synthetic
from fedjax_comp.keys import make_key
from fedjax_comp.run_directory import Json
from fedjax_comp.training import TrainState, init_state

POINTS = 24
"""Places of a curve, evenly spaced on a logarithmic axis."""

BLOWN_UP = 1.0
"""A mean error at the end that is not below this is no learning: at the start it is
about one for both problems."""


Wide = tuple[jax.Array, jax.Array]
"""A number below 2**64: its upper and its lower half, uint32."""


class Totals(NamedTuple):
    """What happened since the last look, summed over the trials' first.

    Attributes:
      sent: bytes of all messages, as `wide` numbers.
      messages: messages, likewise.
      dropped: updates that were not finite, over all trials, uint32.
    """

    sent: Wide
    messages: Wide
    dropped: jax.Array


def pace_of(rule: Rule, values: flags.FlagValues) -> Pace:
    """The rule's pace by the command's rates, or with the loss that it prescribes."""
    rates = Rates(values.arriving_rate, values.processing_rate, values.message_rate)
    found = pace(rates, batch_size=rule.batch, num_nodes=rule.nodes, rounds=rule.rounds)
    if rule.discarded is None:
        return found
    arrived = rule.batch + rule.discarded
    return Pace(arrived / values.arriving_rate, rule.discarded, arrived)


def build_algorithm(
    rule: Rule, problem: StreamProblem, values: flags.FlagValues
) -> Algorithm:
    """The algorithm of a rule; raises `ValueError` for one that cannot be."""
    step = decaying_step(
        rule.scale * problem.scale, values.offset + values.noise_offset / rule.batch
    )
    optimizer = optax.sgd(step)
    if rule.graph is None:
        return minibatch_sgd(problem.task, optimizer=optimizer, uplink=rule.compressor)
    return consensus_sgd(
        problem.task,
        rule.graph,
        rounds=rule.rounds,
        optimizer=optimizer,
        compressor=rule.compressor,
    )


def simulate(rule: Rule, problem: StreamProblem, values: flags.FlagValues) -> Json:
    """Learns from `--num_arrivals` samples of every trial's stream.

    Args:
      rule: how.
      problem: what.
      values: the command's flags.

    Returns:
      The row: pace, cost, whether it diverged, and the curve of errors.
    """
    pace_ = pace_of(rule, values)
    algorithm = build_algorithm(rule, problem, values)
    sample = arrivals(
        ArrivalSpec(rule.nodes, rule.batch, pace_.discarded), draw_synthetic
    )
    total = int(values.num_arrivals // pace_.arrived)
    looks = look_at(total)

    def one_round(
        state: TrainState, totals: Totals, data: Synthetic
    ) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(state.key, state.round)
        cohort = sample(key, state.round, data)
        server, nodes, info = algorithm.round(key, state.server, state.clients, cohort)
        sent, messages = totals.sent, totals.messages
        for traffic in info.traffic.values():
            cost, count = message_cost(traffic)
            sent, messages = added(sent, cost), added(messages, count)
        dropped = totals.dropped + info.dropped.astype(jnp.uint32)
        totals = Totals(sent, messages, dropped)
        return TrainState(state.key, state.round + 1, server, nodes), totals

    def advance(
        state: TrainState, data: Synthetic, count: jax.Array
    ) -> tuple[TrainState, Totals, jax.Array]:
        none = jnp.zeros((), jnp.uint32)
        nothing = Totals((none, none), (none, none), none)

        def body(
            index: jax.Array, carry: tuple[TrainState, Totals]
        ) -> tuple[TrainState, Totals]:
            del index
            return one_round(carry[0], carry[1], data)

        state, totals = jax.lax.fori_loop(0, count, body, (state, nothing))
        if rule.graph is None:
            return state, totals, problem.error(algorithm.params(state.server), data)
        # The mean of the nodes' models is known to none of them: theirs count.
        errors = jax.vmap(problem.error, in_axes=(0, None))(state.clients.params, data)
        return state, totals, errors.mean()

    def begin(key: jax.Array) -> TrainState:
        model_key, run_key = jax.random.split(key)
        params = problem.task.init(model_key)
        return init_state(run_key, algorithm, params, rule.nodes)

    keys = jax.random.split(make_key(values.seed + 1), values.num_trials)
    state = jax.vmap(begin)(keys)
    program = jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))
    done = sent = messages = dropped = 0
    curve = []
    for look in looks:
        state, totals, errors = program(state, problem.data, jnp.int32(look - done))
        done = look
        sent += wide(totals.sent)
        messages += wide(totals.messages)
        dropped += int(totals.dropped.sum(dtype=jnp.int32))
        curve.append(_point(look * pace_.arrived, np.asarray(errors, np.float64)))
    last = curve[-1]["error"]
    return {
        "nodes": rule.nodes,
        "batch": rule.batch,
        "rounds": rule.rounds,
        "discarded": round(pace_.discarded, 3),
        "minibatches": total,
        "modelled_seconds": total * pace_.seconds,
        "contraction": contraction(rule.graph) if rule.graph else None,
        "edges": rule.graph.num_edges if rule.graph else None,
        "messages_per_edge": messages / rule.graph.num_edges if rule.graph else None,
        "messages": messages,
        "total_bytes": sent,
        "dropped": dropped,
        "diverged": dropped > 0 or last is None or last >= BLOWN_UP,
        "error": last,
        "slope": slope(curve),
        "curve": curve,
    }


def look_at(total: int) -> list[int]:
    """Minibatches after which to look at the error, the last one included.

    >>> look_at(3)
    [1, 2, 3]
    """
    marks = np.geomspace(1, total, POINTS).round().astype(int)
    return sorted({int(mark) for mark in marks} | {total})


def slope(curve: Sequence[Json], part: float = 0.1) -> float | None:
    """Of `log error` against `log arrived` over a curve's last part, by least squares.

    Args:
      curve: `arrived` and `error`.
      part: points from this part of the arrivals on count.

    Returns:
      The slope; None with fewer than three finite points.

    >>> slope([{"arrived": m, "error": 5 / m} for m in (10, 20, 50, 100)])
    -1.0
    """
    last = curve[-1]["arrived"]
    points = [
        (one["arrived"], one["error"])
        for one in curve
        if one["arrived"] >= part * last and one["error"]
    ]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points)).T
    return round(float(np.polyfit(x, y, 1)[0]), 6)


def _point(arrived: float, errors: np.ndarray) -> Json:
    finite = errors[np.isfinite(errors)]
    if len(finite) < len(errors):
        return {"arrived": arrived, "error": None, "spread": None}
    return {
        "arrived": arrived,
        "error": float(finite.mean()),
        "spread": float(finite.std(ddof=1)),
    }


def added(total: Wide, more: jax.Array) -> Wide:
    """The sum of a number in halves and a uint32, of which a look may see many.

    >>> half = jnp.uint32(1 << 31)
    >>> [int(x) for x in added((jnp.uint32(0), half), half)]
    [1, 0]
    """
    high, low = total
    after = low + more
    return high + (after < low).astype(jnp.uint32), after


def wide(total: Wide) -> int:
    """The number of the first trial, `[T]`, on the host."""
    high, low = (int(x[0]) for x in total)
    return (high << 32) + low


def message_cost(traffic: Traffic) -> tuple[jax.Array, jax.Array]:
    """Bytes and messages of one kind in one round, uint32."""
    bits = jnp.full(traffic.spoke.shape, traffic.bits.fixed, jnp.uint32)
    for array in traffic.bits.variable:
        bits = bits + array
    sent = jnp.where(traffic.spoke, (bits + 7) // 8, 0)
    return sent.sum(dtype=jnp.uint32), traffic.spoke.sum(dtype=jnp.uint32)
