"""Experiments made of many small measurements: one row each, kept as it is taken.

A measurement has a name. What a directory holds is not measured again, so a killed
command goes on where it was; one that fails costs its own row and no other.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main
from fedjax_comp.experiment.outcome import (
    claim,
    facts_of,
    print_claims,
    table_of,
    write_outcome,
)
from fedjax_comp.experiment.pipelines import attempt
from fedjax_comp.report import Figure, Table
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    begin_run,
    find_run,
    write_text,
)


def read_measurements(directory: RunDirectory) -> list[Json]:
    """The rows that earlier calls have measured; half a last line is left out."""
    path = directory.metrics_path
    if not path.exists():
        return []
    # What follows the last line break was being written when the run was killed.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    write_text(path, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def measure_missing(
    directory: RunDirectory,
    jobs: Mapping[str, Callable[[], Json]],
    *,
    show: Callable[[Json], str] | None,
) -> tuple[list[Json], list[Json]]:
    """Takes the measurements that a directory does not hold yet.

    Args:
      directory: an opened run directory.
      jobs: name to what measures it; a job returns its row without the name.
      show: a row as a line for the terminal, or None for silence.

    Returns:
      The rows of all jobs in their order, each with its name as `job`, and for each
      that failed `{job, reason}`.

    Raises:
      ValueError: when nothing could be measured, with the first reason.
    """
    rows = {row["job"]: row for row in read_measurements(directory)}
    failures: list[Json] = []
    for name, job in jobs.items():
        if name in rows:
            continue
        measured, reason = attempt(name, job)
        if measured is None:
            failures.append({"job": name, "reason": reason})
            continue
        rows[name] = {"job": name, **measured}
        with directory.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")
        if show is not None:
            print(show(rows[name]), flush=True)
    if not rows:
        raise UsageError(f"nothing could be measured: {failures[0]['reason']}")
    return [rows[name] for name in jobs if name in rows], failures


class Measured(NamedTuple):
    """What the measurements came to.

    Attributes:
      values: the command's flags.
      measurements: a row for each, with its name as `job`.
      rows: a row of the table for each group of them, each with its `name`.
      failures: `{job, reason}` of what could not be measured.
      directory: where they lie.
    """

    values: flags.FlagValues
    measurements: list[Json]
    rows: list[Json]
    failures: list[Json]
    directory: RunDirectory

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
      summarise: `(measured) -> rows`, each with its `name`, in the words of
        `fedjax_comp.experiment.outcome`.
      columns: of `table.csv`, behind `name`.
      claims: `(measured) -> claims`; that nothing failed is added.
      show: a measurement as a line for the terminal.
      quick: flags that `--quick` sets unless they are given by hand.
      repeated: flags of which further values may be added to a directory.
      facts: what the summary holds beside rows and claims.
      figures: `(measured) -> figures` of the report.
      tables: `(measured) -> further tables` of the report.
      title: of the report.
      headlines: `(rows) -> what the report shows first`.
      note: under the report's first table.
    """

    name: str
    define: Callable[[], flags.FlagValues]
    jobs: Callable[[flags.FlagValues], Mapping[str, Callable[[], Json]]]
    summarise: Callable[[Sequence[Json]], list[Json]]
    columns: tuple[str, ...]
    claims: Callable[[Measured], list[Json]]
    show: Callable[[Json], str]
    quick: Mapping[str, object] = {}
    repeated: tuple[str, ...] = ()
    facts: Callable[[flags.FlagValues], Json] = facts_of
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

    Args:
      experiment: what is measured.
      values: its parsed flags.

    Returns:
      The summary.

    Raises:
      ValueError: for a mistake in the flags, or when nothing could be measured.
    """
    settings = as_dict(values)
    for name in experiment.repeated:
        del settings[name]
    directory = find_run(values.workdir, experiment.name, settings)
    if directory.finished is not None and not experiment.repeated:
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished
    jobs = experiment.jobs(values)
    begin_run(directory)
    show = experiment.show if values.progress else None
    measured, failures = measure_missing(directory, jobs, show=show)
    rows = experiment.summarise(measured)
    found = Measured(values, measured, rows, failures, directory)
    claims = claim("measurements that failed", 0, len(failures), at_most=True)
    summary: Json = {
        "experiment": experiment.name,
        **experiment.facts(values),
        "measured": len(measured),
        "failures": failures,
        "runs": rows,
        "claims": [*claims, *experiment.claims(found)],
    }
    columns = ("name", *experiment.columns)
    tables = [
        table_of("Results", columns, rows)._replace(note=experiment.note),
        *experiment.tables(found),
    ]
    if failures:
        tables.append(table_of("Not measured", ("job", "reason"), failures))
    write_outcome(
        directory,
        summary,
        title=experiment.title(values),
        headlines=experiment.headlines(rows),
        tables=tables,
        figures=experiment.figures(found),
        columns=columns,
    )
    print_claims(summary["claims"])
    print(f"report: {directory.path / 'report.html'}")
    return summary
