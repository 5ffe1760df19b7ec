"""Vertical split learning: holders of different columns of the same table.

Each number of holders, with and without compression, is a run in its own directory
below `--workdir`. `alone` is the first holder by itself, at the largest number of them.
"""

import functools
from typing import NamedTuple

from absl import flags

from fedjax_comp import data
from fedjax_comp.algorithms.vertical_split import vertical_split
from fedjax_comp.base import Compressor
from fedjax_comp.data.sources import adult
from fedjax_comp.experiment.comparison import Comparison, Results
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.flags import CONDITIONS, training_flags, without
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.outcome import claim, failure_claims, formatted, number
from fedjax_comp.experiment.pipelines import check_names, flags_of
from fedjax_comp.experiment.problem import initial_key, keeps_messages
from fedjax_comp.models.vertical import (
    VerticalTask,
    even_blocks,
    vertical_classification,
)
from fedjax_comp.report import format_bytes
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json
from fedjax_comp.training import evaluation_program, uniform_cohorts

NAME = "split_learning.vertical"
TABLES = ("wdbc", "adult")
COLUMNS = (
    "num_clients",
    "blocks",
    "test_accuracy",
    "best_test_accuracy",
    "majority",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
)
"""Clients are the holders of columns; `blocks` is how many of them take part;
`majority` is the part of the test examples that have the more frequent label."""

TOLERANCE = 0.02
"""Accuracy that several holders may lose against one who has all columns."""


class Variant(NamedTuple):
    """So many holders, of whom some take part: the flags of a run."""

    name: str
    num_clients: int
    blocks: int
    uplink: str
    downlink: str


