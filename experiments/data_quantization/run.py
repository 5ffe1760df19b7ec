"""Quantized data against compressed gradients, at equal optimizer and steps."""

import functools
import math
from collections.abc import Sequence

from absl import flags

from experiments.data_quantization.flags import QUICK, define, define_run
from experiments.data_quantization.methods import (
    DATA,
    SHIPPED,
    Variant,
    parse_variants,
)
from experiments.data_quantization.plot import (
    crossover,
    crossover_rows,
    curves,
    totals,
)
from experiments.data_quantization.problem import build_problem, check
from fedjax_comp.experiment.comparison import Comparison, Results, run_of
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.outcome import (
    add_ratios,
    claim,
    facts_of,
    failure_claims,
    formatted,
    number,
    ratio,
    table_of,
)
from fedjax_comp.experiment.pipelines import flags_of
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.metrics import to_target
from fedjax_comp.report import Figure, Run, accuracy_against_rounds, format_bytes
from fedjax_comp.run_directory import Json, write_text

NAME = "data_quantization"
TOLERANCE = 0.005
"""Test accuracy below the first pipeline's best that still counts as equal."""

FEWER = {
    "quantizer": 10.0,
    "sparsifier": 1.0,
    "low-rank": 1.0,
    "factors": 1.0,
    "shipped": 1.0,
}
"""Family to how many times fewer bytes than its best the best data pipeline needs."""

COLUMNS = (
    "family",
    "test_accuracy",
    "best_test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "bytes_per_message",
    "rounds_to_target",
    "uplink_bytes_to_target",
    "total_bytes_to_target",
    "uplink_bytes_to_target_ratio",
    "audited_messages",
    "audit_failures",
    "seconds",
    "method",
    "server_optimizer",
)
"""The target is the first pipeline's best accuracy less `TOLERANCE`."""


def parse(values: flags.FlagValues) -> list[Variant]:
    """The pipelines; what all of them share is built once, to find mistakes."""
    variants = parse_variants(values.pipeline, values.server_optimizer)
    check(values)
    shipped = [one.name for one in variants if one.family == SHIPPED]
    if values.audit_log and shipped:
        raise UsageError(
            f"--audit_log: {', '.join(shipped)} sends its data before the first round, "
            "where there is no log; give the other --pipeline alone."
        )
    if shipped and values.cohort_size != values.num_clients:
        raise UsageError(
            f"{', '.join(shipped)}: shipped(...) takes all clients in every step: "
            f"--cohort_size={values.cohort_size} is not "
            f"--num_clients={values.num_clients}."
        )
    return variants


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(variant, values, define_run())
    if variant.family == SHIPPED:
        own["audit_every"].value = 0  # what is sent before the rounds is kept nowhere
    build = functools.partial(build_problem, own)
    summary = execute(NAME, own, build, lambda run: failure_claims("run", [run]))
    (row,) = summary["runs"]
    messages = summary["uplink_messages"]
    row |= {
        "name": variant.name,
        "bytes_per_message": (
            round(row["uplink_bytes"] / messages, 1) if messages else None
        ),
        "audited_messages": summary["audited_messages"],
        "audit_failures": summary["audit_failures"],
        "seconds": summary["seconds_total"],
    }
    return row, run_of(variant.name, own.workdir)


def target_of(rows: Sequence[Json]) -> float | None:
    """The first pipeline's best accuracy less `TOLERANCE`; None when it failed."""
    best = rows[0]["best_test_accuracy"]
    return None if best is None else best - TOLERANCE


def complete(results: Results) -> None:
    """Adds to each row what it took to the target, which the first one sets."""
    curves = {run.name: run.rows for run in results.curves}
    target = target_of(results.rows)
    for row in results.rows:
        row |= to_target(curves.get(row["name"], ()), target)


def best_of(rows: Sequence[Json], family: str) -> Json | None:
    """The pipeline of a family with the fewest bytes to the target."""
    reached = [
        one for one in rows if one["family"] == family and one["uplink_bytes_to_target"]
    ]
    return min(reached, key=lambda one: one["uplink_bytes_to_target"], default=None)


def claims_of(rows: Sequence[Json]) -> list[Json]:
    """All claims that the pipelines of this run allow to be looked at."""
    made = failure_claims("pipeline", rows)
    data = best_of(rows, DATA)
    for family, target in FEWER.items():
        other = best_of(rows, family)
        if data is not None and other is not None:
            made += claim(
                f"uplink bytes of the best {family} ({other['name']}) over those of "
                f"the best data pipeline ({data['name']}), to the first pipeline's "
                f"best accuracy less {100 * TOLERANCE:.1f} points",
                target,
                ratio(other["uplink_bytes_to_target"], data["uplink_bytes_to_target"]),
                at_least=True,
            )
    return made


def figures(results: Results) -> list[Figure]:
    """Accuracy against bytes and steps, and what messages cost without training."""
    runs, folder, values = results.curves, results.figures_path, results.values
    bits = results.facts["crossover"]
    text = to_csv(tuple(bits[0]), bits)
    write_text(results.directory.path / "crossover.csv", text)
    drawn = [
        crossover(folder / "crossover.png"),
        totals(values.batch_size, values.cohort_size, folder / "totals.png"),
    ]
    if not runs:
        return drawn
    by_step = accuracy_against_rounds(runs, folder / "accuracy_against_steps.png")
    return [
        curves(runs, folder / "accuracy_against_uplink_bytes.png"),
        Figure("Test accuracy against steps", by_step),
        *drawn,
    ]


def cost(row: Json) -> float:
    """What the terminal's table is sorted by."""
    spent = row["uplink_bytes_to_target"]
    return math.inf if spent is None else spent


COMPARISON = Comparison(
    name=NAME,
    define=define,
    quick=QUICK,
    repeated=("pipeline",),
    variants=parse,
    describe=lambda one: f"{one.method} | {one.server_optimizer}",
    run=run_variant,
    columns=COLUMNS,
    complete=complete,
    compare=lambda rows: add_ratios(rows, "uplink_bytes_to_target"),
    facts=lambda results: {
        **facts_of(results.values),
        "target_accuracy": target_of(results.rows),
        "crossover": crossover_rows(),
    },
    claims=lambda results: claims_of(results.rows),
    figures=figures,
    tables=lambda results: [
        table_of(
            "Exact bits of one message",
            tuple(results.facts["crossover"][0]),
            results.facts["crossover"],
        )
    ],
    title=lambda values: (
        f"Quantized data against gradients on {values.dataset}, {values.model}"
    ),
    headlines=lambda rows: {
        f"{one['name']}_best": one["best_test_accuracy"] for one in rows
    },
    shown={
        "best": number("best_test_accuracy", "{:.4f}"),
        "up in all": formatted("uplink_bytes", format_bytes),
        "steps": number("rounds_to_target"),
        "to target": formatted("uplink_bytes_to_target", format_bytes),
        "ratio": number("uplink_bytes_to_target_ratio", "{:.1f}x"),
    },
    caption="to the first one's best accuracy less half a point; ratio: to the first",
    order=cost,
    tuning=Tuning(("pipeline", "server_optimizer"), {"validation": True}),
)
main = COMPARISON.main
