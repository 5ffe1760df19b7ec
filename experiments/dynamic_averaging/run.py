"""Averaging protocols on one stream: cumulative loss against bytes.

Each protocol is a run in its own directory below `--workdir`: what has finished is not
run again, further protocols can be added, and one that fails is a line of the table.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.dynamic_averaging.claims import claims_of
from experiments.dynamic_averaging.flags import QUICK, define, define_run
from experiments.dynamic_averaging.outcome import (
    COLUMNS,
    Curve,
    add_comparisons,
    failed,
    measured,
    rows_by_update,
)
from experiments.dynamic_averaging.plot import draw_figures
from experiments.dynamic_averaging.protocols import (
    Variant,
    build_rule,
    common_period,
    parse_variants,
)
from experiments.dynamic_averaging.stream import build_stream, num_updates
from fedjax_comp.algorithms import model_averaging
from fedjax_comp.algorithms.model_averaging import averaging_links
from fedjax_comp.base import Algorithm, PyTree, RoundInfo
from fedjax_comp.data.streams import drift_times, one_learner
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main, use_host_cores
from fedjax_comp.experiment.pipelines import attempt, flags_of
from fedjax_comp.experiment.problem import initial_key, keeps_messages
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Claim, Table, format_bytes, write_report
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json, open_run, write_json, write_text
from fedjax_comp.training import evaluation_program

NAME = "dynamic_averaging"


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every protocol on the same stream, then compares them."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs the protocols one after another; `ValueError` for a mistake."""
    variants = parse_variants(
        values.protocol, uplink=values.uplink, downlink=values.downlink
    )
    updates = num_updates(values, common_period(variants))
    values["num_updates"].value = updates
    build("client_optimizer", values.client_optimizer)
    build_stream(values).cut(1)  # a mistake in what all share ends the command
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
    drifts = drift_times(updates, values.num_drifts, seed=values.seed).tolist()
    summary: Json = {
        "experiment": NAME,
        "stream": values.stream,
        "model": values.model,
        "num_learners": values.num_learners,
        "num_updates": updates,
        "batch_size": values.batch_size,
        "drifts": drifts,
        "protocols": outcomes,
        "claims": claims_of(outcomes, curves, drifts, updates),
    }
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"Averaging protocols on {values.stream}, m={values.num_learners}",
        summary=headlines(outcomes),
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Protocols", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])
        ],
        figures=draw_figures(outcomes, curves, drifts, directory.figures_path),
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    for claim in summary["claims"]:
        word = "holds" if claim["holds"] else "DOES NOT HOLD"
        print(f"{word}: {claim['name']}: {claim['measured']} ({claim['target']})")
    print(f"report: {report}")
    return summary


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Curve]:
    """One protocol's run, or its results when it has finished before."""
    rule = build_rule(variant.protocol)
    own = flags_of(variant, values, define_run())
    own["num_rounds"].value = own.num_updates // rule.every
    for name in ("eval_every", "checkpoint_every", "audit_every"):
        own[name].value = -(-getattr(values, name) // rule.every)
    summary = execute(NAME, own, functools.partial(build_problem, own), audit_claims)
    rows = rows_by_update(read_rows(Path(own.workdir)), rule.every)
    curve = Curve(variant.name, rule.family, rows)
    return measured(variant, rule, summary, rows), curve


def build_problem(values: flags.FlagValues) -> Problem:
    """What one protocol's flags describe, ready to run."""
    rule = build_rule(values.protocol)
    optimizer = build("client_optimizer", values.client_optimizer)
    uplink, downlink = (
        build(name, str(values[name].value)) for name in ("uplink", "downlink")
    )
    execution = build("execution", values.execution)
    stream = build_stream(values)
    algorithm = model_averaging(
        stream.task,
        rule.trigger,
        optimizer=optimizer,
        uplink=uplink,
        downlink=downlink,
        execution=execution,
        keep_messages=keeps_messages(values),
    )
    sample = stream.cut(rule.every)
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=unsent(algorithm) if rule.in_one_place else algorithm,
        sample=one_learner(sample) if rule.in_one_place else sample,
        data=stream.data,
        params=stream.task.init(model_key),
        num_clients=1 if rule.in_one_place else values.num_learners,
        evaluate=evaluation_program(
            stream.task, execution, batch_size=values.eval_batch_size
        ),
        test=stream.held_out,
        links=averaging_links(uplink, downlink),
    )


def unsent(algorithm: Algorithm) -> Algorithm:
    """The same where learner and coordinator are one: nothing is sent."""

    def run_round(*arguments: PyTree) -> tuple[PyTree, PyTree, RoundInfo]:
        server, clients, info = algorithm.round(*arguments)
        silent = info._replace(traffic={}, messages={})
        return server, clients, silent

    return algorithm._replace(round=run_round)


def audit_claims(summary: Json) -> list[Json]:
    """Of one protocol's run: that its audited messages are what their bytes say."""
    failures = summary["audit_failures"]
    return [
        {
            "name": "every audited message decodes bit for bit from its bytes",
            "target": 0,
            "measured": failures,
            "holds": failures == 0,
        }
    ]


def headlines(outcomes: Sequence[Json]) -> Json:
    """What a report shows first."""
    done = [one for one in outcomes if one["cumulative_loss"] is not None]
    shown: Json = {"protocols": f"{len(done)} of {len(outcomes)}"}
    dynamic = [one for one in done if one["family"] == "dynamic" and one["loss_ratio"]]
    near = [one for one in dynamic if one["loss_ratio"] <= 1.05]
    if near:
        best = max(near, key=lambda one: one["bytes_ratio"] or 0)
        shown |= {
            "fewest_bytes_within_5_percent": best["protocol"],
            "bytes_ratio": best["bytes_ratio"],
            "total_bytes": best["total_bytes"],
        }
    return shown


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(
        title="Protocols",
        caption="against the first: loss as a multiple, and how many times fewer bytes",
    )
    shown.add_column("protocol", no_wrap=True)
    for heading in ("loss", "of first", "bytes", "fewer", "full", "accuracy"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        if one["cumulative_loss"] is None:
            shown.add_row(one["protocol"], "failed", *["-"] * 5)
            continue
        loss_ratio, ratio = one["loss_ratio"], one["bytes_ratio"]
        shown.add_row(
            one["protocol"],
            f"{one['cumulative_loss']:.1f}",
            f"{loss_ratio:.3f}" if loss_ratio else "-",
            format_bytes(one["total_bytes"]),
            f"{ratio:.2f}x" if ratio else "-",
            str(one["full_synchronisations"]),
            "-" if one["test_accuracy"] is None else f"{one['test_accuracy']:.4f}",
        )
    Console().print(shown)
