"""Experiments made of many small measurements: one row each, kept as it is taken.

Every measurement has a name. One that a directory holds is not taken again, so a killed
command continues where it was. One that fails is a row of the table with its reason.

    MEASUREMENTS = Measurements(
        name="mine",
        define=define,                       # its flags
        jobs=make_jobs,                      # (values) -> {name: what measures it}
        summarise=means,                     # (measurements) -> rows of the table
        columns=("test_accuracy", "uplink_bytes"),
        claims=lambda measured: claim(...),
        show=lambda row: f"{row['name']}: {row['test_accuracy']:.4f}",
    )
    main = MEASUREMENTS.main                 # python -m experiments.mine
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.figures import drawn
from fedjax_comp.experiment.finished import read_lines
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main
from fedjax_comp.experiment.outcome import (
    facts_of,
    failure_claims,
    print_claims,
    table_of,
    write_outcome,
)
from fedjax_comp.experiment.pipelines import attempt
from fedjax_comp.experiment.seeds import claims_over_seeds
from fedjax_comp.report import Figure, Table
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    append_row,
    begin_run,
    find_run,
    write_rows,
)

LEADING, TRAILING = ("name",), ("reason",)
"""Columns that every table has, before and behind an experiment's own."""


def read_measurements(directory: RunDirectory) -> dict[str, Json]:
    """The rows that earlier calls have measured, by name.

    What follows the last line break was being written when the run was killed, and is
    left out.

    Args:
      directory: a run directory; nothing in it is changed.

    Raises:
      RunDirectoryError: when its file of rows cannot be read.
    """
    if not directory.metrics_path.exists():
        return {}
    rows = read_lines(directory.metrics_path, {"name": str})
    return {row["name"]: row for row in rows}


def measure_missing(
    directory: RunDirectory,
    jobs: Mapping[str, Callable[[], Json]],
    *,
    show: Callable[[Json], str] | None,
) -> tuple[list[Json], list[Json]]:
    """Takes the measurements that a directory does not hold yet.

    Args:
      directory: a run directory that `begin_run` has made.
      jobs: name to what measures it; a job returns its row without the name.
      show: a row as a line for the terminal, or None for silence.

    Returns:
      The rows of all jobs in their order, then those that earlier calls measured
      beside them, each with its `name`; and `{name, reason}` for each that failed.

    Raises:
      UsageError: when nothing could be measured, with the first reason.
    """
    rows = read_measurements(directory)
    write_rows(directory, rows.values())
    failures: list[Json] = []
    for name, job in jobs.items():
        if name in rows:
            continue
        measured, reason = attempt(name, job)
        if measured is None:
            failures.append({"name": name, "reason": reason})
            continue
        rows[name] = {"name": name, **measured}
        append_row(directory, rows[name])
        if show is not None:
            print(show(rows[name]), flush=True)
    if not rows:
        raise UsageError(f"nothing could be measured: {failures[0]['reason']}")
    order = dict.fromkeys([*jobs, *rows])
    return [rows[name] for name in order if name in rows], failures


def over_trials(
    measurements: Sequence[Json], name: str, *columns: str
) -> list[tuple[Json, list[Json]]]:
    """Groups measurements that differ in their trial, with their mean accuracy.

    Args:
      measurements: with `test_accuracy` and the columns.
      name: of a group, a format of the columns.
      *columns: what the measurements of a group have in common.

    Returns:
      For each group, in the order of the columns' values, a row (`name`, the columns,
      the mean `test_accuracy`, its standard deviation `spread` and the number of
      `trials`) and the group's measurements.

    >>> taken = [{"k": 2, "test_accuracy": 0.5}, {"k": 2, "test_accuracy": 0.7}]
    >>> over_trials(taken, "{k} clients", "k")[0][0]["test_accuracy"]
    0.6
    """
    groups: dict[tuple, list[Json]] = {}
    for one in measurements:
        groups.setdefault(tuple(one[column] for column in columns), []).append(one)
    found = []
    for values, own in sorted(groups.items(), key=lambda item: item[0]):
        common = dict(zip(columns, values, strict=True))
        accuracies = [one["test_accuracy"] for one in own]
        spread = np.std(accuracies, ddof=min(1, len(own) - 1))
        row = {
            "name": name.format(**common),
            **common,
            "test_accuracy": mean_of(own, "test_accuracy", 5),
            "spread": round(float(spread), 5),
            "trials": len(own),
        }
        found.append((row, own))
    return found


def claims_over_trials(
    measurements: Sequence[Json], claims_of: Callable[[Sequence[Json]], list[Json]]
) -> list[Json]:
    """Claims of each trial by itself; they hold beyond the noise of the trials.

    Args:
      measurements: each with its `trial`.
      claims_of: `(measurements of one trial) -> claims`.
    """
    trials: dict[int, list[Json]] = {}
    for one in measurements:
        trials.setdefault(one["trial"], []).append(one)
    return claims_over_seeds([claims_of(own) for own in trials.values()])


def mean_of(rows: Sequence[Json], column: str, digits: int | None = None) -> float:
    """The mean of a column, rounded; an int without digits.

    >>> mean_of([{"bytes": 3}, {"bytes": 5}], "bytes")
    4
    """
    return round(float(np.mean([row[column] for row in rows])), digits)


