"""`python -m experiments.stream_minibatch.electricity`: a real stream that drifts.

The stream is the half-hours of a market in their order; the label says whether the
price rises. Every model is tested on all examples that arrive, learned from or
discarded, before it learns from any of them. Accuracy is reported for blocks of time,
without the first part. Each rule has the step size of `--step` that served it best,
chosen in hindsight, because under drift no part of the stream can stand for the rest:
the accuracy is an upper bound, for all rules alike.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.stream_minibatch.problems import logistic_task
from experiments.stream_minibatch.rules import Rule, parse_rules
from experiments.stream_minibatch.simulate import message_cost, pace_of
from fedjax_comp import data
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.stream_minibatch import minibatch_sgd
from fedjax_comp.base import Algorithm, Examples, PyTree
from fedjax_comp.data.arrivals import ArrivalSpec, arrivals
from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measured, Measurements
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.experiment.seeds import claims_over_seeds
from fedjax_comp.keys import make_key
from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json
from fedjax_comp.training import init_state

RULES = (
    "B-16: minibatch(16, discarded=0)",
    "B-160: minibatch(160, discarded=0)",
    "B-1600: minibatch(1600, discarded=0)",
    "B-16-paced: minibatch(16)",
    "B-160-paced: minibatch(160)",
    "ring-4: consensus(ring(16), 160, rounds=4)",
    "expander-4: consensus(expander(16), 160, rounds=4)",
)
QUICK = {"rule": [*RULES[:2], RULES[4]], "step": [1.0, 3.0]}
"""What `--quick` sets unless it is given by hand."""

BASELINES = ("no change", "majority")
"""The last label again; the label that was more frequent so far."""

COLUMNS = (
    "rule",
    "step",
    "test_accuracy",
    "spread",
    "discarded",
    "minibatches",
    "total_bytes",
)
"""Of `table.csv`; the spread is the standard deviation over the blocks."""


class Stream(NamedTuple):
    """The stream, in order.

    Attributes:
      x: float32 `[T, d]`, the last column of ones.
      y: int32 `[T]`.
    """

    x: jax.Array
    y: jax.Array


def define() -> flags.FlagValues:
    """All flags of the command, not yet parsed."""
    values = run_flags()
    flags.DEFINE_multi_string(
        "rule", list(RULES), "NAME: RULE; may be repeated.", flag_values=values
    )
    flags.DEFINE_multi_float(
        "step",
        [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        "Constant steps of SGD, of which each rule takes the best.",
        lower_bound=1e-9,
        flag_values=values,
    )
    for name, default, meaning in (
        ("arriving_rate", 1e6, "Samples that arrive a second, R_s."),
        ("processing_rate", 1.25e5, "Samples of a node a second, R_p."),
        ("message_rate", 1e4, "Rounds of messages a second, R_c."),
    ):
        flags.DEFINE_float(name, default, meaning, 0.0, None, values)
    flags.DEFINE_float(
        "warm_up",
        0.125,
        "First part of the stream, on which nobody is scored.",
        0.01,
        0.5,
        values,
    )
    flags.DEFINE_integer(
        "blocks",
        10,
        "Blocks of time that the rest is cut into.",
        flag_values=values,
        lower_bound=2,
        upper_bound=30,
    )
    return values


def load_stream(values: flags.FlagValues) -> Stream:
    """The whole stream, training and test examples in their order."""
    dataset = data.load("electricity", data_dir=values.data_dir, raw_dir=values.raw_dir)
    x = np.concatenate([dataset.train.x, dataset.test.x])
    y = np.concatenate([dataset.train.y, dataset.test.y])
    ones = np.ones((len(x), 1), np.float32)
    # Columns are in [0, 1].
    return Stream(
        jnp.asarray(np.concatenate([2 * x - 1, ones], axis=1)), jnp.asarray(y)
    )


def follow(
    rule: Rule, stream: Stream, step: float, values: flags.FlagValues
) -> tuple[np.ndarray, Json]:
    """Tests, then trains, through the whole stream.

    Args:
      rule: how.
      stream: of what.
      step: of SGD.
      values: the command's flags, with the rates.

    Returns:
      Which arrivals were told rightly, float32 `[A]` (a mean over nodes that have
      models of their own), of the `A` that the minibatches cover; and what it cost.
    """
    pace = pace_of(rule, values)
    algorithm = _algorithm(rule, stream.x.shape[1], step)
    total = int(len(stream.y) // pace.arrived)

    def draw(given: Stream, numbers: jax.Array) -> Examples:
        return Examples(given.x[numbers], given.y[numbers])

    sample = arrivals(ArrivalSpec(rule.nodes, rule.batch, pace.discarded), draw)
    key = make_key(values.seed)
    start = init_state(key, algorithm, jnp.zeros(stream.x.shape[1]), rule.nodes)
    window = int(np.ceil(pace.arrived))
    # Rounded as the minibatches' own beginnings are.
    begins = np.arange(total + 1) * rule.batch + np.floor(
        np.arange(total + 1, dtype=np.float32) * np.float32(pace.discarded)
    ).astype(int)
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, [(0, window)] + [(0, 0)] * (leaf.ndim - 1)), stream
    )

    def test_then_train(
        carry: tuple[PyTree, PyTree], at: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[PyTree, PyTree], tuple[jax.Array, jax.Array]]:
        (server, nodes), (index, first) = carry, at
        x, y = (jax.lax.dynamic_slice_in_dim(leaf, first, window) for leaf in padded)
        models = algorithm.params(server)[None] if rule.graph is None else nodes.params
        right = ((x @ models.T > 0) == (y > 0)[:, None]).mean(axis=1)
        own_key = jax.random.fold_in(key, index)
        cohort = sample(own_key, index, stream)
        server, nodes, info = algorithm.round(own_key, server, nodes, cohort)
        each = [message_cost(traffic)[0] for traffic in info.traffic.values()]
        sent = sum(each, start=jnp.zeros((), jnp.uint32))
        return (server, nodes), (right, sent)

    _, (told, sent) = jax.jit(functools.partial(jax.lax.scan, test_then_train))(
        (start.server, start.clients),
        (jnp.arange(total), jnp.asarray(begins[:-1])),
    )
    counts = np.diff(begins)
    covered = np.concatenate(
        [row[:count] for row, count in zip(np.asarray(told), counts, strict=True)]
    )
    return covered, {
        "discarded": round(pace.discarded, 3),
        "minibatches": total,
        "total_bytes": int(np.asarray(sent, np.int64).sum()),
    }


def baselines(y: np.ndarray) -> dict[str, np.ndarray]:
    """Which labels the two baselines tell rightly, float `[T]` each.

    >>> {name: told.tolist() for name, told in baselines(np.array([1, 1, 0])).items()}
    {'no change': [0.0, 1.0, 0.0], 'majority': [0.0, 1.0, 0.0]}
    """
    before = np.concatenate([[0], y[:-1]])
    ones = np.concatenate([[0], np.cumsum(y)[:-1]])
    majority = 2 * ones > np.arange(len(y))
    return {
        "no change": (before == y).astype(float),
        "majority": (majority == y).astype(float),
    }


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every rule and baseline by its name; a mistake in one ends the command."""
    rules = parse_rules("rule", values.rule)
    stream = load_stream(values)
    for name, rule in rules.items():
        if name in BASELINES:
            raise UsageError(f"--rule: {name} is measured anyway; choose a name.")
        try:
            pace = pace_of(rule, values)
            _algorithm(rule, stream.x.shape[1], 1.0)
        except ValueError as error:
            raise UsageError(f"--rule={name}: {error}") from error
        if pace.arrived > values.warm_up * len(stream.y):
            raise UsageError(
                f"--rule={name}: a minibatch takes {pace.arrived:.0f} arrivals, more "
                f"than the first {values.warm_up:g} of {len(stream.y)}, which are not "
                "scored."
            )

    def measure(name: str) -> Json:
        if name in BASELINES:
            told = baselines(np.asarray(stream.y))[name]
            return {"rule": name, **_scores(told, len(stream.y), values), "step": None}
        found = []
        for step in values.step:
            told, cost = follow(rules[name], stream, step, values)
            found.append({**_scores(told, len(stream.y), values), **cost, "step": step})
        return {"rule": name, **max(found, key=lambda one: one["test_accuracy"])}

    return {name: functools.partial(measure, name) for name in (*BASELINES, *rules)}


