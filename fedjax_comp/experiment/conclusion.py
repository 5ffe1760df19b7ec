"""Writes the results of a comparison: `finish`, or `finish_seeds` of several seeds."""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from absl import flags

from fedjax_comp.experiment.errors import RunFailed
from fedjax_comp.experiment.figures import drawn as figures_drawn
from fedjax_comp.experiment.outcome import (
    Text,
    number,
    print_claims,
    print_table,
    table_of,
    with_spread,
    write_outcome,
)
from fedjax_comp.experiment.pipelines import Variant
from fedjax_comp.experiment.rates import COLUMNS as RATE_COLUMNS
from fedjax_comp.experiment.rates import rate_rows
from fedjax_comp.experiment.seeds import claims_over_seeds, mean_rows
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Run, Table, mean_curves
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    RunDirectoryError,
    begin_growth,
    read_json,
    write_text,
)

if TYPE_CHECKING:
    from fedjax_comp.experiment.comparison import Comparison, Results

LEADING, TRAILING = ("name",), ("reason",)
"""Columns that every table has, before and behind an experiment's own."""

_SEEDS_FILE = "seeds.csv"


def finish_seeds(
    comparison: "Comparison", values: flags.FlagValues, each: Sequence["Results"]
) -> Json:
    """Means over seeds, a claim only where it is beyond their noise."""
    _keep_finished(comparison, each)
    each = [
        one._replace(
            facts=comparison.facts(one),
            others=[other.rows for other in each if other is not one],
        )
        for one in each
    ]
    rows = mean_rows([one.rows for one in each])
    curves = [one.curves for one in each]
    are_runs = all(isinstance(run, Run) for runs in curves for run in runs)
    seeds = [one.values.seed for one in each]
    results = each[0]._replace(
        values=values,
        rows=rows,
        curves=mean_curves(curves) if are_runs else curves[0],
        facts={**each[0].facts, "seeds": seeds},
    )
    claims = claims_over_seeds([comparison.claims(one) for one in each])
    own_rate = ("rate",) if any(one.says_rate for one in results.rated) else ()
    measured = _own_columns(comparison, rows)
    columns = ("seed", *LEADING, *own_rate, *measured, *TRAILING)
    single = [
        {"seed": seed, **row}
        for seed, one in zip(seeds, each, strict=True)
        for row in one.rows
    ]
    write_text(results.directory.path / _SEEDS_FILE, to_csv(columns, single))
    # Curves of an experiment's own kind have no mean that is known here.
    drawn = "mean ± deviation" if are_runs else f"seed {seeds[0]} alone"
    tables = [table_of("Seeds", columns, single)]
    return finish(comparison, results, claims, tables, drawn, _by_seed(each))


def _keep_finished(comparison: "Comparison", each: Sequence["Results"]) -> None:
    """Writes nothing over what had finished where all that was run now has failed.

    Raises:
      RunFailed: then.
    """
    path = each[0].directory.path / "summary.json"
    rows = [row for one in each for row in one.rows]
    if not rows or not all(row["reason"] for row in rows) or not path.exists():
        return
    with contextlib.suppress(RunDirectoryError, KeyError, TypeError):
        if any(not row["reason"] for row in read_json(path)["runs"]):
            raise RunFailed(
                f"every {comparison.word} failed; {path} is what had finished before."
            )


def _by_seed(each: Sequence["Results"]) -> Json:
    """The facts that differ between seeds: a list of each seed's own."""
    of_each = [one.facts for one in each]
    return {
        name: [facts.get(name) for facts in of_each]
        for name, value in of_each[0].items()
        if any(facts.get(name) != value for facts in of_each)
    }


