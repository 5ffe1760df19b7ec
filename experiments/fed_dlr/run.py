"""FedDLR beside FedAvg's compressors: accuracy against bytes, and compact models.

Each pipeline is a run in its own directory below `--workdir`: a killed command goes on
where it was, one with further pipelines runs these, and a pipeline that fails is a line
of the table. After its last round every run's model is factorized and measured.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.fed_avg.run import build_problem as build_fed_avg
from experiments.fed_avg.run import claims as audit_claims
from experiments.fed_dlr.compact import compact_summary
from experiments.fed_dlr.flags import QUICK, define, define_run
from experiments.fed_dlr.plot import figures
from experiments.frontier.pareto import cost_to_target
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.base import PyTree
from fedjax_comp.compress.low_rank.truncation import low_rank_start
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.lateness import counts_late
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import (
    attempt,
    check_names,
    flags_of,
    parse_pipelines,
)
from fedjax_comp.experiment.problem import build_federation, keeps_messages
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.metrics import Row
from fedjax_comp.report import Claim, Run, Table, format_bytes, write_report
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    open_run,
    write_json,
    write_text,
)

TOLERANCE, FEWER_BYTES, FEWER_FLOPS = 0.005, 4.0, 3.0
"""What FedDLR may lose to the first pipeline's accuracy, and is to save for that."""

MEASURED = (
    "test_accuracy",
    "best_test_accuracy",
    "uplink_bytes",
    "downlink_bytes",
    "dense_parameters",
    "compact_parameters",
    "parameters_ratio",
    "dense_flops",
    "compact_flops",
    "flops_ratio",
    "compact_accuracy",
    "dense_seconds_batch_1",
    "compact_seconds_batch_1",
    "seconds_batch_1_ratio",
    "dense_seconds_batch_256",
    "compact_seconds_batch_256",
    "seconds_batch_256_ratio",
)
"""What the table takes from a run's summary; ratios are dense over compact."""

COLUMNS = (
    "pipeline",
    "algorithm",
    "rounds",
    "total_bytes",
    "rounds_to_target",
    "total_bytes_to_target",
    "bytes_ratio",
    *MEASURED,
    "uplink",
    "downlink",
    "reason",
)
"""Of `table.csv`. The target is the first pipeline's best accuracy less the tolerance;
`bytes_ratio` is its bytes to the target, both ways, over one's own. `reason` is empty
unless the pipeline failed."""


class Method(NamedTuple):
    """A pipeline and the algorithm that it is under."""

    name: str
    uplink: str
    downlink: str
    algorithm: str
    num_rounds: int


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every pipeline, then the comparison."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main("fed_dlr", define(), body, argv)


def parse_methods(values: flags.FlagValues) -> list[Method]:
    """All of `--pipeline`, then all of `--truncated`, each with a name of its own."""
    kinds = (
        ("pipeline", "fed_avg", values.num_rounds),
        ("truncated", "fed_dlr", values.truncated_rounds),
    )
    methods = [
        Method(*pipeline, algorithm, rounds)
        for flag, algorithm, rounds in kinds
        for pipeline in parse_pipelines(filter(None, values[flag].value or ()))
    ]
    check_names("truncated", [method.name for method in methods])
    if not methods or methods[0].algorithm != "fed_avg":
        raise UsageError("--pipeline is missing: the first is what all are held to.")
    return methods


def run(values: flags.FlagValues) -> Json:
    """Runs the pipelines one after another; `ValueError` for a mistake."""
    methods = parse_methods(values)
    # What all pipelines share is built once before, so that a mistake in it ends the
    # command and is not the reason of every line.
    build("client_optimizer", values.client_optimizer)
    build_federation(values)
    settings = as_dict(values)
    for name in ("pipeline", "truncated"):  # further ones may be added to a directory
        del settings[name]
    directory = open_run(values.workdir, "fed_dlr", settings)
    outcomes, runs = [], []
    for method in methods:
        print(f"{method.name}: {method.uplink} | {method.downlink}", flush=True)
        result, reason = attempt(
            method.name, functools.partial(run_method, method, values)
        )
        outcomes.append(outcome_of(method, None if result is None else result[0]))
        outcomes[-1]["reason"] = reason
        if result is not None:
            runs.append(result[1])
    add_costs(outcomes, runs)
    summary: Json = {
        "experiment": "fed_dlr",
        "dataset": values.dataset,
        "partition": values.partition,
        "model": values.model,
        "pipelines": outcomes,
        "claims": claims(outcomes),
    }
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"Low rank on both links: {values.model} on {values.dataset}",
        summary=headlines(outcomes),
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Pipelines", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])
        ],
        figures=figures(runs, outcomes, directory.figures_path),
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    print(f"report: {report}")
    return summary


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

    problem = functools.partial(build_problem, own)
    summary = execute("fed_dlr", own, problem, audit_claims, finish)
    return summary, Run(method.name, read_rows(Path(own.workdir)))


