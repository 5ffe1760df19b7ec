"""FedDLR beside FedAvg's compressors: accuracy against bytes, and compact models.

After its last round every run's model is factorized and measured.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

from absl import flags

from experiments.fed_avg.run import build_problem as build_fed_avg
from experiments.fed_avg.run import check_task
from experiments.fed_avg.run import claims as run_claims
from experiments.fed_dlr.compact import compact_summary
from experiments.fed_dlr.flags import QUICK, define, define_run
from experiments.frontier.plot import curves, size_for
from fedjax_comp.base import PyTree
from fedjax_comp.compress.low_rank.truncation import low_rank_start
from fedjax_comp.experiment.comparison import Comparison, Results, run_of
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.lateness import counts_late
from fedjax_comp.experiment.outcome import (
    add_ratios,
    claim,
    failure_claims,
    formatted,
    number,
)
from fedjax_comp.experiment.pipelines import check_names, flags_of, parse_pipelines
from fedjax_comp.experiment.problem import build_federation
from fedjax_comp.metrics import Row, to_target
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json, RunDirectory

TOLERANCE, FEWER_BYTES, FEWER_FLOPS = 0.005, 4.0, 3.0
"""What FedDLR may lose to the first pipeline's accuracy, and is to save for that."""

COLUMNS = (
    "algorithm",
    "rounds",
    "test_accuracy",
    "best_test_accuracy",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "rounds_to_target",
    "total_bytes_to_target",
    "total_bytes_to_target_ratio",
    "dense_parameters",
    "compact_parameters",
    "dense_over_compact_parameters",
    "dense_flops",
    "compact_flops",
    "dense_over_compact_flops",
    "compact_accuracy",
    "dense_seconds_batch_1",
    "compact_seconds_batch_1",
    "dense_over_compact_seconds_batch_1",
    "dense_seconds_batch_256",
    "compact_seconds_batch_256",
    "dense_over_compact_seconds_batch_256",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
)
"""The target is the first pipeline's best accuracy less the tolerance."""


class Method(NamedTuple):
    """A pipeline, the algorithm that it is under, and its rounds."""

    name: str
    uplink: str
    downlink: str
    algorithm: str
    num_rounds: int


def parse(values: flags.FlagValues) -> list[Method]:
    """All of `--pipeline`, then all of `--truncated`, each with a name of its own.

    What all of them share is built once, to find mistakes.
    """
    methods = parse_methods(values)
    if counts_late(values) and any(is_fed_dlr(one.algorithm) for one in methods):
        raise UsageError(
            "--concurrency, --late_updates: FedDLR counts no late updates; leave its "
            "pipelines out with --truncated=."
        )
    check_task(values, methods)
    return methods


def parse_methods(values: flags.FlagValues) -> list[Method]:
    """The values of both flags, each expression of them checked."""
    factored = "fed_dlr(factored=True)" if values.factored else "fed_dlr()"
    kinds = (
        ("pipeline", values.algorithm, values.num_rounds),
        ("truncated", factored, values.truncated_rounds),
    )
    found = {
        flag: [
            Method(*pipeline, rounds)
            for pipeline in parse_pipelines(
                filter(None, values[flag].value or ()), algorithm
            )
        ]
        for flag, algorithm, rounds in kinds
    }
    if not found["pipeline"]:
        raise UsageError("--pipeline is missing: the first is what all are held to.")
    methods = [*found["pipeline"], *found["truncated"]]
    check_names("truncated", [method.name for method in methods])
    return methods


def is_fed_dlr(algorithm: str) -> bool:
    """Whether an expression of `--algorithm` is FedDLR."""
    return bool(build("algorithm", algorithm).name == "fed_dlr")


