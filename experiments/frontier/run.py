"""Bytes to a target accuracy for many pipelines on one task.

Each pipeline is a FedAvg run in its own directory below `--workdir`, ended at the
target: a killed command goes on with the pipeline at which it was, one with further
pipelines runs these, and a pipeline that fails is a line of the table.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.fed_avg.flags import define as define_run
from experiments.fed_avg.run import build_problem, claims
from experiments.frontier.flags import QUICK, define
from experiments.frontier.pareto import cost_to_target, pareto_front
from experiments.frontier.plot import bytes_against_rounds, curves
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import (
    Pipeline,
    attempt,
    flags_of,
    parse_pipelines,
)
from fedjax_comp.experiment.problem import build_federation
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Claim, Figure, Run, Table, format_bytes, write_report
from fedjax_comp.run_directory import Json, open_run, write_json, write_text

COLUMNS = (
    "pipeline",
    "rounds_to_target",
    "uplink_bytes_to_target",
    "total_bytes_to_target",
    "uplink_ratio",
    "total_ratio",
    "best_test_accuracy",
    "rounds",
    "on_front",
    "uplink",
    "downlink",
    "reason",
)
"""Of `table.csv`. Ratios are the first pipeline's bytes to the target over one's own;
`reason` is empty unless the pipeline failed."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every pipeline to the target, then writes the frontier."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main("frontier", define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs the pipelines one after another; `ValueError` for a mistake."""
    pipelines = parse_pipelines(values.pipeline)
    if values.target_accuracy is None or not 0 < values.target_accuracy <= 1:
        raise UsageError(
            f"--target_accuracy={values.target_accuracy} is outside (0, 1]."
        )
    check_task(values)
    settings = as_dict(values)
    del settings["pipeline"]  # further ones may be added to a directory
    directory = open_run(values.workdir, "frontier", settings)
    outcomes, runs = [], []
    for pipeline in pipelines:
        print(f"{pipeline.name}: {pipeline.uplink} | {pipeline.downlink}", flush=True)
        one_run = functools.partial(run_pipeline, pipeline, values)
        result, reason = attempt(pipeline.name, one_run)
        if result is None:
            outcomes.append(failed(pipeline, reason))
        else:
            outcomes.append(result[0])
            runs.append(result[1])
    add_comparisons(outcomes)
    summary: Json = {
        "experiment": "frontier",
        "dataset": values.dataset,
        "model": values.model,
        "target_accuracy": values.target_accuracy,
        "pipelines": outcomes,
        "claims": frontier_claims(outcomes),
    }
    folder = directory.figures_path
    figures = [
        bytes_against_rounds(outcomes, f"{name}_bytes_to_target", words, folder)
        for name, words in (("total", "both ways"), ("uplink", "from clients"))
    ]
    columns = ("uplink_bytes", "downlink_bytes")
    if runs:
        figures.append(curves(runs, columns, folder / "accuracy_against_bytes.png"))
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"Bytes to {values.target_accuracy:.1%} on {values.dataset}",
        summary=headlines(outcomes),
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Pipelines", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])
        ],
        figures=[figure for figure in figures if isinstance(figure, Figure)],
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    print(f"report: {report}")
    return summary


def check_task(values: flags.FlagValues) -> None:
    """Builds what all pipelines share, so that a mistake in it ends the command."""
    for name in ("client_optimizer", "server_optimizer"):
        build(name, str(values[name].value))
    build_federation(values)


def run_pipeline(pipeline: Pipeline, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(pipeline, values, define_run())
    summary = execute("fed_avg", own, functools.partial(build_problem, own), claims)
    rows = read_rows(Path(own.workdir))
    outcome = {
        "pipeline": pipeline.name,
        **cost_to_target(rows, values.target_accuracy),
        "best_test_accuracy": summary["best_test_accuracy"],
        "rounds": summary["rounds"],
        "uplink": pipeline.uplink,
        "downlink": pipeline.downlink,
        "reason": "",
    }
    return outcome, Run(pipeline.name, rows)


def failed(pipeline: Pipeline, reason: str) -> Json:
    """The outcome of a pipeline that could not be run, with the reason in one line."""
    return {
        "pipeline": pipeline.name,
        **cost_to_target([], 1.0),
        "best_test_accuracy": None,
        "rounds": 0,
        "uplink": pipeline.uplink,
        "downlink": pipeline.downlink,
        "reason": reason,
    }


def add_comparisons(outcomes: Sequence[Json]) -> None:
    """Adds to each outcome its ratios to the first, and whether it is on the front."""
    reached = [one for one in outcomes if one["rounds_to_target"] is not None]
    costs = ("total_bytes_to_target", "rounds_to_target")
    front = {one["pipeline"] for one in pareto_front(reached, costs)}
    for one in outcomes:
        for name in ("uplink", "total"):
            reference = outcomes[0][f"{name}_bytes_to_target"]
            own = one[f"{name}_bytes_to_target"]
            known = reference is not None and own
            one[f"{name}_ratio"] = round(reference / own, 2) if known else None
        one["on_front"] = one["pipeline"] in front


def headlines(outcomes: Sequence[Json]) -> Json:
    """What a report shows first."""
    reached = [one for one in outcomes if one["rounds_to_target"] is not None]
    shown: Json = {"pipelines_at_target": f"{len(reached)} of {len(outcomes)}"}
    for name in ("uplink", "total"):
        column = f"{name}_bytes_to_target"
        if reached:
            best = min(reached, key=lambda one: one[column])
            shown[f"least_{name}"] = best["pipeline"]
            shown[f"least_{column}"] = best[column]
            shown[f"least_{name}_ratio"] = best[f"{name}_ratio"]
    return shown


def frontier_claims(outcomes: Sequence[Json]) -> list[Json]:
    """That nothing failed, and that compression saves bytes both ways."""
    failures = sum(bool(one["reason"]) for one in outcomes)
    ratios = [one["total_ratio"] for one in outcomes if one["total_ratio"] is not None]
    made = [
        {
            "name": "pipelines that failed",
            "target": 0,
            "measured": failures,
            "holds": failures == 0,
        }
    ]
    if ratios:
        made.append(
            {
                "name": "largest ratio of the first pipeline's bytes, both ways",
                "target": 1.0,
                "measured": max(ratios),
                "holds": max(ratios) > 1.0,
            }
        )
    return made


def print_table(outcomes: Sequence[Json]) -> None:
    """The frontier on the terminal, least bytes both ways first."""

    def cost(one: Json) -> float:
        total = one["total_bytes_to_target"]
        return float("inf") if total is None else total

    shown = ConsoleTable(
        title="Bytes to the target",
        caption="* no other takes fewer bytes both ways and fewer rounds",
    )
    shown.add_column("pipeline", no_wrap=True)
    for heading in ("rounds", "up", "both", "up", "both", "best accuracy"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in sorted(outcomes, key=cost):
        name = one["pipeline"] + (" *" if one["on_front"] else "")
        if one["rounds_to_target"] is None:
            best = one["best_test_accuracy"]
            word = "failed" if best is None else f"{best:.4f}"
            shown.add_row(name, *["-"] * 5, word)
            continue
        shown.add_row(
            name,
            str(one["rounds_to_target"]),
            format_bytes(one["uplink_bytes_to_target"]),
            format_bytes(one["total_bytes_to_target"]),
            f"{one['uplink_ratio']:.1f}x" if one["uplink_ratio"] else "-",
            f"{one['total_ratio']:.1f}x" if one["total_ratio"] else "-",
            f"{one['best_test_accuracy']:.4f}",
        )
    Console().print(shown)
