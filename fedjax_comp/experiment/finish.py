"""Runs a problem in its directory and writes what the run leaves behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from fedjax_comp import distributed
from fedjax_comp.base import PyTree
from fedjax_comp.experiment.clients import (
    CLIENT_COLUMNS,
    accuracy_of_clients,
    last_clients,
    write_clients,
)
from fedjax_comp.experiment.conditions import accuracy_against_time
from fedjax_comp.experiment.errors import RunFailed
from fedjax_comp.experiment.figures import drawn
from fedjax_comp.experiment.finished import (
    MEASURED,
    ROW,
    check_finished,
    read_lines,
)
from fedjax_comp.experiment.flags import as_dict
from fedjax_comp.experiment.lateness import counts_late, put_on_clock
from fedjax_comp.experiment.outcome import reported, settings_of
from fedjax_comp.experiment.problem import (
    build_schedule,
    check_audits,
    client_store,
    initial_key,
    log_hooks,
)
from fedjax_comp.hooks import Hook
from fedjax_comp.metrics import TO_TARGET, Row
from fedjax_comp.network.simulation import WITHIN
from fedjax_comp.problem import Problem
from fedjax_comp.report import (
    Figure,
    Run,
    Table,
    accuracy_against_bytes,
    accuracy_against_rounds,
    format_bytes,
    format_value,
    write_report,
)
from fedjax_comp.rounds import check_round
from fedjax_comp.run import run
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    begin_run,
    find_run,
    write_json,
)

HEADLINES = (
    "test_accuracy",
    "best_test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "simulated_seconds",
    "joules",
    "seconds_total",
)
"""What a report shows first, where there is such a thing."""

DESCRIBED = ("dataset", "stream", "protocol", "method", "model", "uplink", "downlink")
"""Flags that a summary repeats, where the experiment has them."""

SPENT = ("epsilon", "delta", "noise_multiplier", "accountant")
"""What a summary, and a row of it, has of a private run."""

Claims = Callable[[Json], list[Json]]
"""`(summary) -> [{name, target, measured, holds}]`: what a run is to show."""


def execute(
    name: str,
    values: flags.FlagValues,
    build_problem: Callable[[], Problem],
    claims: Claims,
    finish: Callable[[RunDirectory, PyTree], Json] | None = None,
    clock: Callable[[Problem], list[Hook]] | None = None,
) -> Json:
    """Runs or resumes an experiment and completes its directory.

    All is built, and a round traced, before anything is written: a mistake leaves no
    directory that would refuse the corrected command.

    Args:
      name: the experiment's name.
      values: its parsed flags.
      build_problem: builds what is run; not called when the run has already finished.
      claims: the experiment's claims.
      finish: `(directory, params) -> what to add to the summary`, after the last round.
      clock: `(problem) -> the hooks of its clock`, where that is not the one that the
        flags describe.

    Returns:
      The summary.

    Raises:
      ValueError: for a directory or flags that cannot be used.
      RunFailed: when the run has come to its end, all files are written, and its model
        has learned nothing.
    """
    with distributed.in_step():
        if distributed.is_first():
            summary = _execute(name, values, build_problem, claims, finish, clock)
            distributed.tell({"do": "summary", "summary": summary})
        else:
            summary = _follow(name, values, build_problem, clock)
    return _sound(summary)


def _execute(
    name: str,
    values: flags.FlagValues,
    build_problem: Callable[[], Problem],
    claims: Claims,
    finish: Callable[[RunDirectory, PyTree], Json] | None,
    clock: Callable[[Problem], list[Hook]] | None,
) -> Json:
    directory = find_run(
        values.workdir, name, as_dict(values), growing=growing_flags(values)
    )
    if directory.finished is not None:
        finished = check_finished(directory, MEASURED)
        print(f"{directory.path} has finished; nothing was changed.")
        print_summary(finished, directory)
        return finished
    is_new = not (directory.path / "config.json").exists()
    distributed.tell({"do": "run", "new": is_new})
    check_audits(values)
    client_store(values)
    schedule = build_schedule(values)
    problem, clock_hooks = _on_clock(values, build_problem(), clock)
    _, run_key = initial_key(values)
    if is_new:
        check_round(problem, run_key)
    last = last_clients(values, problem, client_store(values))
    directory = begin_run(directory)
    ledger, params, measured = run(
        directory,
        problem,
        schedule,
        run_key,
        hooks=[*clock_hooks, *log_hooks(name, values), *last.hooks],
        show_progress=values.progress,
        client_store=client_store(values),
    )
    summary = {
        "experiment": name,
        **{name: values[name].value for name in DESCRIBED if name in values},
        **measured,
        **write_clients(directory, values, problem, params, last),
        **(finish(directory, params) if finish is not None else {}),
    }
    summary["runs"] = [{"name": name, **_in_words(summary), "reason": ""}]
    summary["claims"] = claims(summary)
    write_run_report(directory, summary, ledger.rows)
    # Last, since its presence is what says that the run has finished.
    write_json(directory.path / "summary.json", summary)
    print_summary(summary, directory)
    return summary


def _follow(
    name: str,
    values: flags.FlagValues,
    build_problem: Callable[[], Problem],
    clock: Callable[[Problem], list[Hook]] | None,
) -> Json:
    """What the other processes do beside `_execute`: they read and write no results."""
    order = distributed.hear()
    if order["do"] == "run":
        schedule = build_schedule(values)
        problem, clock_hooks = _on_clock(values, build_problem(), clock)
        directory = RunDirectory(Path(values.workdir), {"experiment": name}, None)
        _, run_key = initial_key(values)
        if order["new"]:
            check_round(problem, run_key)
        run(
            directory,
            problem,
            schedule,
            run_key,
            hooks=clock_hooks,
            client_store=client_store(values),
        )
        order = distributed.hear()
    summary: Json = order["summary"]
    return summary


def _on_clock(
    values: flags.FlagValues,
    problem: Problem,
    clock: Callable[[Problem], list[Hook]] | None,
) -> tuple[Problem, list[Hook]]:
    if clock is None:
        return put_on_clock(values, problem)
    return problem, clock(problem)


def _sound(summary: Json) -> Json:
    """The summary of a run that has taught its model something.

    Raises:
      RunFailed: for another one.
    """
    failures = summary.get("failures")
    if failures:
        raise RunFailed(" ".join(failures))
    return summary


def growing_flags(values: flags.FlagValues) -> tuple[str, ...]:
    """The flags that may be larger when a run is resumed.

    There is no such flag where the clients that are late, or the noise that an epsilon
    takes, depend on the number of rounds asked for.
    """
    late = "late_updates" in values and counts_late(values)
    solved = "dp_epsilon" in values and values.dp_epsilon is not None
    return () if late or solved else ("num_rounds",)


def write_run_report(directory: RunDirectory, summary: Json, rows: list[Row]) -> None:
    """The figures and `report.html` of one run."""
    write_report(
        directory.path / "report.html",
        title=f"{summary['experiment']} on {_data_name(summary)}",
        summary={
            name: summary[name] for name in HEADLINES if summary[name] is not None
        },
        settings=settings_of(directory),
        tables=[
            evaluations_table(rows),
            *budgets_table(rows),
            Table("All figures", ("name", "value"), _facts(summary)),
        ],
        figures=drawn(lambda: _figures(directory, summary, rows)),
        claims=reported(summary["claims"]),
    )


def _figures(directory: RunDirectory, summary: Json, rows: list[Row]) -> list[Figure]:
    name, folder = summary["experiment"], directory.figures_path
    runs = [Run(name, rows)]
    by_round = accuracy_against_rounds(runs, folder / "accuracy_against_rounds.png")
    by_bytes = accuracy_against_bytes(
        runs,
        folder / "accuracy_against_bytes.png",
        columns=("uplink_bytes", "downlink_bytes"),
    )
    figures = [
        Figure("Test accuracy against rounds", by_round),
        Figure("Test accuracy against bytes sent, both ways", by_bytes),
    ]
    if summary["simulated_seconds"] is not None:
        path = accuracy_against_time(runs, folder / "accuracy_against_time.png")
        figures.append(Figure("Test accuracy against simulated time", path))
    if "client_accuracy_mean" in summary:
        path = accuracy_of_clients(
            {name: directory.path}, folder / "client_accuracy.png"
        )
        figures.append(Figure("Accuracy of each client, the lowest first", path))
    return figures


def evaluations_table(rows: list[Row], most: int = 40) -> Table:
    """At most about `most` of the evaluations, evenly spaced, the last one included."""
    step = max(1, -(-len(rows) // most))
    shown = rows[::step]
    if rows and shown[-1] is not rows[-1]:
        shown.append(rows[-1])
    columns = tuple(name for name in Row.__annotations__ if name != "observed")
    note = f"Every {step}th evaluation; all are in metrics.jsonl." if step > 1 else ""
    return Table(
        "Evaluations", columns, [[row.get(c) for c in columns] for row in shown], note
    )


def budgets_table(rows: list[Row]) -> list[Table]:
    """Messages within each budget since the evaluation before; none without budgets."""
    known = [row.get("observed", {}) for row in rows]
    names = [n for n in (known[-1] if known else {}) if n.startswith(WITHIN)]
    if not names:
        return []
    counts = np.array([[observed.get(n) or 0 for n in names] for observed in known])
    each = np.diff(counts, axis=0, prepend=0).astype(int).tolist()
    since = [[row["round"], *own] for row, own in zip(rows, each, strict=True)]
    bits = [n.removeprefix(WITHIN).removesuffix("_bits") for n in names]
    used = [i for i in range(len(names)) if any(row[i + 1] for row in since)]
    return [
        Table(
            "Messages within each budget, in bits, since the evaluation before",
            ("round", *(f"{int(bits[i]):,}" for i in used)),
            [[row[0], *(row[i + 1] for i in used)] for row in since],
            f"Budgets that no message had are left out; {len(names)} could be chosen.",
        )
    ]


def _data_name(summary: Json) -> str:
    return summary["dataset"] if "dataset" in summary else summary["stream"]


def _facts(summary: Json) -> list[tuple[str, str]]:
    return [
        (name, format_value(name, value))
        for name, value in summary.items()
        if name not in ("claims", "runs")
    ]


def _in_words(summary: Json) -> Json:
    """A run's row in the vocabulary that all summaries share."""
    words = (*HEADLINES, "total_bytes", *(f"{name}_to_target" for name in TO_TARGET))
    row = {name: summary[name] for name in words if name != "seconds_total"}
    own = (*CLIENT_COLUMNS, *SPENT)
    return row | {name: summary[name] for name in own if name in summary}


