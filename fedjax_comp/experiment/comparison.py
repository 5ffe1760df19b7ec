"""A comparison: one command that runs several variants and holds them side by side.

Each variant is a run in a directory of its own below `--workdir`: what has finished is
not run again, further variants may be added, and one that fails is a row of the table.
An experiment declares what is its own as a `Comparison`, and everything else is here:

    COMPARISON = Comparison(
        name="mine",
        define=define,                       # its flags
        variants=parse,                      # (values) -> the variants
        run=run_variant,                     # (variant, values) -> its row, its curve
        columns=("total_bytes", "total_bytes_ratio", "test_accuracy"),
        compare=lambda rows: add_ratios(rows, "total_bytes"),
        claims=lambda results: failure_claims("variant", results.rows),
        shown={"bytes": formatted("total_bytes", format_bytes)},
    )
    main = COMPARISON.main                   # python -m experiments.mine
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags

from fedjax_comp import distributed
from fedjax_comp.experiment.errors import RunFailed
from fedjax_comp.experiment.finish import growing_flags, read_rows
from fedjax_comp.experiment.finished import COMPARED, check_finished
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main
from fedjax_comp.experiment.outcome import (
    Text,
    facts_of,
    print_claims,
    print_table,
    table_of,
    with_spread,
    write_outcome,
)
from fedjax_comp.experiment.pipelines import Variant, attempt
from fedjax_comp.experiment.problem import check_audits
from fedjax_comp.experiment.seeds import (
    claims_over_seeds,
    define_seeds,
    mean_curves,
    mean_rows,
    values_of_seed,
)
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Figure, Run, Table
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    RunDirectoryError,
    begin_run,
    find_run,
    write_text,
)

LEADING, TRAILING = ("name",), ("reason",)
"""Columns that every table has, before and behind an experiment's own."""


class Results(NamedTuple):
    """What the variants came to.

    Attributes:
      values: the command's flags.
      rows: a row of the table for each variant, in order.
      curves: what `run` returned beside each row, of those that did not fail.
      directory: where they lie.
      facts: what the summary holds beside rows and claims.
      others: the rows of every other seed, on which a setting may be chosen that is
        graded on this one.
    """

    values: flags.FlagValues
    rows: list[Json]
    curves: list[Any]
    directory: RunDirectory
    facts: Mapping[str, Any] = MappingProxyType({})
    others: Sequence[list[Json]] = ()

    @property
    def figures_path(self) -> Path:
        """The folder of figures."""
        return self.directory.figures_path


class Comparison(NamedTuple):
    """An experiment that compares variants; the first is what the others are held to.

    Attributes:
      name: as in `python -m experiments.<name>`.
      define: the command's flags, not yet parsed.
      variants: `(values) -> variants`, each a `NamedTuple` with a `name`. Mistakes in
        what all of them share are raised here, before anything is written.
      run: `(variant, values) -> (row, curve)`.
      columns: of `table.csv` between `name` and `reason`, in the words of
        `fedjax_comp.experiment.outcome`; a row may lack some.
      claims: `(results) -> claims`.
      shown: heading to text of a row, for the terminal.
      quick: flags that `--quick` sets unless they are given by hand.
      repeated: flags of which further values may be added to a directory.
      where_known: further columns, left out where no row has a value.
      complete: adds to the rows what needs all curves, such as costs to an accuracy
        that the first sets; called before `compare`.
      compare: adds to the rows what they are against the first.
      facts: `(results) -> what the summary holds beside rows and claims`; they are
        in the `results` that claims, figures and tables are made from.
      figures: `(results) -> figures` of the report.
      tables: `(results) -> further tables` of the report.
      title: of the report.
      headlines: `(rows) -> what the report shows first`.
      describe: a variant in a line, for the terminal.
      word: what a variant is called there.
      caption: under the terminal's table.
      mark: what stands behind a row's name there.
      order: `(row) -> key` that the terminal's rows are sorted by; as they were given
        when None.
    """

    name: str
    define: Callable[[], flags.FlagValues]
    variants: Callable[[flags.FlagValues], Sequence[Variant]]
    run: Callable[[Any, flags.FlagValues], tuple[Json, Any]]
    columns: tuple[str, ...]
    claims: Callable[[Results], list[Json]]
    shown: Mapping[str, Text]
    quick: Mapping[str, object] = {}
    repeated: tuple[str, ...] = ()
    where_known: tuple[str, ...] = ()
    complete: Callable[[Results], None] = lambda results: None
    compare: Callable[[list[Json]], None] = lambda rows: None
    facts: Callable[[Results], Json] = lambda results: facts_of(results.values)
    figures: Callable[[Results], Sequence[Figure | None]] = lambda results: ()
    tables: Callable[[Results], Sequence[Table]] = lambda results: ()
    title: Callable[[flags.FlagValues], str] = lambda values: "Comparison"
    headlines: Callable[[Sequence[Json]], Json] = lambda rows: {"runs": len(rows)}
    describe: Callable[[Any], str] = lambda variant: ""
    word: str = "pipeline"
    caption: str = ""
    mark: Text = lambda row: ""
    order: Callable[[Json], Any] | None = None

    def main(self, argv: Sequence[str] | None = None) -> None:
        """The command: parses flags, runs or resumes every variant, compares them."""

        def body(values: flags.FlagValues) -> None:
            apply_quick(values, **self.quick)
            compare(self, values)

        values = self.define()
        define_seeds(values)
        run_main(self.name, values, body, argv)


