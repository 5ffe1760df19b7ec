"""Split learning against whole models: bytes, work and accuracy of a client."""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.split_learning.claims import claims_of
from experiments.split_learning.flags import QUICK, define, define_run
from experiments.split_learning.leakage import leakage_of, leakage_table
from experiments.split_learning.methods import Variant, build_method, parse_variants
from experiments.split_learning.outcome import COLUMNS, curve_of, measured
from experiments.split_learning.plot import (
    accuracy_figure,
    bytes_figure,
    leakage_figure,
    seconds_figure,
)
from experiments.split_learning.problem import (
    build_problem,
    build_setting,
    build_split,
)
from experiments.split_learning.published import (
    crossover,
    published_table,
    resnet_sizes,
    vgg_work_ratio,
)
from experiments.split_learning.seconds import links_of
from fedjax_comp.base import PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.experiment.comparison import Comparison, Results
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.outcome import facts_of, failure_claims, number, table_of
from fedjax_comp.experiment.pipelines import flags_of
from fedjax_comp.experiment.problem import initial_key
from fedjax_comp.report import Figure, Run, Table
from fedjax_comp.run_directory import Json
from fedjax_comp.training import init_state

NAME = "split_learning"

_AT_THE_END = 1_000_000_000  # a period: what has one is due after the last round too


def parse(values: flags.FlagValues) -> list[Variant]:
    """Every method for every number of clients; finds mistakes in what is asked for."""
    variants = parse_variants(
        values.method,
        values.num_clients,
        uplink=values.uplink,
        downlink=values.downlink,
    )
    for name in ("client_optimizer", "execution", "partition"):
        build(name, str(values[name].value))
    setting = build_setting(values)
    most = len(setting.dataset.train.y)
    for variant in variants:
        if variant.num_clients > most:
            raise UsageError(
                f"--num_clients={variant.num_clients} is more than there are training "
                f"examples, {most}."
            )
        method = build_method(variant.method)
        if method.cuts:
            try:
                build_split(setting, method.cuts)
            except ValueError as error:
                raise UsageError(f"--method={variant.method}: {error}") from error
    return variants


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Run]:
    """One method's run, or its results when it has finished before."""
    method = build_method(variant.method)
    own = flags_of(variant, values, define_run())
    if method.kind == "large_batch":
        for name in ("num_rounds", "eval_every", "audit_every"):
            own[name].value = method.steps * int(own.get_flag_value(name, 0))
    # The last state is read back, for the leakage, from the last checkpoint.
    own["checkpoint_every"].value = own.checkpoint_every or _AT_THE_END
    build_own = functools.partial(build_problem, own)
    summary = execute(NAME, own, build_own, lambda run: failure_claims("run", [run]))
    setting, links = build_setting(values), links_of(values)
    row = measured(variant, method, setting, summary, values.batch_size, links)
    if method.cuts and values.leakage_examples:
        trained, _ = trained_params(own)
        told = leakage_of(
            setting,
            method.cuts[0],
            trained,
            values.leakage_examples,
            uplink=build("uplink", variant.uplink),
            batch_size=values.batch_size,
        )
        row |= {name: told[name] for name in COLUMNS if name in told}
    return row, curve_of(variant, read_rows(Path(own.workdir)), row["seconds"])


def trained_params(own: flags.FlagValues) -> tuple[PyTree, PyTree]:
    """A finished run's parameters at its end, and those at its start."""
    problem = build_problem(own)
    _, key = initial_key(own)
    blank = init_state(key, problem.algorithm, problem.params, problem.num_clients)
    with Checkpoints(Path(own.workdir)) as checkpoints:
        restored = checkpoints.restore(blank)
    if restored is None:
        raise ValueError(f"Expected a checkpoint in {own.workdir}.")
    return problem.algorithm.params(restored[0].server), problem.params


def facts(results: Results) -> Json:
    """The published figures beside ours, and what activations tell of their inputs."""
    return {
        **facts_of(results.values),
        "epochs": results.values.num_rounds,
        "published": published_table(),
        "at_published_sizes": {
            "crossover_clients": crossover(resnet_sizes()),
            "work_ratio": vgg_work_ratio(),
        },
        "leakage": measure_leakage(results),
    }


def measure_leakage(results: Results) -> list[Json]:
    """Leakage of the first split model's run that did not fail; none without one."""
    values = results.values
    for variant, row in zip(parse(values), results.rows, strict=True):
        if not build_method(variant.method).cuts or row["reason"]:
            continue
        if not values.leakage_examples:
            return []
        trained, start = trained_params(flags_of(variant, values, define_run()))
        setting = build_setting(values)
        return leakage_table(setting, start, trained, values.leakage_examples)
    return []


def figures(results: Results) -> list[Figure]:
    """Bytes against clients, accuracy against bytes, leakage against the cut."""
    folder, leaks = results.figures_path, results.facts["leakage"]
    published = results.facts["published"]
    drawn = [
        bytes_figure(resnet_sizes(), published, folder / "bytes_against_clients.png")
    ]
    if results.curves:
        drawn += [
            accuracy_figure(results.curves, folder / "accuracy_against_bytes.png"),
            seconds_figure(results.curves, folder / "accuracy_against_seconds.png"),
        ]
    if leaks:
        drawn.append(leakage_figure(leaks, folder / "leakage.png"))
    return drawn


def tables(results: Results) -> list[Table]:
    """The published figures, and the leakage where it was measured."""
    titles = {
        "published": "Gigabytes of a client, ResNet-50 on CIFAR-100",
        "leakage": "Leakage",
    }
    return [
        table_of(title, tuple(results.facts[name][0]), results.facts[name])
        for name, title in titles.items()
        if results.facts[name]
    ]


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    return {
        f"{one['name']}_client_megabytes": round(one["client_megabytes"], 3)
        for one in rows
        if not one["reason"]
    }


COMPARISON = Comparison(
    name=NAME,
    define=define,
    quick=QUICK,
    repeated=("method", "num_clients"),
    variants=parse,
    describe=lambda one: one.method,
    run=run_variant,
    columns=COLUMNS,
    facts=facts,
    claims=lambda results: claims_of(results.rows, quick=results.values.quick),
    figures=figures,
    tables=tables,
    title=lambda values: f"Split learning on {values.dataset}, {values.model}",
    headlines=headlines,
    shown={
        "accuracy": number("test_accuracy", "{:.4f}"),
        "best": number("best_test_accuracy", "{:.4f}"),
        "MB": number("client_megabytes", "{:.3f}"),
        "weights MB": number("handover_megabytes", "{:.3f}"),
        "GFLOP": number("client_gigaflops", "{:.3f}"),
        "seconds": number("seconds", "{:.1f}"),
        "recovered": number("recovered_cosine", "{:.3f}"),
    },
    word="method",
    caption=(
        "MB and GFLOP of one client in all, seconds of all on the given links;\n"
        "recovered: cosine of images with what the server makes of activations"
    ),
)
main = COMPARISON.main