def read_only(
    finished: Json,
    directory: RunDirectory,
    variants: Sequence[Variant],
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    known: Mapping[str, float],
) -> Json:
    """What a directory that cannot be written has to say.

    Args:
      finished: its summary.
      directory: the directory.
      variants: what is asked for.
      seeds: likewise.
      rates: likewise; none without a grid.
      known: likewise, of the variants that are given their rates.

    Raises:
      RunDirectoryError: where not all that is asked for has been run there.
    """
    held = {row["name"] for row in finished["runs"] if not row["reason"]}
    missing = [one.name for one in variants if one.name not in held]
    there = finished.get("seeds", seeds[:1])
    missing += [f"seed {seed}" for seed in seeds if seed not in there]
    tried = {row["rate"] for row in finished.get("rates", ())}
    missing += [f"rate {rate:g}" for rate in rates if rate not in tried]
    at = {row["name"]: row.get("rate") for row in finished["runs"]}
    missing += [
        f"{name} at {rate:g}"
        for name, rate in known.items()
        if name in held and at[name] != rate
    ]
    if missing:
        raise RunDirectoryError(
            f"--workdir={directory.path} cannot be written, and {', '.join(missing)} "
            "has not been run there; choose another one."
        )
    print(f"{directory.path} has finished; it cannot be written, nothing was changed.")
    print_claims(finished["claims"])
    return finished


def finish(
    comparison: "Comparison",
    results: "Results",
    claims: list[Json],
    tables: Sequence[Table] = (),
    drawn: str = "",
    by_seed: Mapping[str, object] = MappingProxyType({}),
) -> Json:
    """Writes and prints what the variants came to.

    Args:
      comparison: the experiment.
      results: with its facts; means where it was run with several seeds.
      claims: about them.
      tables: further ones of the report.
      drawn: what curves of the report are of, where there are several seeds.
      by_seed: what the summary has in place of facts of one seed.
    """
    _keep_finished(comparison, [results])
    begin_growth(results.directory)
    measured = (
        name
        for column in _own_columns(comparison, results.rows)
        for name in (column, f"{column}_sd")
        if name == column or any(name in row for row in results.rows)
    )
    tried = rate_rows(comparison.tuning, results.rated)
    said = any(one.says_rate for one in results.rated)
    own_rate = ("rate", "rate_at_edge") if said else ()
    columns = (*LEADING, *own_rate, *measured, *TRAILING)
    if tried:
        write_text(results.directory.path / "rates.csv", to_csv(RATE_COLUMNS, tried))
        tables = [*tables, table_of("Rates tried", RATE_COLUMNS, tried)]
    summary: Json = {
        "experiment": comparison.name,
        **results.facts,
        **by_seed,
        **({"rates": tried} if tried else {}),
        "runs": results.rows,
        "claims": claims,
    }
    if "seeds" not in results.facts:  # but for those of more seeds, asked for before
        (results.directory.path / _SEEDS_FILE).unlink(missing_ok=True)
    plural = f"{comparison.word}s".capitalize()
    write_outcome(
        results.directory,
        summary,
        title=comparison.title(results.values),
        headlines={
            **comparison.headlines(results.rows),
            **({"curves": drawn} if drawn else {}),
        },
        tables=[
            table_of(plural, columns, results.rows),
            *comparison.tables(results),
            *tables,
        ],
        figures=figures_drawn(lambda: comparison.figures(results)),
        columns=columns,
    )
    rows, order = results.rows, comparison.order
    rate: Mapping[str, Text] = {"rate": number("rate", "{:g}")} if tried else {}
    shown = {**rate, **comparison.shown}
    print_table(
        plural,
        comparison.word,
        {heading: with_spread(text) for heading, text in shown.items()},
        rows if order is None else sorted(rows, key=order),
        caption="\n".join(filter(None, [comparison.caption, _over(results)])),
        mark=comparison.mark,
    )
    print_claims(summary["claims"])
    print(f"report: {results.directory.path / 'report.html'}")
    if results.rows and all(row["reason"] for row in results.rows):
        raise RunFailed(f"every {comparison.word} failed.")
    return summary


def _own_columns(comparison: "Comparison", rows: Sequence[Json]) -> list[str]:
    """The columns of an experiment's own: all, and those that are known."""
    known = [
        name
        for name in comparison.where_known
        if any(row.get(name) is not None for row in rows)
    ]
    return [*comparison.columns, *known]


def _over(results: "Results") -> str:
    seeds = results.facts.get("seeds", ())
    return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}" * bool(
        seeds
    )
