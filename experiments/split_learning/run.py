"""Split learning against learning whole models: bytes, work and accuracy of a client.

Each method and number of clients is a run in its own directory below `--workdir`: what
has finished is not run again, and one that fails is a line of the table.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.split_learning.claims import measured_claims, published_claims
from experiments.split_learning.flags import QUICK, define, define_run
from experiments.split_learning.leakage import leakage_table
from experiments.split_learning.methods import Variant, build_method, parse_variants
from experiments.split_learning.outcome import (
    COLUMNS,
    Curve,
    curve_of,
    failed,
    measured,
)
from experiments.split_learning.plot import (
    accuracy_figure,
    bytes_figure,
    leakage_figure,
)
from experiments.split_learning.problem import (
    Setting,
    build_problem,
    build_setting,
    build_split,
)
from experiments.split_learning.published import published_table, resnet_sizes
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import attempt, flags_of
from fedjax_comp.experiment.problem import initial_key
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Claim, Table, write_report
from fedjax_comp.run_directory import Json, open_run, write_json, write_text
from fedjax_comp.training import init_state

NAME = "split_learning"


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every method for every number of clients, then compares."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs the methods one after another; `ValueError` for a mistake."""
    variants = parse_variants(
        values.method, values.clients, uplink=values.uplink, downlink=values.downlink
    )
    setting = build_setting(values)
    check(values, variants, setting)
    settings = as_dict(values)
    for name in ("method", "clients"):
        del settings[name]  # further ones may be added to a directory
    directory = open_run(values.workdir, NAME, settings)
    outcomes: list[Json] = []
    curves: list[Curve] = []
    for variant in variants:
        print(f"{variant.name}: {variant.method}", flush=True)
        result, reason = attempt(
            variant.name, functools.partial(run_variant, variant, values, setting)
        )
        if result is None:
            outcomes.append(failed(variant, reason))
        else:
            outcomes.append(result[0])
            curves.append(result[1])
    published = published_table()
    leaks = measure_leakage(variants, outcomes, values, setting)
    summary: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "epochs": values.num_rounds,
        "methods": outcomes,
        "published": published,
        "leakage": leaks,
        "claims": [*published_claims(), *measured_claims(outcomes)],
    }
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    folder = directory.figures_path
    figures = [
        bytes_figure(resnet_sizes(), published, folder / "bytes_against_clients.png")
    ]
    if curves:
        figures.append(accuracy_figure(curves, folder / "accuracy_against_bytes.png"))
    if leaks:
        figures.append(leakage_figure(leaks, folder / "leakage.png"))
    report = write_report(
        directory.path / "report.html",
        title=f"Split learning on {values.dataset}, {values.model}",
        summary={
            f"{one['name']}_client_megabytes": round(one["client_megabytes"], 3)
            for one in outcomes
            if one["client_megabytes"] is not None
        },
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table("Methods", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes]),
            _table("Gigabytes of a client, ResNet-50 on CIFAR-100", published),
            *([_table("Leakage", leaks)] if leaks else []),
        ],
        figures=figures,
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    for claim in summary["claims"]:
        word = "holds" if claim["holds"] else "DOES NOT HOLD"
        print(f"{word}: {claim['name']}: {claim['measured']} ({claim['target']})")
    print(f"report: {report}")
    return summary


def check(
    values: flags.FlagValues, variants: Sequence[Variant], setting: Setting
) -> None:
    """Mistakes in what is asked for, before anything runs."""
    for name in ("client_optimizer", "execution", "partition"):
        build(name, str(values[name].value))
    most = len(setting.dataset.train.y)
    for variant in variants:
        if variant.num_clients > most:
            raise UsageError(
                f"--clients={variant.num_clients} is more than there are training "
                f"examples, {most}."
            )
        method = build_method(variant.method)
        if method.cuts:
            try:
                build_split(setting, method.cuts)
            except ValueError as error:
                raise UsageError(f"--method={variant.method}: {error}") from error


def run_variant(
    variant: Variant, values: flags.FlagValues, setting: Setting
) -> tuple[Json, Curve]:
    """One method's run, or its results when it has finished before."""
    method = build_method(variant.method)
    own = flags_of(variant, values, define_run())
    if method.kind == "large_batch":
        for name in ("num_rounds", "eval_every", "audit_every"):
            own[name].value = method.steps * int(own.get_flag_value(name, 0))
    # The last state is read back, for the leakage, from the last checkpoint.
    own["checkpoint_every"].value = own.checkpoint_every or own.num_rounds
    build_own = functools.partial(build_problem, own)
    summary = execute(NAME, own, build_own, lambda summary: [])
    outcome = measured(variant, method, setting, summary, values.batch_size)
    return outcome, curve_of(variant, read_rows(Path(own.workdir)))


def measure_leakage(
    variants: Sequence[Variant],
    outcomes: Sequence[Json],
    values: flags.FlagValues,
    setting: Setting,
) -> list[Json]:
    """Leakage of the first split model's run that did not fail; none without one."""
    for variant, outcome in zip(variants, outcomes, strict=True):
        if not build_method(variant.method).cuts or outcome["accuracy"] is None:
            continue
        if not values.leakage_examples:
            return []
        own = flags_of(variant, values, define_run())
        problem = build_problem(own)
        _, key = initial_key(own)
        blank = init_state(key, problem.algorithm, problem.params, problem.num_clients)
        with Checkpoints(Path(own.workdir) / "checkpoints") as checkpoints:
            restored = checkpoints.restore(blank)
        if restored is None:
            return []
        trained = problem.algorithm.params(restored[0].server)
        return leakage_table(setting, problem.params, trained, values.leakage_examples)
    return []


def _table(title: str, rows: Sequence[Json]) -> Table:
    columns = tuple(rows[0])
    return Table(title, columns, [[row[c] for c in columns] for row in rows])


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(title="Methods", caption="MB and GFLOP of one client in all")
    shown.add_column("method", no_wrap=True)
    for heading in ("accuracy", "best", "MB", "weights MB", "GFLOP"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        if one["accuracy"] is None:
            shown.add_row(one["name"], "failed", *["-"] * 4)
            continue
        shown.add_row(
            one["name"],
            f"{one['accuracy']:.4f}",
            f"{one['best_accuracy']:.4f}",
            f"{one['client_megabytes']:.3f}",
            f"{one['handover_megabytes']:.3f}",
            f"{one['client_gigaflops']:.3f}",
        )
    Console().print(shown)
