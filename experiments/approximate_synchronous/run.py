"""Protocols among data centres: time and bytes to an accuracy."""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.approximate_synchronous.claims import claims_of
from experiments.approximate_synchronous.flags import QUICK, define, define_run
from experiments.approximate_synchronous.outcome import (
    COLUMNS,
    Curve,
    compare,
    curve_of,
    final_centres,
    link_table,
    measured,
)
from experiments.approximate_synchronous.plot import draw_figures
from experiments.approximate_synchronous.problem import build_problem, networks
from experiments.approximate_synchronous.protocols import (
    Variant,
    build_rule,
    parse_variants,
)
from fedjax_comp.experiment.comparison import Comparison
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.outcome import facts_of, formatted, number
from fedjax_comp.experiment.pipelines import flags_of
from fedjax_comp.experiment.problem import check_audits, initial_key, validation_share
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.report import format_bytes
from fedjax_comp.run_directory import Json, write_text

PERIODS = ("eval_every", "checkpoint_every", "audit_every")
"""Flags of the command that count updates, and of a run that count its rounds."""


def parse(values: flags.FlagValues) -> list[Variant]:
    """The protocols; mistakes in what all of them share are found here."""
    if not 0 < values.target_accuracy <= 1:
        raise UsageError(
            f"--target_accuracy={values.target_accuracy} is not in (0, 1]."
        )
    if values.batch_size < 1:
        raise UsageError(f"--batch_size={values.batch_size} must be at least 1.")
    networks(values)
    check_audits(values)
    validation_share(values)
    variants = parse_variants(values.protocol, partition=values.partition)
    for variant in variants:
        rule = build_rule(variant.protocol)
        rule.phases(values.num_clients)
        if values.num_updates % rule.steps:
            raise UsageError(
                f"--num_updates={values.num_updates} is no multiple of the "
                f"{rule.steps} updates in a round of {variant.name}."
            )
    return variants


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Curve]:
    """One protocol's run, or its results when it has finished before."""
    rule = build_rule(variant.protocol)
    own = flags_of(variant, values, define_run())
    own["num_rounds"].value = own.num_updates // rule.steps
    for name in PERIODS:
        own[name].value = -(-int(own.get_flag_value(name, 0)) // rule.steps)
    # The last state is read back from the checkpoint of the last round.
    own["checkpoint_every"].value = own.checkpoint_every or own.num_rounds
    build_own = functools.partial(build_problem, own)
    summary = execute(COMPARISON.name, own, build_own, lambda summary: [])
    workdir = Path(own.workdir)
    rows = read_rows(workdir)
    _, key = initial_key(own)
    centre = final_centres(build_own(), rule, key, workdir)
    write_text(workdir / "link_bytes.csv", link_table(centre))
    row = measured(rule, summary, rows, centre, values.target_accuracy)
    return row, curve_of(variant, rows, rule.steps)


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    return {
        one["name"]: f"{one['wan_seconds_to_target_ratio']:.2f}x faster on the WAN"
        for one in rows
        if one["wan_seconds_to_target_ratio"] is not None
    }


COMPARISON = Comparison(
    name="approximate_synchronous",
    define=define,
    quick=QUICK,
    repeated=("protocol",),
    variants=parse,
    describe=lambda one: one.protocol,
    run=run_variant,
    columns=COLUMNS,
    compare=compare,
    claims=lambda results: claims_of(results.rows, of_paper=not results.values.quick),
    facts=lambda results: {
        **facts_of(results.values),
        "num_clients": results.values.num_clients,
    },
    figures=lambda results: draw_figures(results.curves, results.figures_path),
    title=lambda values: f"{values.num_clients} data centres on {values.dataset}",
    headlines=headlines,
    word="protocol",
    shown={
        "accuracy": number("test_accuracy", "{:.4f}"),
        "all centres": number("mean_centre_accuracy", "{:.4f}"),
        "seconds": number("wan_seconds_to_target", "{:.1f}"),
        "faster": number("wan_seconds_to_target_ratio", "{:.2f}x"),
        "bytes": formatted("link_bytes", format_bytes),
        "sent": number("significant_share", "{:.2%}"),
    },
    tuning=Tuning(
        ("client_optimizer",),
        {"validation_share": 0.1},
        least="wan_seconds_to_target",
    ),
    caption="seconds on the WAN to the target; faster: against the first",
)
main = COMPARISON.main