def _scores(told: np.ndarray, length: int, values: flags.FlagValues) -> Json:
    """Accuracy on the blocks of what comes after the part that steps are chosen on."""
    first = int(values.warm_up * length)
    ends = np.linspace(first, length, values.blocks + 1).astype(int)
    # The last minibatch may end before the stream does.
    blocks = [
        float(told[start:end].mean())
        for start, end in zip(ends[:-1], np.minimum(ends[1:], len(told)), strict=True)
    ]
    return {
        "test_accuracy": float(told[first:].mean()),
        "spread": float(np.std(blocks, ddof=1)),
        "blocks": blocks,
        "ends": ends[1:].tolist(),
    }


def _algorithm(rule: Rule, dimension: int, step: float) -> Algorithm:
    task, optimizer = logistic_task(dimension), optax.sgd(step * rule.scale)
    if rule.graph is None:
        return minibatch_sgd(task, optimizer=optimizer, uplink=rule.compressor)
    return consensus_sgd(
        task,
        rule.graph,
        rounds=rule.rounds,
        optimizer=optimizer,
        compressor=rule.compressor,
    )


def claims(measured: Measured) -> list[Json]:
    """Claims of each block of time, which hold beyond the noise of the blocks.

    With `--quick` there are two steps to choose among, and nothing is claimed.
    """
    if measured.values.quick:
        return []
    rows = {one["rule"]: one["blocks"] for one in measured.measurements}
    pairs = (
        ("B-160", "B-1600", "small minibatches follow the drift"),
        ("B-160", "B-160-paced", "what is discarded is missed"),
        ("expander-4", "B-160-paced", "fewer rounds of messages are worth it"),
        ("B-16", "majority", "something is learned"),
        ("B-16", "no change", "more than the last label is learned"),
    )
    return [
        made
        for own, rival, word in pairs
        if own in rows and rival in rows
        for made in claims_over_seeds(
            [
                claim(
                    f"{word}: accuracy of {own} above {rival}", 0.0, a - b, above=True
                )
                for a, b in zip(rows[own], rows[rival], strict=True)
            ]
        )
    ]


