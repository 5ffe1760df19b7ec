"""Experiments made of many small measurements: one row each, kept as it is taken.

A measurement has a name. What a directory holds is not measured again, so a killed
command goes on where it was; one that fails costs its own row and no other.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import attempt
from fedjax_comp.report import Claim, Figure, Table, write_report
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    write_json,
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


def claim(
    name: str, target: float, measured: float | None, *, at_least: bool
) -> list[Json]:
    """A claim, `[]` when there is nothing to hold it against.

    >>> claim("accuracy", 0.9, 0.95, at_least=True)[0]["holds"]
    True
    """
    if measured is None:
        return []
    holds = measured >= target if at_least else measured <= target
    value = round(measured, 5)
    return [{"name": name, "target": target, "measured": value, "holds": holds}]


def failure_claim(failures: Sequence[Json]) -> list[Json]:
    """That everything could be measured."""
    return claim("measurements that failed", 0, len(failures), at_least=False)


def complete(
    directory: RunDirectory,
    summary: Json,
    *,
    title: str,
    headlines: Json,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    failures: Sequence[Json],
) -> Json:
    """Writes the report and, last, the summary; prints the claims.

    Args:
      directory: the run's directory.
      summary: with its `claims`.
      title: of the report.
      headlines: what the report shows first.
      tables: of the report.
      figures: of the report.
      failures: as `measure_missing` gives them; a table of its own when there are any.

    Returns:
      The summary.
    """
    columns = ("job", "reason")
    lost = [[one[name] for name in columns] for one in failures]
    report = write_report(
        directory.path / "report.html",
        title=title,
        summary=headlines,
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[*tables, *([Table("Not measured", columns, lost)] if lost else [])],
        figures=list(figures),
        claims=[Claim(**one) for one in summary["claims"]],
    )
    # Its presence is what says that the run has finished.
    write_json(directory.path / "summary.json", summary)
    for one in summary["claims"]:
        word = "holds" if one["holds"] else "DOES NOT HOLD"
        print(f"{word}: {one['name']}: {one['measured']} ({one['target']})")
    print(f"report: {report}")
    return summary
