"""FedDLR beside FedAvg's compressors: accuracy against bytes, and compact models.

After its last round every run's model is factorized and measured.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from experiments.fed_avg.run import build_problem as build_fed_avg
from experiments.fed_avg.run import check_task
from experiments.fed_avg.run import claims as run_claims
from experiments.fed_dlr.claims import add_costs, claims, graded, is_fed_dlr
from experiments.fed_dlr.compact import compact_summary
from experiments.fed_dlr.flags import QUICK, define, define_run
from experiments.fed_dlr.timing import encode_seconds
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
    formatted,
    number,
)
from fedjax_comp.experiment.pipelines import (
    check_names,
    flags_of,
    parse_named,
    parse_pipelines,
)
from fedjax_comp.experiment.problem import build_federation
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json, RunDirectory

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
    "compact_accuracy",
    "rival",
    "rival_bytes",
    "rival_bytes_ratio",
    "cut_accuracy",
    "cut_parameters",
    "dense_parameters",
    "compact_parameters",
    "dense_over_compact_parameters",
    "dense_flops",
    "compact_flops",
    "dense_over_compact_flops",
    "dense_seconds_batch_1",
    "compact_seconds_batch_1",
    "dense_over_compact_seconds_batch_1",
    "dense_over_control_seconds_batch_1",
    "dense_seconds_batch_256",
    "compact_seconds_batch_256",
    "dense_over_compact_seconds_batch_256",
    "dense_over_control_seconds_batch_256",
    "encode_seconds",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
    "model",
)
"""The target is the first pipeline's best accuracy less the tolerance, the rival of
`claims.add_costs`; `cut_...` is of the model cut after training, and `control` a second
copy of the dense one."""


class Method(NamedTuple):
    """A pipeline, the algorithm that it is under, and what else is its own."""

    name: str
    uplink: str
    downlink: str
    algorithm: str
    model: str
    start_rank: int
    num_rounds: int


def parse(values: flags.FlagValues) -> list[Method]:
    """Those of `--pipeline`, `--other_model` and `--truncated`, each with its own name.

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
    """The values of the three flags, each expression of them checked."""

    def method(
        name: str, parts: Sequence[str], algorithm: str, model: str, *rest: int
    ) -> Method:
        (pipeline,) = parse_pipelines([f"{name}: {' | '.join(parts)}"], algorithm)
        return Method(*pipeline, model, *rest)

    def named(flag: str, form: str, *counts: int) -> list[tuple[str, list[str]]]:
        texts = filter(None, values[flag].value or ())
        return parse_named(flag, texts, form, counts=counts)

    form = "'NAME: UPLINK | DOWNLINK [| ALGORITHM]'"
    dense = values.start_rank, values.num_rounds
    methods = [
        method(name, parts, values.algorithm, values.model, *dense)
        for name, parts in named("pipeline", form, 2, 3)
    ]
    if not methods:
        raise UsageError("--pipeline is missing: the first is what all are held to.")
    form = "'NAME: MODEL | UPLINK | DOWNLINK [| ALGORITHM]'"
    for name, (model, *parts) in named("other_model", form, 3, 4):
        build("model", model)
        methods.append(method(name, parts, values.algorithm, model, *dense))
    factored = "fed_dlr(factored=True)" if values.factored else "fed_dlr()"
    form = "'NAME: UPLINK | DOWNLINK [| ALGORITHM [| START_RANK]]'"
    for name, parts in named("truncated", form, 2, 3, 4):
        rank = parts[3] if len(parts) == 4 else str(values.start_rank)
        if not rank.isdecimal():
            raise UsageError(f"--truncated: {name}: START_RANK={rank} is no integer.")
        own = int(rank), values.truncated_rounds
        methods.append(method(name, parts[:3], factored, values.model, *own))
    check_names("truncated", [one.name for one in methods])
    return methods


def run_method(method: Method, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(method, values, define_run())

    def finish(directory: RunDirectory, params: PyTree) -> Json:
        population = build_federation(own).population
        seconds = encode_seconds(build("uplink", own.uplink), params)
        compact = compact_summary(
            build("model", own.model)(population.spec.num_classes),
            params,
            energy=own.compact_energy,
            cut_rank=own.cut_rank,
            test=population.test,
            scale=population.spec.scale,
            directory=directory.path / "compact",
        )
        return {**compact, "encode_seconds": seconds}

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


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    best = graded(rows)
    if best is None:
        return {"pipelines": len(rows)}
    shown = ("compact_accuracy", "rival_bytes_ratio", "dense_over_compact_flops")
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
    repeated=("pipeline", "other_model", "truncated"),
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
        "rival's": number("rival_bytes_ratio", "{:.2f}x"),
        "cut": number("cut_accuracy", "{:.4f}"),
        "FLOPs": number("dense_over_compact_flops", "{:.1f}x"),
        "batch 1": number("dense_over_compact_seconds_batch_1", "{:.2f}x"),
        "same": number("dense_over_control_seconds_batch_1", "{:.2f}x"),
        "batch 256": number("dense_over_compact_seconds_batch_256", "{:.2f}x"),
        "same ": number("dense_over_control_seconds_batch_256", "{:.2f}x"),
    },
    caption=(
        "fewer: than the first took to its accuracy; rival's: bytes of the best rival\n"
        "to the compact accuracy over those of the run; cut: accuracy when cut after\n"
        "training; then dense over compact, and over itself"
    ),
    tuning=Tuning(("client_optimizer",), {"validation_share": 0.1}),
)
main = COMPARISON.main