def figures(measured: Measured) -> list[Figure]:
    """Accuracy block by block."""
    runs = [
        Run(
            one["rule"],
            [
                {"arrived": end, "test_accuracy": accuracy}
                for end, accuracy in zip(one["ends"], one["blocks"], strict=True)
            ],
        )
        for one in measured.measurements
    ]
    path = line_figure(
        runs,
        x="arrived",
        y="test_accuracy",
        xlabel="Half-hours arrived",
        ylabel="Accuracy of the block, tested before learned",
        path=measured.figures_path / "electricity.png",
        x_format=lambda count: f"{count:,.0f}",
        size_inches=(7.2, 4.8),
    )
    return [Figure("Accuracy over time", path)]


def in_table(measurements: Sequence[Json]) -> list[Json]:
    """The rows of the table; baselines send nothing."""
    return [
        {name: one.get(name) for name in ("name", *COLUMNS)} for one in measurements
    ]


MEASUREMENTS = Measurements(
    name="stream_minibatch.electricity",
    define=define,
    quick=QUICK,
    jobs=make_jobs,
    summarise=in_table,
    columns=COLUMNS,
    claims=claims,
    figures=figures,
    title=lambda values: "Learning from the electricity market, tested before learned",
    headlines=lambda rows: {one["rule"]: f"{one['test_accuracy']:.1%}" for one in rows},
    note="Accuracy after the first part; the spread is over blocks of time.",
    show=lambda row: f"{row['name']:<16}{row['test_accuracy']:.4f}  step {row['step']}",
)
main = MEASUREMENTS.main

if __name__ == "__main__":
    main()
