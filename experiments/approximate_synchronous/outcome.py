"""The result of a protocol's run: a row of the table and a curve over time."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.approximate_synchronous.protocols import Rule, Variant
from fedjax_comp.base import PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.experiment.outcome import add_ratios
from fedjax_comp.metrics import Row, as_written, first_at_target
from fedjax_comp.network.region_clock import total_link_bytes
from fedjax_comp.network.regions import REGIONS
from fedjax_comp.problem import Problem
from fedjax_comp.run_directory import Json
from fedjax_comp.training import TrainState, init_state

COLUMNS = (
    "family",
    "protocol",
    "partition",
    "delay",
    "test_accuracy",
    "best_test_accuracy",
    "mean_centre_accuracy",
    "worst_centre_accuracy",
    "updates_to_target",
    "wan_seconds_to_target",
    "wan_seconds_to_target_ratio",
    "lan_seconds_to_target",
    "slowdown_against_lan",
    "link_bytes_to_target",
    "wan_seconds",
    "lan_seconds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "link_bytes",
    "busiest_link_bytes",
    "significant_share",
    "audited_messages",
    "audit_failures",
)
"""Of `table.csv`. `link_bytes` are those on all links between centres. Each of them is
sent by a centre, and so in `uplink_bytes`, and received by one: in `downlink_bytes`.
`slowdown_against_lan` is one's own seconds to the target on the WAN over those of the
first protocol on the local network; `significant_share` the part of all coordinates
that were sent."""


class Curve(NamedTuple):
    """A protocol over time: `wan_seconds`, `link_bytes`, `test_accuracy`."""

    name: str
    partition: str
    rows: list[Json]


class Centre(NamedTuple):
    """Accuracy of all centres' models at the end, and bytes on each link `[K, K]`."""

    accuracies: list[float]
    link_bytes: np.ndarray


def totals_of(row: Row, steps: int) -> Json:
    """Totals at an evaluation, from its observations."""
    observed = row.get("observed", {})
    return {
        "updates": row["round"] * steps,
        "wan_seconds": observed.get("seconds_wan", 0.0),
        "lan_seconds": observed.get("seconds_lan", 0.0),
        "link_bytes": int(observed.get("link_bytes") or 0),
        "significant": observed.get("significant", 0.0),
    }


def curve_of(variant: Variant, rows: Sequence[Row], steps: int) -> Curve:
    """Accuracy and totals at each evaluation."""
    points = [
        {"test_accuracy": row["test_accuracy"], **totals_of(row, steps)} for row in rows
    ]
    return Curve(variant.name, variant.partition, points)


def final_centres(
    problem: Problem, rule: Rule, key: jax.Array, workdir: Path
) -> Centre:
    """All centres' models and links at the end, from the run's last checkpoint."""
    blank = init_state(key, problem.algorithm, problem.params, problem.num_clients)
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(blank)
    if restored is None:
        raise ValueError(f"Expected a checkpoint in {workdir}.")
    state: TrainState = restored[0]
    models = _models(state, problem, rule)
    evaluate = jax.jit(problem.evaluate)
    accuracies = [as_written(evaluate(one, problem.test).accuracy) for one in models]
    return Centre(accuracies, total_link_bytes(state.server))


def _models(state: TrainState, problem: Problem, rule: Rule) -> list[PyTree]:
    if not rule.replicas:
        return [problem.algorithm.params(state.server)]
    replicas = state.server.server.replicas
    return [
        jax.tree.map(lambda x, i=i: x[i], replicas) for i in range(problem.num_clients)
    ]


def measured(
    rule: Rule, summary: Json, rows: Sequence[Row], centre: Centre, target: float
) -> Json:
    """A row of the table, comparisons apart."""
    end = totals_of(rows[-1], rule.steps)
    reached = first_at_target(rows, target)
    then: Mapping[str, float] = totals_of(reached, rule.steps) if reached else {}
    timed = ("updates", "wan_seconds", "lan_seconds", "link_bytes")
    coordinates = summary["num_parameters"] * summary["num_clients"] * summary["rounds"]
    as_they_are = (
        "test_accuracy",
        "best_test_accuracy",
        "audited_messages",
        "audit_failures",
    )
    return {
        "family": rule.family,
        "delay": rule.delay,
        **{name: summary[name] for name in as_they_are},
        "mean_centre_accuracy": float(np.mean(centre.accuracies)),
        "worst_centre_accuracy": min(centre.accuracies),
        **{f"{name}_to_target": then.get(name) for name in timed},
        **{name: end[name] for name in timed[1:]},
        "uplink_bytes": end["link_bytes"],
        "downlink_bytes": end["link_bytes"],
        "total_bytes": 2 * end["link_bytes"],
        "busiest_link_bytes": int(centre.link_bytes.max()),
        "significant_share": (
            end["significant"] / coordinates if rule.replicas else None
        ),
    }


def compare(rows: list[Json]) -> None:
    """Seconds to the target against those of the first protocol."""
    add_ratios(rows, "wan_seconds_to_target")
    on_lan = rows[0].get("lan_seconds_to_target")
    for one in rows:
        own = one.get("wan_seconds_to_target")
        one["slowdown_against_lan"] = own / on_lan if own and on_lan else None


def link_table(centre: Centre) -> str:
    """Bytes from each centre (row) to every other (column), as CSV."""
    count = len(centre.link_bytes)
    names = list(REGIONS) if count == len(REGIONS) else [str(i) for i in range(count)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["from", *names])
    for name, row in zip(names, centre.link_bytes.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()
