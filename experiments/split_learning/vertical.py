"""Vertical split learning: holders of different columns of the same table.

For each number of holders, and with and without compression, a run in its own directory
below `--workdir`. `alone` is the first holder of the largest number by itself.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from fedjax_comp import data
from fedjax_comp.algorithms.vertical_split import vertical_split
from fedjax_comp.base import Compressor
from fedjax_comp.data.sources import adult
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.flags import (
    CONDITIONS,
    apply_quick,
    as_dict,
    training_flags,
    without,
)
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import attempt, flags_of
from fedjax_comp.experiment.problem import initial_key, keeps_messages
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.models.vertical import (
    VerticalTask,
    even_blocks,
    vertical_classification,
)
from fedjax_comp.report import Claim, Table, format_bytes, write_report
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json, open_run, write_json, write_text
from fedjax_comp.training import evaluation_program, uniform_cohorts

NAME = "split_learning.vertical"
TABLES = ("wdbc", "adult")
COLUMNS = (
    "name",
    "dataset",
    "holders",
    "blocks",
    "accuracy",
    "best_accuracy",
    "majority",
    "uplink_bytes",
    "downlink_bytes",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
    "reason",
)
"""Of `table.csv`. `blocks` is how many of the holders take part; `majority` is the part
of the test examples that have the more frequent label."""

TOLERANCE = 0.02
"""Accuracy that several holders may lose against one who has all columns."""


class Variant(NamedTuple):
    """So many holders, of whom some take part: the flags of a run."""

    name: str
    holders: int
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
    whole("holders", 1, "Holders of columns.", flag_values=values, lower_bound=1)
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
    without(values, "holders", "blocks", "target_accuracy", "stop_at_target")
    flags.DEFINE_multi_integer(
        "holders", [1, 2, 5], "Numbers of holders.", flag_values=values
    )
    values.set_default("uplink", "stochastic_quantize(levels=16)")
    values.set_default("downlink", "stochastic_quantize(levels=16)")
    values["uplink"].help = "Compressor of activations in the compressed runs."
    values["downlink"].help = "Compressor of their gradients there."
    return values


QUICK = {"num_rounds": 5, "holders": [1, 3], "audit_every": 5, "eval_every": 5}
"""What `--quick` sets unless it is given by hand."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: every number of holders, then the comparison."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def variants_of(values: flags.FlagValues) -> list[Variant]:
    """Dense and compressed runs, and the first holder by itself."""
    dense = ("identity()", "identity()")
    made = []
    for count in values.holders:
        made.append(Variant(f"holders-{count}", count, count, *dense))
    most = max(values.holders)
    made.append(Variant(f"alone-{most}", most, 1, *dense))
    made.append(
        Variant(f"compressed-{most}", most, most, values.uplink, values.downlink)
    )
    return made


def run(values: flags.FlagValues) -> Json:
    """Runs all variants one after another; `ValueError` for a mistake."""
    variants = variants_of(values)
    dataset = load(values)
    for variant in variants:
        build("uplink", variant.uplink)
        build("downlink", variant.downlink)
        build_task(values, dataset, variant.holders, variant.blocks)
    for name in ("client_optimizer", "execution"):
        build(name, str(values[name].value))
    settings = as_dict(values)
    del settings["holders"]  # further ones may be added to a directory
    directory = open_run(values.workdir, NAME, settings)
    outcomes = []
    for variant in variants:
        print(variant.name, flush=True)
        outcome, reason = attempt(
            variant.name, functools.partial(run_variant, variant, values, dataset)
        )
        blank = {**dict.fromkeys(COLUMNS), **variant._asdict(), "reason": reason}
        outcomes.append(outcome or blank)
    summary: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "runs": outcomes,
        "claims": claims(outcomes),
    }
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"Vertical split learning on {values.dataset}",
        summary={o["name"]: o["accuracy"] for o in outcomes},
        settings={**directory.config["flags"], **directory.config["versions"]},
        tables=[Table("Runs", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])],
        figures=[],
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    for claim in summary["claims"]:
        word = "holds" if claim["holds"] else "DOES NOT HOLD"
        print(f"{word}: {claim['name']}: {claim['measured']} ({claim['target']})")
    print(f"report: {report}")
    return summary


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
    values: flags.FlagValues, dataset: data.Dataset, holders: int, blocks: int
) -> VerticalTask:
    """The model of the first `blocks` of `holders`; raises `ValueError`."""
    num_features = dataset.train.x.shape[1]
    is_adult = values.dataset == "adult"
    widths = adult.column_widths() if is_adult else (1,) * num_features
    if not 1 <= holders <= len(widths):
        raise UsageError(
            f"--holders={holders}: {values.dataset} has {len(widths)} columns."
        )
    return vertical_classification(
        build("model", values.model),
        build("model", values.top),
        blocks=even_blocks(widths, holders)[:blocks],
        num_outputs=values.num_outputs,
        num_classes=dataset.num_classes,
        num_features=num_features,
        scale=dataset.scale,
    )


