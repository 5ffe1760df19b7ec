"""Streams faster than nodes or links: what is lost, and what minibatches make of it."""

import functools
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from experiments.stream_minibatch.claims import claims_of
from experiments.stream_minibatch.flags import QUICK, define
from experiments.stream_minibatch.plot import draw_figures
from experiments.stream_minibatch.problems import PROBLEMS
from experiments.stream_minibatch.rules import Rule, parse_rules
from experiments.stream_minibatch.simulate import build_algorithm, pace_of, simulate
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main
from fedjax_comp.experiment.measurements import complete, measure_missing
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Table
from fedjax_comp.run_directory import Json, open_run, write_text

NAME = "stream_minibatch"
COLUMNS = (
    "problem",
    "rule",
    "nodes",
    "batch",
    "rounds",
    "discarded",
    "minibatches",
    "error",
    "slope",
    "diverged",
    "dropped",
    "total_bytes",
    "messages_per_edge",
    "contraction",
    "modelled_seconds",
)
"""Of `table.csv`; bytes are those of one stream's nodes."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: measures or resumes, then writes the run directory."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Measures what the directory does not hold yet; `ValueError` for a mistake."""
    rules = {name: parse_rules(name, values[name].value or ()) for name in PROBLEMS}
    directory = open_run(values.workdir, NAME, as_dict(values))
    if directory.finished is not None:
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished
    rows, failures = measure_missing(
        directory, make_jobs(rules, values), show=to_line if values.progress else None
    )
    write_text(directory.path / "table.csv", to_csv(COLUMNS, rows))
    diverged = [row["job"] for row in rows if row["diverged"]]
    summary: Json = {
        "experiment": NAME,
        "num_arrivals": values.num_arrivals,
        "num_trials": values.num_trials,
        "measured": len(rows),
        "diverged": diverged,
        "failures": failures,
        "table": [{name: row[name] for name in COLUMNS} for row in rows],
        "claims": claims_of(rows, failures),
    }
    return complete(
        directory,
        summary,
        title="Learning from streams at their pace",
        headlines={
            "arrivals": values.num_arrivals,
            "rules": len(rows),
            "diverged": ", ".join(diverged) or "none",
        },
        tables=[
            Table(
                "Rules",
                COLUMNS,
                [[row[name] for name in COLUMNS] for row in rows],
                f"Means over {values.num_trials} streams after {values.num_arrivals:,} "
                "arrivals.",
            )
        ],
        figures=draw_figures(rows, directory.figures_path),
        failures=failures,
    )


def make_jobs(
    rules: Mapping[str, Mapping[str, Rule]], values: flags.FlagValues
) -> Mapping[str, Callable[[], Json]]:
    """Every rule of every problem by its name; a mistake in one ends the command."""
    jobs: dict[str, Callable[[], Json]] = {}
    for problem_name, found in rules.items():
        problem = PROBLEMS[problem_name](values)
        for name, rule in found.items():
            try:
                build_algorithm(rule, problem, values)
                arrived = pace_of(rule, values).arrived
            except ValueError as error:
                raise UsageError(f"--{problem_name}={name}: {error}") from error
            if arrived > values.num_arrivals:
                raise UsageError(
                    f"--{problem_name}={name}: a minibatch takes {arrived:.0f} "
                    f"arrivals, more than --num_arrivals={values.num_arrivals}."
                )

            def measure(
                problem_name: str = problem_name, name: str = name, rule: Rule = rule
            ) -> Json:
                problem = PROBLEMS[problem_name](values)
                return {
                    "problem": problem_name,
                    "rule": name,
                    **simulate(rule, problem, values),
                }

            jobs[f"{problem_name}, {name}"] = functools.partial(measure)
    return jobs


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    error = "-" if row["error"] is None else f"{row['error']:.3g}"
    slope = "-" if row["slope"] is None else f"{row['slope']:.2f}"
    word = "  DIVERGED" if row["diverged"] else ""
    return (
        f"{row['job']:<24}mu {row['discarded']:<8g} error {error:<10} slope {slope}"
        f"  {row['total_bytes']:,} bytes{word}"
    )