def compare(comparison: Comparison, values: flags.FlagValues) -> Json:
    """Runs what has not run yet and writes the comparison.

    Args:
      comparison: the experiment.
      values: its parsed flags.

    Returns:
      The summary.

    Raises:
      ValueError: for a mistake in the flags; nothing has been written then.
    """
    check_audits(values)
    define_seeds(values)
    count = 1 if "num_seeds" in comparison.define() else values.num_seeds
    of_seeds = [values_of_seed(comparison.define, values, i) for i in range(count)]
    variants = comparison.variants(values)
    settings = as_dict(values)
    for name in {*comparison.repeated, "num_seeds"}:
        del settings[name]
    growing = growing_flags(values)
    directory = RunDirectory(Path(values.workdir), {}, None)  # of one that leads no run
    if distributed.is_first():
        directory = find_run(values.workdir, comparison.name, settings, growing=growing)
        if directory.finished is not None and not directory.is_writable:
            distributed.tell({"do": "end"})
            return _read_only(check_finished(directory, COMPARED), directory, variants)
        directory = begin_run(directory)
        distributed.tell({"do": "variants"})
    elif distributed.hear()["do"] == "end":
        return {}
    each = []
    for own in of_seeds:
        if count > 1:
            print(f"seed {own.seed}", flush=True)
        of_own = variants if own is values else comparison.variants(own)
        each.append(_run_all(comparison, own, of_own, directory))
    if not distributed.is_first():
        return {}
    if count == 1:
        (results,) = each
        results = results._replace(facts=comparison.facts(results))
        return finish(comparison, results, comparison.claims(results))
    return _finish_seeds(comparison, values, each)


def _run_all(
    comparison: Comparison,
    values: flags.FlagValues,
    variants: Sequence[Variant],
    directory: RunDirectory,
) -> Results:
    """Every variant with one seed."""
    results = Results(values, [], [], directory)
    for variant in variants:
        print(f"{variant.name}: {comparison.describe(variant)}", flush=True)
        done, reason = attempt(
            variant.name, functools.partial(comparison.run, variant, values)
        )
        if not distributed.is_first():
            continue  # What is made of a run's files is made where they are.
        row, curve = done or ({}, None)
        known = {n: x for n, x in variant._asdict().items() if n in comparison.columns}
        blank = dict.fromkeys(comparison.columns)
        named = {"name": variant.name, **blank, **known, "reason": reason}
        results.rows.append({**named, **row})
        if curve is not None:
            results.curves.append(curve)
    if distributed.is_first():
        comparison.complete(results)
        comparison.compare(results.rows)
    return results


def _finish_seeds(
    comparison: Comparison, values: flags.FlagValues, each: Sequence[Results]
) -> Json:
    """Means over seeds, a claim only where it is beyond their noise."""
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
    columns = ("seed", *LEADING, *_own_columns(comparison, rows), *TRAILING)
    single = [
        {"seed": seed, **row}
        for seed, one in zip(seeds, each, strict=True)
        for row in one.rows
    ]
    write_text(results.directory.path / "seeds.csv", to_csv(columns, single))
    # Curves of an experiment's own kind have no mean that is known here.
    drawn = "mean ± deviation" if are_runs else f"seed {seeds[0]} alone"
    tables = [table_of("Seeds", columns, single)]
    return finish(comparison, results, claims, tables, drawn)


def _read_only(
    finished: Json, directory: RunDirectory, variants: Sequence[Variant]
) -> Json:
    """What a directory that cannot be written has to say."""
    held = {row["name"] for row in finished["runs"] if not row["reason"]}
    missing = [one.name for one in variants if one.name not in held]
    if missing:
        raise RunDirectoryError(
            f"--workdir={directory.path} cannot be written, and {', '.join(missing)} "
            "has not been run there; choose another one."
        )
    print(f"{directory.path} has finished; it cannot be written, nothing was changed.")
    print_claims(finished["claims"])
    return finished


def finish(
    comparison: Comparison,
    results: Results,
    claims: list[Json],
    tables: Sequence[Table] = (),
    drawn: str = "",
) -> Json:
    """Writes and prints what the variants came to.

    Args:
      comparison: the experiment.
      results: with its facts; means where it was run with several seeds.
      claims: about them.
      tables: further ones of the report.
      drawn: what curves of the report are of, where there are several seeds.
    """
    measured = (
        name
        for column in _own_columns(comparison, results.rows)
        for name in (column, f"{column}_sd")
        if name == column or any(name in row for row in results.rows)
    )
    columns = (*LEADING, *measured, *TRAILING)
    summary: Json = {
        "experiment": comparison.name,
        **results.facts,
        "runs": results.rows,
        "claims": claims,
    }
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
        figures=comparison.figures(results),
        columns=columns,
    )
    rows, order = results.rows, comparison.order
    print_table(
        plural,
        comparison.word,
        {heading: with_spread(text) for heading, text in comparison.shown.items()},
        rows if order is None else sorted(rows, key=order),
        caption="\n".join(filter(None, [comparison.caption, _over(results)])),
        mark=comparison.mark,
    )
    print_claims(summary["claims"])
    print(f"report: {results.directory.path / 'report.html'}")
    if results.rows and all(row["reason"] for row in results.rows):
        raise RunFailed(f"every {comparison.word} failed.")
    return summary


def _own_columns(comparison: Comparison, rows: Sequence[Json]) -> list[str]:
    """The columns of an experiment's own: all, and those that are known."""
    known = [
        name
        for name in comparison.where_known
        if any(row.get(name) is not None for row in rows)
    ]
    return [*comparison.columns, *known]


def _over(results: Results) -> str:
    seeds = results.facts.get("seeds", ())
    return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}" * bool(
        seeds
    )


def run_of(name: str, workdir: str | Path) -> Run:
    """The evaluations of a variant's run, as a curve for figures."""
    return Run(name, read_rows(Path(workdir)))
