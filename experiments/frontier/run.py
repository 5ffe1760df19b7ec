"""Bytes to a target accuracy for many pipelines on one task."""

import functools
import math
from collections.abc import Sequence

from absl import flags

from experiments.fed_avg.flags import define as define_run
from experiments.fed_avg.privacy import privacy_spent
from experiments.fed_avg.run import build_problem, check_task, claims
from experiments.frontier.flags import QUICK, define
from experiments.frontier.pareto import pareto_front
from experiments.frontier.plot import bytes_against_rounds, curves
from fedjax_comp.experiment.comparison import Comparison, Results, run_of
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.finish import SPENT, execute
from fedjax_comp.experiment.outcome import (
    add_ratios,
    claim,
    failure_claims,
    formatted,
    number,
)
from fedjax_comp.experiment.pipelines import Pipeline, flags_of, parse_pipelines
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.report import Figure, Run, format_bytes
from fedjax_comp.run_directory import Json

COLUMNS = (
    "rounds_to_target",
    "uplink_bytes_to_target",
    "downlink_bytes_to_target",
    "total_bytes_to_target",
    "uplink_bytes_to_target_ratio",
    "total_bytes_to_target_ratio",
    "test_accuracy",
    "best_test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "on_front",
    "algorithm",
    "uplink",
    "downlink",
)


def parse(values: flags.FlagValues) -> list[Pipeline]:
    """The pipelines; what all of them share is built once, to find mistakes."""
    if values.target_accuracy is None:
        raise UsageError("--target_accuracy is missing: bytes are counted to it.")
    pipelines = parse_pipelines(values.pipeline, values.algorithm)
    check_task(values, pipelines)
    return pipelines


def run_pipeline(pipeline: Pipeline, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(pipeline, values, define_run())
    build_own = functools.partial(build_problem, own)
    summary = execute("fed_avg", own, build_own, claims, privacy_spent(own))
    (row,) = summary["runs"]
    return {**row, "name": pipeline.name}, run_of(pipeline.name, own.workdir)


def compare(rows: list[Json]) -> None:
    """Adds to each row its ratios to the first, and whether it is on the front."""
    add_ratios(rows, "uplink_bytes_to_target", "total_bytes_to_target")
    reached = [one for one in rows if one["rounds_to_target"] is not None]
    costs = ("total_bytes_to_target", "rounds_to_target")
    front = {one["name"] for one in pareto_front(reached, costs)}
    for one in rows:
        one["on_front"] = one["name"] in front


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    reached = [one for one in rows if one["rounds_to_target"] is not None]
    shown: Json = {"pipelines_at_target": f"{len(reached)} of {len(rows)}"}
    for column in ("uplink_bytes_to_target", "total_bytes_to_target"):
        if reached:
            best = min(reached, key=lambda one: one[column])
            shown[f"least_{column.partition('_')[0]}"] = best["name"]
            shown[f"least_{column}"] = best[column]
            shown[f"least_{column}_ratio"] = best[f"{column}_ratio"]
    return shown


def frontier_claims(results: Results) -> list[Json]:
    """That nothing failed, and that compression saves bytes both ways.

    The best of the others is looked at; where none came to the target, none is saved.
    """
    first, *others = results.rows
    ratios = [one["total_bytes_to_target_ratio"] for one in others]
    known = [one for one in ratios if one is not None]
    nothing = 0.0 if others and first["rounds_to_target"] is not None else None
    return [
        *failure_claims("pipeline", results.rows),
        *claim(
            "largest ratio of the first pipeline's bytes, both ways",
            1.0,
            max(known, default=nothing),
            above=True,
        ),
    ]


def figures(results: Results) -> list[Figure | None]:
    """Rounds against bytes, and the curves."""
    folder = results.figures_path
    drawn = [
        bytes_against_rounds(results.rows, f"{name}_bytes_to_target", words, folder)
        for name, words in (("total", "both ways"), ("uplink", "from clients"))
    ]
    if results.curves:
        columns = ("uplink_bytes", "downlink_bytes")
        path = folder / "accuracy_against_bytes.png"
        drawn.append(curves(results.curves, columns, path))
    return drawn


def cost(row: Json) -> float:
    """What the terminal's table is sorted by."""
    total = row["total_bytes_to_target"]
    return math.inf if total is None else total


COMPARISON = Comparison(
    name="frontier",
    define=define,
    quick=QUICK,
    repeated=("pipeline",),
    variants=parse,
    describe=lambda one: " | ".join(one[1:]),
    run=run_pipeline,
    columns=COLUMNS,
    where_known=SPENT,
    compare=compare,
    claims=frontier_claims,
    figures=figures,
    title=lambda values: f"Bytes to {values.target_accuracy:.1%} on {values.dataset}",
    headlines=headlines,
    shown={
        "rounds": number("rounds_to_target"),
        "up": formatted("uplink_bytes_to_target", format_bytes),
        "both": formatted("total_bytes_to_target", format_bytes),
        "up ": number("uplink_bytes_to_target_ratio", "{:.1f}x"),
        "both ": number("total_bytes_to_target_ratio", "{:.1f}x"),
        "best": number("best_test_accuracy", "{:.4f}"),
    },
    mark=lambda row: " *" if row["on_front"] else "",
    caption=(
        "up, both: bytes, and how many times fewer than the first\n"
        "* no other takes fewer bytes both ways and fewer rounds"
    ),
    order=cost,
    tuning=Tuning(
        ("client_optimizer",),
        {"validation_share": 0.1},
        # Not by rounds: with a larger step they may be fewer and carry more.
        least="total_bytes_to_target",
    ),
)
main = COMPARISON.main