class Measured(NamedTuple):
    """What the measurements came to.

    Attributes:
      values: the command's flags.
      measurements: a row for each, with its `name`.
      rows: the rows of the table that have figures, each with its `name`.
      failures: `{name, reason}` of what could not be measured.
      directory: where they lie.
      facts: what the summary holds beside rows and claims.
    """

    values: flags.FlagValues
    measurements: list[Json]
    rows: list[Json]
    failures: list[Json]
    directory: RunDirectory
    facts: Mapping[str, Any] = MappingProxyType({})

    @property
    def figures_path(self) -> Path:
        """The folder of figures."""
        return self.directory.figures_path


class Measurements(NamedTuple):
    """An experiment made of many small measurements.

    Attributes:
      name: as in `python -m experiments.<name>`.
      define: the command's flags, not yet parsed.
      jobs: `(values) -> {name: what measures it}`. Mistakes in the flags are raised
        here, before anything is written.
      columns: of `table.csv` between `name` and `reason`, in the words of
        `fedjax_comp.experiment.outcome`; a row may lack some.
      claims: `(measured) -> claims`, behind the one that no measurement failed.
      show: a measurement as a line for the terminal.
      summarise: `(measurements) -> rows` of the table, each with its `name`; the
        measurements themselves by default.
      quick: flags that `--quick` sets unless they are given by hand.
      repeated: flags of which further values may be added to a directory.
      facts: `(measured) -> what the summary holds beside rows and claims`; they are
        in the `measured` that claims, figures and tables are made from.
      figures: `(measured) -> figures` of the report.
      tables: `(measured) -> further tables` of the report.
      title: `(values) -> title` of the report.
      headlines: `(rows) -> what the report shows first`.
      note: under the report's first table.
    """

    name: str
    define: Callable[[], flags.FlagValues]
    jobs: Callable[[flags.FlagValues], Mapping[str, Callable[[], Json]]]
    columns: tuple[str, ...]
    claims: Callable[[Measured], list[Json]]
    show: Callable[[Json], str]
    summarise: Callable[[Sequence[Json]], list[Json]] = list
    quick: Mapping[str, object] = {}
    repeated: tuple[str, ...] = ()
    facts: Callable[[Measured], Json] = lambda measured: facts_of(measured.values)
    figures: Callable[[Measured], Sequence[Figure | None]] = lambda measured: ()
    tables: Callable[[Measured], Sequence[Table]] = lambda measured: ()
    title: Callable[[flags.FlagValues], str] = lambda values: "Measurements"
    headlines: Callable[[Sequence[Json]], Json] = lambda rows: {"runs": len(rows)}
    note: str = ""

    def main(self, argv: Sequence[str] | None = None) -> None:
        """The command: parses flags, measures what is missing, writes the table."""

        def body(values: flags.FlagValues) -> None:
            apply_quick(values, **self.quick)
            measure(self, values)

        run_main(self.name, self.define(), body, argv)


def measure(experiment: Measurements, values: flags.FlagValues) -> Json:
    """Measures what the directory does not hold yet and writes the table.

    A finished directory is left as it is, unless one of the jobs is missing there or
    has failed before: it is then taken (again).

    Args:
      experiment: what is measured.
      values: its parsed flags.

    Returns:
      The summary.

    Raises:
      ValueError: for a mistake in the flags, and nothing has been written then; or
        when nothing could be measured.
    """
    settings = as_dict(values)
    for name in experiment.repeated:
        del settings[name]
    directory = find_run(values.workdir, experiment.name, settings)
    jobs = experiment.jobs(values)
    taken_before = read_measurements(directory)
    # A call that was killed behind its last measurement has not told of it.
    is_told = (directory.finished or {}).get("measured") == len(taken_before)
    if is_told and jobs.keys() <= taken_before.keys():
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished or {}
    directory = begin_run(directory)
    show = experiment.show if values.progress else None
    taken, failures = measure_missing(directory, jobs, show=show)
    rows = [{**row, "reason": ""} for row in experiment.summarise(taken)]
    return finish(experiment, Measured(values, taken, rows, failures, directory))


def finish(experiment: Measurements, measured: Measured) -> Json:
    """Writes and prints what the measurements came to."""
    measured = measured._replace(facts=experiment.facts(measured))
    columns = (*LEADING, *experiment.columns, *TRAILING)
    blank = dict.fromkeys(columns)
    rows = [{**blank, **row} for row in [*measured.rows, *measured.failures]]
    failed = failure_claims("measurement", rows)
    summary: Json = {
        "experiment": experiment.name,
        **measured.facts,
        "measured": len(measured.measurements),
        "runs": rows,
        "claims": [*failed, *experiment.claims(measured)],
    }
    results = table_of("Results", columns, rows)._replace(note=experiment.note)
    write_outcome(
        measured.directory,
        summary,
        title=experiment.title(measured.values),
        headlines=experiment.headlines(measured.rows),
        tables=[results, *experiment.tables(measured)],
        figures=drawn(lambda: experiment.figures(measured)),
        columns=columns,
    )
    print_claims(summary["claims"])
    print(f"report: {measured.directory.path / 'report.html'}")
    return summary
