"""Quantized data against compressed gradients, at equal optimizer and steps.

Each pipeline is a run in its own directory below `--workdir`: a killed command goes on
with the pipeline at which it was, one with further pipelines runs these, and a pipeline
that fails is a line of the table.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.data_quantization.claims import add_comparisons, claims_of
from experiments.data_quantization.flags import QUICK, define, define_run
from experiments.data_quantization.methods import (
    Shipped,
    Variant,
    build_method,
    parse_variants,
)
from experiments.data_quantization.plot import (
    crossover,
    crossover_rows,
    curves,
    totals,
)
from experiments.data_quantization.problem import build_problem, check
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import attempt, flags_of
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.metrics import Row
from fedjax_comp.report import (
    Claim,
    Figure,
    Run,
    Table,
    accuracy_against_rounds,
    format_bytes,
    write_report,
)
from fedjax_comp.run_directory import Json, open_run, write_json, write_text

NAME = "data_quantization"
COLUMNS = (
    "pipeline",
    "family",
    "best_test_accuracy",
    "test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "bytes_per_message",
    "steps_to_target",
    "uplink_bytes_to_target",
    "uplink_ratio",
    "audited_messages",
    "audit_failures",
    "seconds",
    "method",
    "reason",
)
"""Of `table.csv`. The target is the first pipeline's best accuracy less half a point,
`uplink_ratio` the first one's bytes to it over one's own."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every pipeline, then writes the comparison."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs the pipelines one after another; `ValueError` for a mistake."""
    variants = parse_variants(values.pipeline)
    check(values)
    shipped = [one.name for one in variants if _is_shipped(one)]
    if values.audit_log and shipped:
        raise UsageError(
            f"--audit_log: {', '.join(shipped)} sends its data before the first round, "
            "where there is no log; give the other --pipeline alone."
        )
    settings = as_dict(values)
    del settings["pipeline"]  # further ones may be added to a directory
    directory = open_run(values.workdir, NAME, settings)
    outcomes: list[Json] = []
    rows: dict[str, list[Row]] = {}
    for variant in variants:
        print(f"{variant.name}: {variant.method}", flush=True)
        done, reason = attempt(
            variant.name, functools.partial(run_variant, variant, values)
        )
        if done is None:
            outcomes.append(outcome_of(variant, {}, reason))
        else:
            summary, rows[variant.name] = done
            outcomes.append(outcome_of(variant, summary, ""))
    target = add_comparisons(outcomes, rows)
    bits = crossover_rows()
    result: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "target_accuracy": target,
        "pipelines": outcomes,
        "crossover": bits,
        "claims": claims_of(outcomes),
    }
    folder = directory.figures_path
    figures = [
        crossover(folder / "crossover.png"),
        totals(values.batch_size, values.cohort_size, folder / "totals.png"),
    ]
    runs = [Run(name, own) for name, own in rows.items()]
    if runs:
        by_step = accuracy_against_rounds(runs, folder / "accuracy_against_steps.png")
        figures = [
            curves(runs, folder / "accuracy_against_uplink_bytes.png"),
            Figure("Test accuracy against steps", by_step),
            *figures,
        ]
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    write_text(directory.path / "crossover.csv", to_csv(tuple(bits[0]), bits))
    report = write_report(
        directory.path / "report.html",
        title=f"Quantized data against gradients on {values.dataset}, {values.model}",
        summary={f"{o['pipeline']}_best": o["best_test_accuracy"] for o in outcomes},
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Pipelines", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes]),
            Table(
                "Exact bits of one message",
                tuple(bits[0]),
                [list(row.values()) for row in bits],
            ),
        ],
        figures=figures,
        claims=[Claim(**claim) for claim in result["claims"]],
    )
    write_json(directory.path / "summary.json", result)
    print_table(outcomes, target)
    for claim in result["claims"]:
        word = "holds" if claim["holds"] else "DOES NOT HOLD"
        print(f"{word}: {claim['name']}: {claim['measured']} ({claim['target']})")
    print(f"report: {report}")
    return result


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, list[Row]]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(variant, values, define_run())
    if _is_shipped(variant):
        own["audit_every"].value = 0  # what is sent before the rounds is kept nowhere
    summary = execute(NAME, own, functools.partial(build_problem, own), run_claims)
    return summary, read_rows(Path(own.workdir))


def _is_shipped(variant: Variant) -> bool:
    return isinstance(build_method(variant.method), Shipped)


def run_claims(summary: Json) -> list[Json]:
    """What one pipeline's own run shows: that its audits held."""
    failures = summary["audit_failures"]
    return [
        {
            "name": "every audited message decodes bit for bit from its bytes",
            "target": 0,
            "measured": failures,
            "holds": failures == 0,
        }
    ]


def outcome_of(variant: Variant, summary: Json, reason: str) -> Json:
    """A pipeline's line of the table; empty but for the reason when it failed."""
    found = {
        name: summary.get(name)
        for name in (
            "best_test_accuracy",
            "test_accuracy",
            "rounds",
            "uplink_bytes",
            "downlink_bytes",
            "audited_messages",
            "audit_failures",
        )
    }
    messages = summary.get("uplink_messages")
    return {
        "pipeline": variant.name,
        "family": build_method(variant.method).family,
        **found,
        "bytes_per_message": (
            round(summary["uplink_bytes"] / messages, 1) if messages else None
        ),
        "seconds": summary.get("seconds_total"),
        "method": variant.method,
        "reason": reason,
    }


def print_table(outcomes: Sequence[Json], target: float | None) -> None:
    """The comparison on the terminal, fewest bytes to the target first."""

    def cost(one: Json) -> float:
        spent = one["uplink_bytes_to_target"]
        return float("inf") if spent is None else spent

    caption = "" if target is None else f"target: {target:.4f}; ratio: to the first"
    shown = ConsoleTable(title="Uplink bytes to the target", caption=caption)
    shown.add_column("pipeline", no_wrap=True)
    for heading in ("best", "up in all", "steps", "to target", "ratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in sorted(outcomes, key=cost):
        if one["best_test_accuracy"] is None:
            shown.add_row(one["pipeline"], "failed", *["-"] * 4)
            continue
        reached = one["uplink_bytes_to_target"] is not None
        shown.add_row(
            one["pipeline"],
            f"{one['best_test_accuracy']:.4f}",
            format_bytes(one["uplink_bytes"]),
            str(one["steps_to_target"]) if reached else "-",
            format_bytes(one["uplink_bytes_to_target"]) if reached else "-",
            f"{one['uplink_ratio']:.1f}x" if one["uplink_ratio"] else "-",
        )
    Console().print(shown)