def build_problem(values: flags.FlagValues, dataset: data.Dataset) -> Problem:
    """What one run's flags describe, ready to run."""
    task = build_task(values, dataset, values.holders, values.blocks)
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


def run_variant(
    variant: Variant, values: flags.FlagValues, dataset: data.Dataset
) -> Json:
    """One run, or its results when it has finished before."""
    own = flags_of(variant, values, define_run())
    summary = execute(NAME, own, lambda: build_problem(own, dataset), lambda _: [])
    positive = float(dataset.test.y.mean())
    return {
        "name": variant.name,
        "dataset": values.dataset,
        "holders": variant.holders,
        "blocks": variant.blocks,
        "accuracy": summary["test_accuracy"],
        "best_accuracy": summary["best_test_accuracy"],
        "majority": max(positive, 1 - positive),
        **{
            name: summary[name]
            for name in (
                "uplink_bytes",
                "downlink_bytes",
                "audited_messages",
                "audit_failures",
            )
        },
        "uplink": variant.uplink,
        "downlink": variant.downlink,
        "reason": "",
    }


def claims(outcomes: Sequence[Json]) -> list[Json]:
    """Holders together against one with all columns, and against one by itself."""
    done = {o["name"]: o for o in outcomes if o["accuracy"] is not None}
    whole = done.get("holders-1")
    made = []
    for name, one in done.items():
        if whole is None or name == "holders-1" or name.startswith("alone"):
            continue
        lost = whole["accuracy"] - one["accuracy"]
        made.append(
            _claim(
                f"{name}: accuracy below that of one holder of all columns",
                TOLERANCE,
                lost,
                lost <= TOLERANCE,
            )
        )
    for name, one in done.items():
        together = done.get(f"holders-{one['holders']}")
        if name.startswith("alone") and together:
            gain = together["accuracy"] - one["accuracy"]
            made.append(
                _claim(
                    f"{together['name']}: more accurate than its first holder by "
                    "itself",
                    0.0,
                    gain,
                    gain > 0,
                )
            )
    failures = sum(o["audit_failures"] for o in done.values())
    if any(o["audited_messages"] for o in done.values()):
        made.append(
            _claim(
                "every audited message decodes bit for bit from its bytes",
                0,
                failures,
                failures == 0,
            )
        )
    return made


def _claim(name: str, target: float, measured: float, holds: bool) -> Json:
    return {
        "name": name,
        "target": target,
        "measured": round(measured, 4),
        "holds": bool(holds),
    }


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(title="Vertical split learning")
    shown.add_column("run", no_wrap=True)
    for heading in ("accuracy", "best", "bytes up", "bytes down"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        if one["accuracy"] is None:
            shown.add_row(one["name"], "failed", *["-"] * 3)
            continue
        shown.add_row(
            one["name"],
            f"{one['accuracy']:.4f}",
            f"{one['best_accuracy']:.4f}",
            format_bytes(one["uplink_bytes"]),
            format_bytes(one["downlink_bytes"]),
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
