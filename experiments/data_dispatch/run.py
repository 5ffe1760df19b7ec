"""Dispatch by content against dispatch at random, by tree, by hash, and one model."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags

from experiments.data_dispatch.claims import claims_of, summarise
from experiments.data_dispatch.dispatchers import (
    GLOBAL,
    Named,
    parse_dispatchers,
)
from experiments.data_dispatch.flags import QUICK, define
from experiments.data_dispatch.machines import Machines, make_machines, measure
from experiments.data_dispatch.plot import draw_figures
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main
from fedjax_comp.experiment.measurements import complete, measure_missing
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.one_shot.dispatch_baselines import randomly
from fedjax_comp.report import Table
from fedjax_comp.run_directory import Json, open_run, write_text

NAME = "data_dispatch"
COLUMNS = (
    "dispatcher",
    "machines",
    "test_accuracy",
    "spread",
    "trials",
    "copies",
    "smallest",
    "largest",
    "steps",
    "uplink_bytes",
)
"""Of `table.csv`; `steps` are batches of the largest machine."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: measures or resumes, then writes the run directory."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Measures what the directory does not hold yet; `ValueError` for a mistake."""
    dispatchers = parse_dispatchers(values.dispatcher)
    machines = make_machines(values)
    check_dispatchers(dispatchers, values.num_machines)
    directory = open_run(values.workdir, NAME, as_dict(values))
    if directory.finished is not None:
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished
    jobs = make_jobs(machines, dispatchers, values)
    rows, failures = measure_missing(
        directory, jobs, show=to_line if values.progress else None
    )
    table = summarise(rows)
    write_text(directory.path / "table.csv", to_csv(COLUMNS, table))
    summary: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "measured": len(rows),
        "failures": failures,
        "table": table,
        "claims": claims_of(table, failures),
    }
    best = max(table, key=lambda one: one["test_accuracy"])
    return complete(
        directory,
        summary,
        title=f"Dispatch of {values.dataset} to machines with {values.model}",
        headlines={
            "best_dispatcher": f"{best['dispatcher']}, {best['machines']} machines",
            "best_test_accuracy": best["test_accuracy"],
            "best_uplink_bytes": best["uplink_bytes"],
        },
        tables=[
            Table(
                "Means over trials",
                COLUMNS,
                [[one[name] for name in COLUMNS] for one in table],
                "Sizes are the extremes over machines and trials.",
            )
        ],
        figures=draw_figures(table, directory.figures_path),
        failures=failures,
    )


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


def make_jobs(
    machines: Machines, dispatchers: Sequence[Named], values: flags.FlagValues
) -> Mapping[str, Callable[[], Json]]:
    """Every measurement by its name, trial after trial."""

    def one(name: str, count: int, trial: int) -> Json:
        dispatch = dict(dispatchers).get(name, randomly())
        row = measure(machines, dispatch, count, values, trial)
        return {"dispatcher": name, **row}

    wanted = [(GLOBAL, 1)] + [
        (name, count)
        for count in sorted(set(values.num_machines))
        for name, _ in dispatchers
    ]
    return {
        f"{name}, {count} machines, trial {trial}": functools.partial(
            one, name, count, trial
        )
        for trial in range(values.num_trials)
        for name, count in wanted
    }


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    return (
        f"{row['job']:<40}{row['test_accuracy']:.4f}  sizes {row['smallest']:,} to "
        f"{row['largest']:,}, {row['uplink_bytes']:,} bytes"
    )