def print_summary(summary: Json, directory: RunDirectory) -> None:
    """The end of a run, for its reader."""
    up = summary["uplink_bytes"]
    times = f"{summary['dense_uplink_bytes'] / up:.1f}" if up else "1.0"
    smaller = f" (messages {times}x smaller than dense)" if times != "1.0" else ""
    Console().print(
        f"accuracy {summary['test_accuracy']:.4f} "
        f"(best {summary['best_test_accuracy']:.4f}) after {summary['rounds']} rounds, "
        f"up {format_bytes(up)}{smaller}, "
        f"down {format_bytes(summary['downlink_bytes'])}, "
        f"{on_clock(summary)}{summary['seconds_total']:.1f} s\n"
        f"{dropped(summary)}{spent(summary)}"
        f"report: {directory.path / 'report.html'}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def dropped(summary: Json) -> str:
    r"""How many of the clients' updates were left out; nothing when none were.

    >>> dropped({"dropped_updates": 110, "updates_made": 200})
    '110 of 200 updates dropped\n'
    """
    count, made = summary.get("dropped_updates"), summary.get("updates_made")
    if not count or not isinstance(count, int):
        return ""
    of = f" of {made:,}" if isinstance(made, int) else ""  # not in older summaries
    return f"{count:,}{of} updates dropped\n"


def spent(summary: Json) -> str:
    r"""What a private run tells of a client at most, and by whom; else nothing.

    >>> spent({"epsilon": 2.0, "delta": 1e-5, "accountant": "exact"})
    'private: epsilon 2 at delta 1e-05 (exact)\n'
    """
    if summary.get("accountant") is None:
        return ""
    if summary["epsilon"] is None:
        return "private: clipped alone; without noise epsilon is infinite\n"
    return (
        f"private: epsilon {summary['epsilon']:.4g} at delta {summary['delta']:g} "
        f"({summary['accountant']})\n"
    )


def on_clock(summary: Json) -> str:
    """What a run took on simulated links and devices; nothing without them."""
    if summary["simulated_seconds"] is None:
        return ""
    said = f"{summary['simulated_seconds']:.1f} simulated s, "
    if summary["joules"]:
        said += f"{summary['joules']:.0f} J, "
    return said


def read_rows(workdir: Path) -> list[Row]:
    """The evaluation rows of a run directory; half a last line is left out.

    Raises:
      RunDirectoryError: when there are none, or one is not an evaluation.
    """
    return read_lines(workdir / "metrics.jsonl", ROW)