def run_method(method: Method, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(method, values, define_run())

    def finish(directory: RunDirectory, params: PyTree) -> Json:
        population = build_federation(own).population
        return compact_summary(
            build("model", own.model)(population.spec.num_classes),
            params,
            energy=own.compact_energy,
            test=population.test,
            scale=population.spec.scale,
            directory=directory.path / "compact",
        )

    build_own = functools.partial(build_problem, own)
    summary = execute("fed_dlr", own, build_own, run_claims, finish)
    (row,) = summary["runs"]
    kept = [name for name in (*COLUMNS, "compact_ranks") if name in summary]
    row |= {name: summary[name] for name in kept}
    return {**row, "name": method.name}, run_of(method.name, own.workdir)


def build_problem(values: flags.FlagValues) -> Problem:
    """What the flags of one run describe."""
    problem = build_fed_avg(values)
    if not (values.start_rank and is_fed_dlr(values.algorithm)):
        return problem
    start = low_rank_start(problem.params, values.start_rank)
    return problem._replace(params=start)


def add_costs(results: Results) -> None:
    """Adds to each row what it cost to come near the first one's accuracy."""
    first = results.rows[0]
    # When the first failed there is no target, and nobody reached it.
    target = None if first["reason"] else first["best_test_accuracy"] - TOLERANCE
    evaluations = {run.name: cast(Sequence[Row], run.rows) for run in results.curves}
    for row in results.rows:
        row |= to_target(evaluations.get(row["name"], ()), target)


def best_truncated(rows: Sequence[Json]) -> Json | None:
    """FedDLR of the least bytes to the target; if none came there, the best one."""
    made = [one for one in rows if not one["reason"] and is_fed_dlr(one["algorithm"])]
    reached = [one for one in made if one["total_bytes_to_target_ratio"] is not None]
    if reached:
        return max(reached, key=lambda one: one["total_bytes_to_target_ratio"])
    return max(made, key=lambda one: one["best_test_accuracy"], default=None)


def claims(results: Results) -> list[Json]:
    """What the README says the experiment shows, held against these runs."""
    made = failure_claims("pipeline", results.rows)
    first, best = results.rows[0], best_truncated(results.rows)
    if best is None or first["reason"]:
        return made
    lost = first["best_test_accuracy"] - best["best_test_accuracy"]
    name = f"{best['name']}: "
    made += claim(f"{name}accuracy lost to dense", TOLERANCE, lost, at_most=True)
    compact = "dense_over_compact_"
    for words, target, column in (
        ("bytes to within the tolerance", FEWER_BYTES, "total_bytes_to_target_ratio"),
        ("operations of its compact model", FEWER_FLOPS, f"{compact}flops"),
        ("latency of its compact model, batch 1", 1.0, f"{compact}seconds_batch_1"),
        ("latency of its compact model, batch 256", 1.0, f"{compact}seconds_batch_256"),
    ):
        # Zero times where the target was never reached.
        ratio = best[column] or 0.0
        made += claim(f"{name}times less: {words}", target, ratio, at_least=True)
    return made


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    best = best_truncated(rows)
    if best is None:
        return {"pipelines": len(rows)}
    shown = (
        "best_test_accuracy",
        "total_bytes_to_target_ratio",
        "dense_over_compact_flops",
    )
    return {
        "dense_best_accuracy": rows[0]["best_test_accuracy"],
        "best_fed_dlr": best["name"],
        **{name: best[name] for name in shown},
    }


def figures(results: Results) -> list[Figure]:
    """Accuracy against bytes both ways, and of compact models against their work."""
    folder = results.figures_path
    done = [one for one in results.rows if not one["reason"]]
    if not done:
        return []
    path = line_figure(
        [Run(one["name"], [one]) for one in done],
        x="compact_flops",
        y="compact_accuracy",
        xlabel="Floating-point operations an example (logarithmic)",
        ylabel="Test accuracy of the compact model",
        path=folder / "compact_models.png",
        log_x=True,
        size_inches=size_for(len(done)),
    )
    sent = ("uplink_bytes", "downlink_bytes")
    return [
        curves(results.curves, sent, folder / "accuracy_against_bytes.png"),
        Figure("The compact model that each run ends with", path),
    ]


COMPARISON = Comparison(
    name="fed_dlr",
    define=define,
    quick=QUICK,
    repeated=("pipeline", "truncated"),
    variants=parse,
    describe=lambda one: " | ".join(one[1:4]),
    run=run_method,
    columns=COLUMNS,
    complete=add_costs,
    compare=lambda rows: add_ratios(rows, "total_bytes_to_target"),
    claims=claims,
    figures=figures,
    title=lambda values: f"Low rank on both links: {values.model} on {values.dataset}",
    headlines=headlines,
    shown={
        "accuracy": number("best_test_accuracy", "{:.4f}"),
        "bytes": formatted("total_bytes", format_bytes),
        "fewer": number("total_bytes_to_target_ratio", "{:.1f}x"),
        "compact": number("compact_accuracy", "{:.4f}"),
        "FLOPs": number("dense_over_compact_flops", "{:.1f}x"),
        "batch 1": number("dense_over_compact_seconds_batch_1", "{:.1f}x"),
        "batch 256": number("dense_over_compact_seconds_batch_256", "{:.1f}x"),
    },
    caption="fewer: bytes to the first one's accuracy; then dense over compact",
)
main = COMPARISON.main
