"""Dispatch by content, against dispatch at random, by tree or hash, and one model."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags

from experiments.data_dispatch.flags import (
    GLOBAL,
    LARGE,
    QUICK,
    Named,
    define,
    parse_dispatchers,
)
from experiments.data_dispatch.machines import equal_width, flat, make_machines, measure
from experiments.data_dispatch.optimum import greedy_gaps
from experiments.data_dispatch.outcome import claims, figures, summarise
from fedjax_comp import data
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measured, Measurements
from fedjax_comp.experiment.outcome import facts_of, table_of
from fedjax_comp.one_shot.dispatch_baselines import randomly
from fedjax_comp.report import Table
from fedjax_comp.run_directory import Json

COLUMNS = (
    "dispatcher",
    "num_clients",
    "test_accuracy",
    "spread",
    "trials",
    "copies",
    "smallest",
    "largest",
    "steps",
    "parameters",
    "uplink_bytes",
)
"""Of `table.csv`; `steps` are batches of the largest machine, `parameters` those of all
machines' models."""


def facts(measured: Measured) -> Json:
    """How far the greedy assignment is from the cheapest one, on small instances."""
    values = measured.values
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    copies = sorted(
        {round(one["copies"]) for one in measured.rows if "clusters" in one["name"]}
    )
    return {
        **facts_of(values),
        "greedy_gap": greedy_gaps(
            flat(dataset.train.x, dataset.scale),
            sorted(set(values.num_clients)),
            copies,
            values.seed,
        ),
    }


def tables(measured: Measured) -> list[Table]:
    """The gaps, for the report."""
    gaps = measured.facts["greedy_gap"]
    title = "Cost of the greedy assignment over the least, less one"
    return [table_of(title, tuple(gaps[0]), gaps)] if gaps else []


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every measurement by its name, trial after trial."""
    dispatchers = parse_dispatchers(values.dispatcher)
    machines = make_machines(values)
    check_dispatchers(dispatchers, values.num_clients)
    large = {
        LARGE.format(count): make_machines(
            values, f"mlp({equal_width(machines, count)})", values.large_optimizer
        )
        for count in sorted(set(values.num_clients))
        if count > 1
    }

    def one(name: str, count: int, trial: int) -> Json:
        dispatch = dict(dispatchers).get(name, randomly())
        row = measure(large.get(name, machines), dispatch, count, values, trial)
        return {"dispatcher": name, **row}

    wanted = [(name, 1) for name in (GLOBAL, *large)] + [
        (name, count)
        for count in sorted(set(values.num_clients))
        for name, _ in dispatchers
    ]
    return {
        f"{name}, {count} machines, trial {trial}": functools.partial(
            one, name, count, trial
        )
        for trial in range(values.num_trials)
        for name, count in wanted
    }


def check_dispatchers(dispatchers: Sequence[Named], machines: Sequence[int]) -> None:
    """Tries every dispatcher on a few points, so that a mistake ends the command."""
    for count in machines:
        points = np.arange(4 * count, dtype=np.float32)[:, None]
        for name, dispatch in dispatchers:
            try:
                dispatch(points, count, np.random.default_rng(0))
            except ValueError as error:
                raise UsageError(
                    f"--dispatcher={name} on {count} machines: {error}"
                ) from error


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    best = max(rows, key=lambda one: one["test_accuracy"])
    return {
        "best_dispatcher": best["name"],
        "best_test_accuracy": best["test_accuracy"],
        "best_uplink_bytes": best["uplink_bytes"],
    }


MEASUREMENTS = Measurements(
    name="data_dispatch",
    define=define,
    quick=QUICK,
    jobs=make_jobs,
    summarise=summarise,
    columns=COLUMNS,
    facts=facts,
    claims=claims,
    tables=tables,
    figures=figures,
    title=lambda values: f"Dispatch of {values.dataset} with {values.model}",
    headlines=headlines,
    note="Means over trials. Sizes are the extremes over machines and trials.",
    show=lambda row: (
        f"{row['name']:<52}{row['test_accuracy']:.4f}  sizes {row['smallest']:,} to "
        f"{row['largest']:,}, {row['uplink_bytes']:,} bytes"
    ),
)
main = MEASUREMENTS.main