def build_problem(values: flags.FlagValues) -> Problem:
    """What the flags of one run describe."""
    problem = build_fed_avg(values)
    if values.algorithm == "fed_avg":
        return problem
    if counts_late(values):
        raise UsageError(
            "--concurrency, --late_updates: FedDLR counts no late updates; leave its "
            "pipelines out with --truncated=."
        )
    federation = build_federation(values)
    start = problem.params
    if values.start_rank:
        start = low_rank_start(start, values.start_rank)
    algorithm = fed_dlr(
        federation.task,
        client_optimizer=build("client_optimizer", values.client_optimizer),
        uplink=federation.uplink,
        downlink=federation.downlink,
        factored=values.factored,
        execution=federation.execution,
        keep_messages=keeps_messages(values),
    )
    return problem._replace(algorithm=algorithm, params=start)


def outcome_of(method: Method, summary: Json | None) -> Json:
    """One line of the table; nothing is known of a pipeline that failed."""
    line: Json = {
        "pipeline": method.name,
        "algorithm": method.algorithm,
        "uplink": method.uplink,
        "downlink": method.downlink,
    }
    if summary is None:
        return {**line, **dict.fromkeys(("rounds", "total_bytes", *MEASURED))}
    return {
        **line,
        "rounds": summary["rounds"],
        "total_bytes": summary["uplink_bytes"] + summary["downlink_bytes"],
        **{name: summary[name] for name in MEASURED},
        "compact_ranks": summary["compact_ranks"],
    }


def add_costs(outcomes: Sequence[Json], runs: Sequence[Run]) -> None:
    """Adds to each outcome what it cost to come near the first one's accuracy."""
    rows = {run.name: cast(Sequence[Row], run.rows) for run in runs}
    first = outcomes[0]
    # When the first failed there is no target, and nobody reached it.
    target = math.inf if first["reason"] else first["best_test_accuracy"] - TOLERANCE
    for one in outcomes:
        cost = cost_to_target(rows.get(one["pipeline"], ()), target)
        del cost["uplink_bytes_to_target"]
        one |= cost
        own, reference = (x["total_bytes_to_target"] for x in (one, first))
        # A target met before the first round costs nothing, and has no ratio.
        one["bytes_ratio"] = reference / own if own and reference else None


def best_truncated(outcomes: Sequence[Json]) -> Json | None:
    """FedDLR of the least bytes to the target; if none came there, the best one."""
    made = [one for one in outcomes if one["algorithm"] == "fed_dlr"]
    reached = [one for one in made if one["bytes_ratio"] is not None]
    if reached:
        return max(reached, key=lambda one: one["bytes_ratio"])
    ran = [one for one in made if not one["reason"]]
    return max(ran, key=lambda one: one["best_test_accuracy"], default=None)


def claims(outcomes: Sequence[Json]) -> list[Json]:
    """What the README says the experiment shows, held against these runs."""
    failures = sum(bool(one["reason"]) for one in outcomes)
    made = [_claim("pipelines that failed", 0, failures, failures == 0)]
    first, best = outcomes[0], best_truncated(outcomes)
    if best is None or first["reason"]:
        return made
    lost = first["best_test_accuracy"] - best["best_test_accuracy"]
    name = f"{best['pipeline']}: "
    at_least = (
        ("bytes both ways to within the tolerance", FEWER_BYTES, "bytes_ratio"),
        ("operations of its compact model", FEWER_FLOPS, "flops_ratio"),
        ("latency of its compact model, batch 1", 1.0, "seconds_batch_1_ratio"),
        ("latency of its compact model, batch 256", 1.0, "seconds_batch_256_ratio"),
    )
    made.append(
        _claim(f"{name}accuracy lost to dense", TOLERANCE, lost, lost <= TOLERANCE)
    )
    for words, target, column in at_least:
        # Zero times where the target was never reached.
        ratio = best[column] or 0.0
        made.append(
            _claim(f"{name}times less: {words}", target, ratio, ratio >= target)
        )
    return made


def _claim(name: str, target: float, measured: float, holds: bool) -> Json:
    return {
        "name": name,
        "target": target,
        "measured": round(measured, 4),
        "holds": bool(holds),
    }


def headlines(outcomes: Sequence[Json]) -> Json:
    """What a report shows first."""
    best = best_truncated(outcomes)
    if best is None:
        return {"pipelines": len(outcomes)}
    return {
        "dense_best_accuracy": outcomes[0]["best_test_accuracy"],
        "best_fed_dlr": best["pipeline"],
        "best_test_accuracy": best["best_test_accuracy"],
        "bytes_ratio": best["bytes_ratio"],
        "flops_ratio": best["flops_ratio"],
    }


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(title="Accuracy, bytes both ways, and the compact models")
    shown.add_column("pipeline", no_wrap=True)
    headings = (
        "accuracy",
        "bytes",
        "fewer",
        "compact",
        "FLOPs",
        "batch 1",
        "batch 256",
    )
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        if one["reason"]:
            shown.add_row(one["pipeline"], "failed", *["-"] * 6)
            continue
        ratio = one["bytes_ratio"]
        shown.add_row(
            one["pipeline"],
            f"{one['best_test_accuracy']:.4f}",
            format_bytes(one["total_bytes"]),
            "-" if ratio is None else f"{ratio:.1f}x",
            f"{one['compact_accuracy']:.4f}",
            f"{one['flops_ratio']:.1f}x",
            f"{one['seconds_batch_1_ratio']:.1f}x",
            f"{one['seconds_batch_256_ratio']:.1f}x",
        )
    Console().print(shown)
