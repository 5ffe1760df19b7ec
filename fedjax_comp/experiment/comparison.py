"""A comparison: one command that runs several variants and compares them.

Each variant is a run in a directory of its own below `--workdir`. Variants that have
finished are not run again, further ones may be added, and one that fails is a row of
the table. An experiment declares its own parts as a `Comparison`; everything else is
here:

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
from fedjax_comp.experiment.conclusion import finish, finish_seeds, read_only
from fedjax_comp.experiment.errors import RunFailed, UsageError
from fedjax_comp.experiment.finish import growing_flags, read_rows
from fedjax_comp.experiment.finished import COMPARED, check_finished
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main
from fedjax_comp.experiment.outcome import (
    Text,
    facts_of,
)
from fedjax_comp.experiment.pipelines import Variant, attempt
from fedjax_comp.experiment.problem import check_audits
from fedjax_comp.experiment.rates import (
    Grid,
    Rated,
    Tuning,
    at_rate,
    choose_rates,
    define_rates,
    make_grid,
)
from fedjax_comp.experiment.seeds import (
    check_seeds,
    define_seeds,
    values_of_seed,
)
from fedjax_comp.report import Figure, Run, Table
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    begin_growth,
    begin_run,
    find_run,
)


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
      rated: the rate of each variant, where `--rate_grid` had it chosen.
      workdirs: where the run of each variant lies, by its name.
    """

    values: flags.FlagValues
    rows: list[Json]
    curves: list[Any]
    directory: RunDirectory
    facts: Mapping[str, Any] = MappingProxyType({})
    others: Sequence[list[Json]] = ()
    rated: Sequence[Rated] = ()
    workdirs: Mapping[str, Path] = MappingProxyType({})

    @property
    def figures_path(self) -> Path:
        """The folder of figures."""
        return self.directory.figures_path


class Comparison(NamedTuple):
    """An experiment that compares variants with the first of them.

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
      tuning: where expressions may say `rate`, and how `--rate_grid` then chooses it;
        there is no such flag when None.
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
    tuning: Tuning | None = None

    def all_flags(self) -> flags.FlagValues:
        """All flags of the command, those of every comparison included."""
        values = self.define()
        define_seeds(values)
        define_rates(values, self.tuning)
        return values

    def main(self, argv: Sequence[str] | None = None) -> None:
        """The command: parses flags, runs or resumes every variant, compares them."""

        def body(values: flags.FlagValues) -> None:
            apply_quick(values, **self.quick)
            compare(self, values)

        run_main(self.name, self.all_flags(), body, argv)


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
    define_rates(values, comparison.tuning)
    count = 1 if "num_seeds" in comparison.define() else values.num_seeds
    check_seeds(values, count)
    grid = make_grid(comparison, values)
    variants = comparison.variants(grid.lead)
    check_links(values, variants)
    said = {name: values[name].value for name in grid.tuning.flags}
    settings = {**as_dict(grid.lead), **said}
    for name in {
        *comparison.repeated,
        "num_seeds",
        "rate_grid",
        "rate_of",
    } & settings.keys():
        del settings[name]
    growing = growing_flags(values)
    directory = RunDirectory(Path(values.workdir), {}, None)  # of one that leads no run
    if distributed.is_first():
        directory = find_run(values.workdir, comparison.name, settings, growing=growing)
        if directory.finished is not None and not directory.is_writable:
            distributed.tell({"do": "end"})
            return read_only(
                check_finished(directory, COMPARED),
                directory,
                variants,
                seeds=range(values.seed, values.seed + count),
                rates=grid.rates,
                known=grid.known,
            )
        directory = begin_run(directory, of_runs=True)
        distributed.tell({"do": "variants"})
    elif distributed.hear()["do"] == "end":
        return {}
    rated = choose_rates(comparison, grid, variants)
    each = []
    for index in range(count):
        if count > 1:
            print(f"seed {values.seed + index}", flush=True)
        own, planned = _plan(comparison, grid, rated, index)
        each.append(_run_all(comparison, own, planned, directory))
    if not distributed.is_first():
        return {}
    if count == 1:
        (results,) = each
        results = results._replace(facts=comparison.facts(results))
        return finish(comparison, results, comparison.claims(results))
    return finish_seeds(comparison, grid.lead, each)


def check_links(values: flags.FlagValues, variants: Sequence[Variant]) -> None:
    """Refuses `--uplink` and `--downlink` where every variant has its own.

    Raises:
      UsageError: when one is given.
    """
    for name in ("uplink", "downlink"):
        is_theirs = any(hasattr(variant, name) for variant in variants)
        if is_theirs and name in values and values[name].present:
            raise UsageError(
                f"--{name}={values[name].value}: every variant names its own, e.g. "
                "--pipeline='NAME: UPLINK | DOWNLINK'."
            )


class Planned(NamedTuple):
    """A variant, the flags that it is run with, and how its rate was chosen."""

    variant: Variant
    values: flags.FlagValues
    rated: Rated


def _plan(
    comparison: Comparison, grid: Grid, rated: Sequence[Rated], index: int
) -> tuple[flags.FlagValues, list[Planned]]:
    """One of the command's seeds: the flags that all share, and every variant's own."""
    found = {}
    for rate in {None, *(one.rate for one in rated)}:
        values = at_rate(comparison, grid, rate, grid.values.workdir)
        own = values_of_seed(comparison.all_flags, values, index)
        found[rate] = own, comparison.variants(own)
    planned = []
    for place, one in enumerate(rated):
        own, variants = found[one.rate]
        planned.append(Planned(variants[place], own, one))
    return found[None][0], planned


def _run_all(
    comparison: Comparison,
    values: flags.FlagValues,
    planned: Sequence[Planned],
    directory: RunDirectory,
) -> Results:
    """Every variant with one seed."""
    rated = [one.rated for one in planned]
    chosen_or_given = any(one.says_rate for one in rated)
    where = {one.variant.name: one.values.workdir for one in planned}
    results = Results(
        *(values, [], [], directory),
        rated=rated,
        workdirs={name: Path(workdir) / name for name, workdir in where.items()},
    )
    for variant, own, chosen in planned:
        print(f"{variant.name}: {comparison.describe(variant)}", flush=True)
        done, reason = attempt(
            variant.name, functools.partial(_run, comparison, variant, own, chosen)
        )
        if not distributed.is_first():
            continue  # What is made of a run's files is made where they are.
        if done is not None:
            begin_growth(directory)  # one that goes on is enough
        row, curve = done or ({}, None)
        known = {n: x for n, x in variant._asdict().items() if n in comparison.columns}
        blank = dict.fromkeys(comparison.columns)
        at = (
            {"rate": chosen.rate, "rate_at_edge": chosen.at_edge}
            if chosen_or_given
            else {}
        )
        named = {"name": variant.name, **at, **blank, **known, "reason": reason}
        results.rows.append({**named, **row})
        if curve is not None:
            results.curves.append(curve)
    if distributed.is_first():
        comparison.complete(results)
        comparison.compare(results.rows)
    return results


def _run(
    comparison: Comparison, variant: Variant, values: flags.FlagValues, chosen: Rated
) -> tuple[Json, Any]:
    if chosen.tried and chosen.rate is None:
        raise RunFailed(f"it failed with every rate: {chosen.tried[0]['reason']}")
    return comparison.run(variant, values)


def run_of(name: str, workdir: str | Path) -> Run:
    """The evaluations of a variant's run, as a curve for figures."""
    return Run(name, read_rows(Path(workdir)))
