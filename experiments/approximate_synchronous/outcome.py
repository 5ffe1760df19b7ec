"""What a protocol's run amounts to: a row of the table and a curve over time."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.approximate_synchronous.protocols import Rule, Variant
from fedjax_comp.base import PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.metrics import Row
from fedjax_comp.network.region_clock import total_link_bytes
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json
from fedjax_comp.training import TrainState, init_state

COLUMNS = (
    "protocol",
    "family",
    "rule",
    "partition",
    "accuracy",
    "best_accuracy",
    "all_centres_accuracy",
    "worst_centre_accuracy",
    "updates_to_target",
    "wan_seconds_to_target",
    "wan_speedup",
    "lan_ratio",
    "bytes_to_target",
    "wan_seconds",
    "lan_seconds",
    "total_bytes",
    "busiest_link_bytes",
    "significant_share",
    "reason",
)
"""Of `table.csv`. `wan_speedup` is the seconds to the target of the first protocol over
one's own; `lan_ratio` is one's own over those of the first protocol on the local
network; bytes are those between centres; `significant_share` is the part of all
coordinates that were sent; `reason` is empty unless the protocol failed."""


class Curve(NamedTuple):
    """A protocol over time: `wan_seconds`, `total_bytes`, `test_accuracy`."""

    name: str
    partition: str
    rows: list[Json]


class Centre(NamedTuple):
    """Accuracy of all centres' models at the end, and bytes on each link `[N, N]`."""

    accuracies: list[float]
    link_bytes: np.ndarray


def curve_of(rows: Sequence[Row], steps: int) -> list[Json]:
    """Totals against simulated time, from a run's evaluations."""
    made = []
    for row in rows:
        observed = row.get("observed", {})
        made.append(
            {
                "updates": row["round"] * steps,
                "test_accuracy": row["test_accuracy"],
                "wan_seconds": observed.get("seconds_wan", 0.0),
                "lan_seconds": observed.get("seconds_lan", 0.0),
                "total_bytes": int(observed.get("link_bytes", 0)),
                "significant": observed.get("significant", 0.0),
            }
        )
    return made


def at_target(rows: Sequence[Json], column: str, target: float) -> float | None:
    """A column where accuracy first reaches a target, interpolated linearly.

    >>> rows = [{"t": 0, "test_accuracy": 0.0}, {"t": 4, "test_accuracy": 1.0}]
    >>> at_target(rows, "t", 0.5)
    2.0
    """
    for before, after in itertools.pairwise(rows):
        low, high = before["test_accuracy"], after["test_accuracy"]
        if low < target <= high:
            share = (target - low) / (high - low)
            return before[column] + share * (after[column] - before[column])
    return None


def final_centres(
    problem: Problem, rule: Rule, key: jax.Array, workdir: Path
) -> Centre:
    """All centres' models and links at the end, from the run's last checkpoint."""
    blank = init_state(key, problem.algorithm, problem.params, problem.num_clients)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(blank)
    if restored is None:
        raise ValueError(f"Expected a checkpoint in {workdir}.")
    state: TrainState = restored[0]
    models = _models(state, problem, rule)
    evaluate = jax.jit(problem.evaluate)
    accuracies = [float(evaluate(one, problem.test).accuracy) for one in models]
    return Centre(accuracies, total_link_bytes(state.server))


def _models(state: TrainState, problem: Problem, rule: Rule) -> list[PyTree]:
    if not rule.replicas:
        return [problem.algorithm.params(state.server)]
    replicas = state.server.server.replicas
    return [
        jax.tree.map(lambda x, i=i: x[i], replicas) for i in range(problem.num_clients)
    ]


def measured(
    variant: Variant,
    rule: Rule,
    summary: Json,
    rows: Sequence[Json],
    centre: Centre,
    target: float,
) -> Json:
    """A row of the table, comparisons apart."""
    last = rows[-1]
    coordinates = summary["num_parameters"] * summary["num_clients"] * summary["rounds"]
    return {
        "protocol": variant.name,
        "family": rule.family,
        "rule": variant.protocol,
        "partition": variant.partition,
        "accuracy": summary["test_accuracy"],
        "best_accuracy": summary["best_test_accuracy"],
        "all_centres_accuracy": float(np.mean(centre.accuracies)),
        "worst_centre_accuracy": min(centre.accuracies),
        "updates_to_target": at_target(rows, "updates", target),
        "wan_seconds_to_target": at_target(rows, "wan_seconds", target),
        "lan_seconds_to_target": at_target(rows, "lan_seconds", target),
        "wan_speedup": None,
        "lan_ratio": None,
        "bytes_to_target": at_target(rows, "total_bytes", target),
        "wan_seconds": last["wan_seconds"],
        "lan_seconds": last["lan_seconds"],
        "total_bytes": last["total_bytes"],
        "busiest_link_bytes": int(centre.link_bytes.max()),
        "significant_share": (
            last["significant"] / coordinates if rule.family == "gaia" else None
        ),
        "reason": "",
    }


def failed(variant: Variant, reason: str) -> Json:
    """The row of a protocol that failed."""
    return {
        **dict.fromkeys(COLUMNS),
        "lan_seconds_to_target": None,
        "protocol": variant.name,
        "rule": variant.protocol,
        "partition": variant.partition,
        "reason": reason,
    }


def add_comparisons(outcomes: Sequence[Json]) -> None:
    """Seconds to the target against those of the first protocol."""
    first = outcomes[0]
    for one in outcomes:
        own = one["wan_seconds_to_target"]
        if own and first["wan_seconds_to_target"]:
            one["wan_speedup"] = first["wan_seconds_to_target"] / own
            one["lan_ratio"] = own / first["lan_seconds_to_target"]