def define_run() -> flags.FlagValues:
    """All flags of one run; a round is an epoch."""
    values = training_flags(
        model="linear()",
        batch_size=32,
        client_optimizer="sgd(0.1)",
        num_rounds=20,
        checkpoint_every=0,
        execution="scanned()",
    )
    without(values, *CONDITIONS)
    flags.DEFINE_enum("dataset", "wdbc", TABLES, "The table.", flag_values=values)
    flags.DEFINE_string("top", "mlp(16)", "The server's model.", flag_values=values)
    whole = flags.DEFINE_integer
    whole("num_outputs", 8, "Of each holder.", flag_values=values, lower_bound=1)
    whole("num_clients", 1, "Holders of columns.", flag_values=values, lower_bound=1)
    whole("blocks", 1, "Holders that take part.", flag_values=values, lower_bound=1)
    whole(
        "num_train",
        8_000,
        "Training examples that are used, the first ones (0: all).",
        flag_values=values,
        lower_bound=0,
    )
    values["model"].help = "The model of each holder, as a Python call."
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.split_learning.vertical`."""
    values = define_run()
    without(values, "num_clients", "blocks", "target_accuracy", "stop_at_target")
    flags.DEFINE_multi_integer(
        "num_clients", [1, 2, 5], "Numbers of holders, K.", flag_values=values
    )
    values.set_default("uplink", "stochastic_quantize(levels=16)")
    values.set_default("downlink", "stochastic_quantize(levels=16)")
    values["uplink"].help = "Compressor of activations in the compressed runs."
    values["downlink"].help = "Compressor of their gradients there."
    return values


QUICK = {"num_rounds": 5, "num_clients": [1, 3], "audit_every": 5, "eval_every": 5}
"""What `--quick` sets unless it is given by hand."""


def parse(values: flags.FlagValues) -> list[Variant]:
    """Dense and compressed runs, and the first holder by itself; finds mistakes."""
    dense = ("identity()", "identity()")
    variants = [Variant(f"holders-{n}", n, n, *dense) for n in values.num_clients]
    most = max(values.num_clients)
    variants += [
        Variant(f"alone-{most}", most, 1, *dense),
        Variant(f"compressed-{most}", most, most, values.uplink, values.downlink),
    ]
    check_names("num_clients", [variant.name for variant in variants])
    dataset = load(values)
    for variant in variants:
        build("uplink", variant.uplink)
        build("downlink", variant.downlink)
        build_task(values, dataset, variant.num_clients, variant.blocks)
    for name in ("client_optimizer", "execution"):
        build(name, str(values[name].value))
    return variants


def load(values: flags.FlagValues) -> data.Dataset:
    """The table, or its first training examples."""
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    if not values.num_train:
        return dataset
    x, y = (leaf[: values.num_train] for leaf in dataset.train)
    return dataset._replace(train=dataset.train._replace(x=x, y=y))


def build_task(
    values: flags.FlagValues, dataset: data.Dataset, num_clients: int, blocks: int
) -> VerticalTask:
    """The model of the first `blocks` of `num_clients`; raises `ValueError`."""
    num_features = dataset.train.x.shape[1]
    is_adult = values.dataset == "adult"
    widths = adult.column_widths() if is_adult else (1,) * num_features
    if not 1 <= num_clients <= len(widths):
        raise UsageError(
            f"--num_clients={num_clients}: {values.dataset} has {len(widths)} columns."
        )
    return vertical_classification(
        build("model", values.model),
        build("model", values.top),
        blocks=even_blocks(widths, num_clients)[:blocks],
        num_outputs=values.num_outputs,
        num_classes=dataset.num_classes,
        num_features=num_features,
        scale=dataset.scale,
    )


def build_problem(values: flags.FlagValues) -> Problem:
    """What one run's flags describe, ready to run."""
    dataset = load(values)
    task = build_task(values, dataset, values.num_clients, values.blocks)
    uplink, downlink = (build(n, str(values[n].value)) for n in ("uplink", "downlink"))
    population = data.federated_data(dataset, [range(len(dataset.train.y))])
    model_key, _ = initial_key(values)
    execution = build("execution", values.execution)
    links: dict[str, Compressor] = {}
    for i in range(values.blocks):
        links |= {f"activations_{i}": uplink, f"gradients_{i}": downlink}
    return Problem(
        algorithm=vertical_split(
            task,
            optimizer=build("client_optimizer", values.client_optimizer),
            uplink=uplink,
            downlink=downlink,
            keep_messages=keeps_messages(values),
        ),
        sample=uniform_cohorts(cohort_size=1, epochs=1, batch_size=values.batch_size),
        data=population,
        params=task.task.init(model_key),
        num_clients=1,
        evaluate=evaluation_program(
            task.task, execution, batch_size=values.eval_batch_size
        ),
        test=population.test,
        links=links,
    )


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, None]:
    """One run, or its results when it has finished before."""
    own = flags_of(variant, values, define_run())
    build_own = functools.partial(build_problem, own)
    summary = execute(NAME, own, build_own, lambda run: failure_claims("run", [run]))
    positive = float(load(values).test.y.mean())
    (row,) = summary["runs"]
    row |= {
        "name": variant.name,
        "majority": max(positive, 1 - positive),
        "audited_messages": summary["audited_messages"],
        "audit_failures": summary["audit_failures"],
    }
    return row, None


def claims(results: Results) -> list[Json]:
    """Holders together against one with all columns, and against one by itself."""
    done = {one["name"]: one for one in results.rows if not one["reason"]}
    made = failure_claims("run", results.rows)
    whole = done.get("holders-1")
    for name, one in done.items():
        if whole is None or name == "holders-1" or one["blocks"] < one["num_clients"]:
            continue
        made += claim(
            f"{name}: accuracy below that of one holder of all columns",
            TOLERANCE,
            whole["test_accuracy"] - one["test_accuracy"],
            at_most=True,
        )
    for one in done.values():
        together = done.get(f"holders-{one['num_clients']}")
        if one["blocks"] < one["num_clients"] and together:
            made += claim(
                f"{together['name']}: accuracy above that of its first holder by "
                "itself",
                0.0,
                together["test_accuracy"] - one["test_accuracy"],
                above=True,
            )
    return made


COMPARISON = Comparison(
    name=NAME,
    define=define,
    quick=QUICK,
    repeated=("num_clients",),
    variants=parse,
    describe=lambda one: f"{one.uplink} | {one.downlink}",
    run=run_variant,
    columns=COLUMNS,
    claims=claims,
    title=lambda values: f"Vertical split learning on {values.dataset}",
    headlines=lambda rows: {one["name"]: one["test_accuracy"] for one in rows},
    shown={
        "accuracy": number("test_accuracy", "{:.4f}"),
        "best": number("best_test_accuracy", "{:.4f}"),
        "bytes up": formatted("uplink_bytes", format_bytes),
        "bytes down": formatted("downlink_bytes", format_bytes),
    },
    word="run",
)
main = COMPARISON.main

if __name__ == "__main__":
    main()
