"""Streams faster than nodes or links: error by minibatch, messages and discards."""

import functools
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from experiments.stream_minibatch.flags import QUICK, define
from experiments.stream_minibatch.outcome import claims, diverged, figures
from experiments.stream_minibatch.problems import PROBLEMS
from experiments.stream_minibatch.rules import Rule, parse_rules
from experiments.stream_minibatch.simulate import build_algorithm, pace_of, simulate
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measurements
from fedjax_comp.run_directory import Json

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


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every rule of every problem by its name; a mistake in one ends the command."""
    jobs: dict[str, Callable[[], Json]] = {}
    rules = {name: parse_rules(name, values[name].value or ()) for name in PROBLEMS}
    for problem, found in rules.items():
        for name, rule in found.items():
            check_rule(f"--{problem}={name}", problem, rule, values)
            jobs[f"{problem}, {name}"] = functools.partial(
                measure, problem, name, rule, values
            )
    return jobs


def check_rule(flag: str, problem: str, rule: Rule, values: flags.FlagValues) -> None:
    """Refuses a rule that cannot be, or whose minibatch is longer than the stream."""
    made = PROBLEMS[problem](values)
    try:
        build_algorithm(rule, made, values)
        arrived = pace_of(rule, values).arrived
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if arrived > values.num_arrivals:
        raise UsageError(
            f"{flag}: a minibatch takes {arrived:.0f} arrivals, more than "
            f"--num_arrivals={values.num_arrivals}."
        )


def measure(problem: str, name: str, rule: Rule, values: flags.FlagValues) -> Json:
    """Learns by one rule."""
    row = simulate(rule, PROBLEMS[problem](values), values)
    return {"problem": problem, "rule": name, **row}


def without_curves(measurements: Sequence[Json]) -> list[Json]:
    """The rows of the table."""
    return [{name: one[name] for name in ("name", *COLUMNS)} for one in measurements]


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    error = "-" if row["error"] is None else f"{row['error']:.3g}"
    slope = "-" if row["slope"] is None else f"{row['slope']:.2f}"
    word = "  DIVERGED" if row["diverged"] else ""
    return (
        f"{row['name']:<24}mu {row['discarded']:<8g} error {error:<10} slope {slope}"
        f"  {row['total_bytes']:,} bytes{word}"
    )


MEASUREMENTS = Measurements(
    name="stream_minibatch",
    define=define,
    quick=QUICK,
    jobs=make_jobs,
    summarise=without_curves,
    columns=COLUMNS,
    claims=claims,
    facts=lambda measured: {
        "num_arrivals": measured.values.num_arrivals,
        "num_trials": measured.values.num_trials,
        "diverged": diverged(measured.rows),
    },
    figures=figures,
    title=lambda values: (
        f"Learning from {values.num_trials} streams of {values.num_arrivals:,} arrivals"
    ),
    headlines=lambda rows: {
        "rules": len(rows),
        "diverged": ", ".join(diverged(rows)) or "none",
    },
    note="Means over the streams at the last of their arrivals.",
    show=to_line,
)
main = MEASUREMENTS.main
