"""Protocols among data centres: time and bytes to an accuracy.

Each protocol is a run in its own directory below `--workdir`: what has finished is not
run again, further protocols can be added, and one that fails is a line of the table.
"""

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.approximate_synchronous.claims import claims_of
from experiments.approximate_synchronous.flags import QUICK, define, define_run
from experiments.approximate_synchronous.outcome import (
    COLUMNS,
    Centre,
    Curve,
    add_comparisons,
    curve_of,
    failed,
    final_centres,
    measured,
)
from experiments.approximate_synchronous.plot import draw_figures
from experiments.approximate_synchronous.problem import build_problem, networks
from experiments.approximate_synchronous.protocols import (
    Variant,
    build_rule,
    parse_variants,
)
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import attempt, flags_of
from fedjax_comp.experiment.problem import initial_key
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.network.regions import REGIONS
from fedjax_comp.report import Claim, Table, format_bytes, write_report
from fedjax_comp.run_directory import Json, open_run, write_json, write_text

NAME = "approximate_synchronous"


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every protocol on the same data and links, compares them."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs the protocols one after another; `ValueError` for a mistake."""
    variants = parse_variants(values.protocol, partition=values.partition)
    check(values, variants)
    settings = as_dict(values)
    del settings["protocol"]  # further ones may be added to a directory
    directory = open_run(values.workdir, NAME, settings)
    outcomes: list[Json] = []
    curves: list[Curve] = []
    for variant in variants:
        print(f"{variant.name}: {variant.protocol}", flush=True)
        result, reason = attempt(
            variant.name, functools.partial(run_variant, variant, values)
        )
        if result is None:
            outcomes.append(failed(variant, reason))
        else:
            outcomes.append(result[0])
            curves.append(result[1])
    add_comparisons(outcomes)
    summary: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "num_centres": values.num_centres,
        "target_accuracy": values.target_accuracy,
        "protocols": outcomes,
        "claims": claims_of(outcomes),
    }
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"{values.num_centres} data centres on {values.dataset}",
        summary={
            one["protocol"]: f"{one['wan_speedup']:.2f}x faster on the WAN"
            for one in outcomes
            if one["wan_speedup"] is not None
        },
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Protocols", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])
        ],
        figures=draw_figures(curves, directory.figures_path),
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    for claim in summary["claims"]:
        word = "holds" if claim["holds"] else "DOES NOT HOLD"
        print(f"{word}: {claim['name']}: {claim['measured']} ({claim['target']})")
    print(f"report: {report}")
    return summary


def check(values: flags.FlagValues, variants: Sequence[Variant]) -> None:
    """Mistakes in what all protocols share, before any of them runs."""
    if values.target_accuracy is None or not 0 < values.target_accuracy <= 1:
        raise UsageError(
            f"--target_accuracy={values.target_accuracy} is not in (0, 1]."
        )
    if values.batch_size < 1:
        raise UsageError(f"--batch_size={values.batch_size} must be at least 1.")
    networks(values)
    for name in ("client_optimizer", "execution", "model"):
        build(name, str(values[name].value))
    for variant in variants:
        rule = build_rule(variant.protocol)
        rule.phases(values.num_centres)
        if values.num_updates % rule.steps:
            raise UsageError(
                f"--num_updates={values.num_updates} is no multiple of the "
                f"{rule.steps} updates in a round of {variant.name}."
            )


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Curve]:
    """One protocol's run, or its results when it has finished before."""
    rule = build_rule(variant.protocol)
    own = flags_of(variant, values, define_run())
    own["num_rounds"].value = own.num_updates // rule.steps
    own["eval_every"].value = -(-own.eval_every // rule.steps)
    # The last state is read back from the checkpoint of the last round.
    own["checkpoint_every"].value = own.checkpoint_every or own.num_rounds
    build_own = functools.partial(build_problem, own)
    summary = execute(NAME, own, build_own, lambda summary: [])
    workdir = Path(own.workdir)
    rows = curve_of(read_rows(workdir), rule.steps)
    _, key = initial_key(own)
    centre = final_centres(build_own(), rule, key, workdir)
    write_text(workdir / "link_bytes.csv", link_table(centre))
    outcome = measured(variant, rule, summary, rows, centre, values.target_accuracy)
    return outcome, Curve(variant.name, variant.partition, rows)


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


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(
        title="Protocols",
        caption="seconds on the WAN to the target; faster: against the first",
    )
    shown.add_column("protocol", no_wrap=True)
    for heading in ("accuracy", "all centres", "seconds", "faster", "bytes", "sent"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        if one["accuracy"] is None:
            shown.add_row(one["protocol"], "failed", *["-"] * 5)
            continue
        seconds, speedup = one["wan_seconds_to_target"], one["wan_speedup"]
        share = one["significant_share"]
        shown.add_row(
            one["protocol"],
            f"{one['accuracy']:.4f}",
            f"{one['all_centres_accuracy']:.4f}",
            f"{seconds:.1f}" if seconds else "-",
            f"{speedup:.2f}x" if speedup else "-",
            format_bytes(one["total_bytes"]),
            "-" if share is None else f"{share:.2%}",
        )
    Console().print(shown)
