"""A learning rate of its own for every variant, chosen on examples held out.

    --client_optimizer='sgd(rate)' --rate_grid=0.03,0.1,0.3

Every variant is run once with each rate of the grid, with a seed that is not among
those recorded, for as many rounds, and evaluated on what `Tuning.settings` hold out. It
is then recorded with its best rate: on the test set, in every seed. One whose rate is
known (`fedjax_comp.experiment.known_rates`) tries none.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from absl import flags

from fedjax_comp import distributed
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import says_rate, with_rate
from fedjax_comp.experiment.flags import as_dict
from fedjax_comp.experiment.known_rates import (
    check_known_rates,
    define_known_rates,
    known_rates,
    parse_rate,
)
from fedjax_comp.experiment.pipelines import Variant, attempt
from fedjax_comp.keys import MAX_SEED
from fedjax_comp.run_directory import Json

TUNING_SEED = 1000
"""Rates are chosen with `--seed` and this many more."""

COLUMNS = (
    "name",
    "rate",
    "cost",
    "rounds_to_target",
    "best_test_accuracy",
    "chosen",
    "reason",
)
"""Of the table of rates that were tried."""


def score(row: Json, least: str = "rounds_to_target") -> tuple[float, float]:
    """The least of a column where the row has one, then the best accuracy.

    >>> score({"rounds_to_target": 9, "best_test_accuracy": 0.9})
    (-9, 0.9)
    """
    cost, best = row.get(least), row.get("best_test_accuracy")
    return (
        -math.inf if cost is None or math.isnan(cost) else -cost,
        -math.inf if best is None or math.isnan(best) else best,
    )


class Tuning(NamedTuple):
    """How an experiment's rates are chosen.

    Attributes:
      flags: those whose expressions may say `rate`.
      settings: flags of the runs by which a rate is chosen, such as the share of the
        training examples that is held out to evaluate on.
      least: the column of which a rate has to have the least; where none has any, the
        best accuracy decides. The table of rates has it as `cost`.
    """

    flags: tuple[str, ...]
    settings: Mapping[str, object]
    least: str = "rounds_to_target"


class Rated(NamedTuple):
    """A variant and the rate it is recorded with.

    Attributes:
      name: the variant's.
      rate: None where it has a rate of its own, and where it failed with every rate.
      tried: a row for each rate of the grid; none where its rate was known.
    """

    name: str
    rate: float | None
    tried: Sequence[Json]

    @property
    def says_rate(self) -> bool:
        """Whether a rate was to be chosen, or given, for it."""
        return bool(self.tried) or self.rate is not None

    @property
    def at_edge(self) -> bool | None:
        """Whether a wider grid might hold a better rate; None where none was tried."""
        rates = [row["rate"] for row in self.tried]
        return self.rate in (min(rates), max(rates)) if rates else None


class Experiment(Protocol):
    """What is asked of a `fedjax_comp.experiment.comparison.Comparison`."""

    @property
    def tuning(self) -> Tuning | None:
        """How its rates are chosen."""
        ...

    @property
    def variants(self) -> Callable[[flags.FlagValues], Sequence[Variant]]:
        """`(values) -> variants`."""
        ...

    @property
    def run(self) -> Callable[[Any, flags.FlagValues], tuple[Json, Any]]:
        """`(variant, values) -> (row, curve)`."""
        ...

    @property
    def repeated(self) -> tuple[str, ...]:
        """Flags that list variants and are not of one of them."""
        ...

    def all_flags(self) -> flags.FlagValues:
        """The command's flags, not yet parsed."""
        ...


def define_rates(values: flags.FlagValues, tuning: Tuning | None) -> None:
    """Defines `--rate_grid` and `--rate_of` where rates can be chosen."""
    if tuning is None or "rate_grid" in values:
        return
    told = " or ".join(f"--{name}" for name in tuning.flags)
    # None and not empty, so that directories from before this flag can be resumed.
    flags.DEFINE_list(
        "rate_grid",
        None,
        f"Rates that every variant is tried with, on examples held out; {told} says "
        "where the best of them stands, e.g. sgd(rate). Empty: none.",
        flag_values=values,
    )
    define_known_rates(values, told)


def check_rates(
    values: flags.FlagValues, tuning: Tuning, known: Mapping[str, float]
) -> tuple[float, ...]:
    """The rates of `--rate_grid`, ascending; none without it.

    Args:
      values: the command's flags.
      tuning: where rates may stand.
      known: as `known_rates`.

    Raises:
      UsageError: for what is no grid, and for a rate without a place for it or the
        other way round.
    """
    told = ", ".join(f"--{name}" for name in tuning.flags)
    saying = [name for name in tuning.flags if says_rate(values[name].value)]
    if saying and not values.rate_grid and not known:
        raise UsageError(
            f"--{saying[0]} says rate, which is chosen from --rate_grid: give "
            "that, e.g. --rate_grid=0.03,0.1,0.3, or a number for rate."
        )
    if not saying and (values.rate_grid or known):
        given = "rate_grid" if values.rate_grid else "rate_of"
        raise UsageError(f"--{given}: none of {told} says rate, as in sgd(rate).")
    if not values.rate_grid:
        return ()
    rates = sorted({parse_rate("rate_grid", text) for text in values.rate_grid})
    if len(rates) < 2:
        raise UsageError(
            f"--rate_grid={','.join(values.rate_grid)} leaves no choice: give two "
            "rates or more."
        )
    if values.seed + TUNING_SEED > MAX_SEED:
        raise UsageError(
            f"--seed={values.seed}: rates are chosen with seed + {TUNING_SEED}, which "
            f"is beyond {MAX_SEED}."
        )
    if distributed.count() > 1:
        raise UsageError(
            "--rate_grid: rates are chosen by one process; leave --num_processes out."
        )
    return tuple(rates)


class Grid(NamedTuple):
    """The rates of a command, and its flags with and without one of them.

    Attributes:
      rates: ascending; none without `--rate_grid`.
      values: the command's flags.
      lead: the same with the first rate in the expressions: what they all share.
      tuning: how to choose.
      known: the rates that need not be chosen, by the names of variants.
      tried: the flags of the runs by which is chosen, for each rate.
      variants: the command's variants at each rate.
    """

    rates: tuple[float, ...]
    values: flags.FlagValues
    lead: flags.FlagValues
    tuning: Tuning
    known: Mapping[str, float] = MappingProxyType({})
    tried: Sequence[flags.FlagValues] = ()
    variants: Sequence[Sequence[Variant]] = ()


def make_grid(experiment: Experiment, values: flags.FlagValues) -> Grid:
    """The grid of a command, before anything is written.

    Raises:
      UsageError: as `check_rates` and `check_known_rates`, and for what a run that
        chooses cannot do.
    """
    tuning = experiment.tuning or Tuning((), {})
    if not tuning.flags:
        return Grid((), values, values, tuning)
    known = known_rates(values)
    rates = check_rates(values, tuning, known)
    if not rates and not known:
        return Grid((), values, values, tuning)
    # Two rates at least, so that a variant that says none of them is told apart.
    first = rates[0] if rates else next(iter(known.values()))
    lead = _with_rate(experiment, values, tuning, first)
    grid = Grid(rates or (first, 2 * first), values, lead, tuning, known)
    quiet = {"audit_every": 0, "audit_log": None, "audit_key": None, "run_id": None}
    each = []
    for rate in grid.rates:
        own = at_rate(experiment, grid, rate, Path(grid.values.workdir) / "tuning")
        if rates:
            own["seed"].value = grid.values.seed + TUNING_SEED
            for name, value in {**quiet, **grid.tuning.settings}.items():
                if name in own:
                    own[name].value = value
        each.append(own)
    of_rates = [experiment.variants(own) for own in each]
    grid = grid._replace(tried=each, variants=of_rates)
    rated = [
        ones[0].name
        for ones in zip(*of_rates, strict=True)
        if _says_rate(grid, ones, experiment.repeated)
    ]
    names = [one.name for one in of_rates[0]]
    check_known_rates(known, names, rated, has_grid=bool(rates))
    return grid if rates else grid._replace(rates=())


def at_rate(
    experiment: Experiment, grid: Grid, rate: float | None, folder: str | Path
) -> flags.FlagValues:
    """The command's flags at a rate, whose runs lie in `folder/rate-R`.

    Those without a rate to be chosen are the command's own.
    """
    if rate is None:
        return grid.lead
    own = _with_rate(experiment, grid.values, grid.tuning, rate)
    own["workdir"].value = str(Path(folder) / f"rate-{rate:g}")
    return own


def _with_rate(
    experiment: Experiment, values: flags.FlagValues, tuning: Tuning, rate: float
) -> flags.FlagValues:
    own = experiment.all_flags()
    own([""])
    for name, value in as_dict(values).items():
        given = with_rate(value, rate) if name in tuning.flags else value
        own[name].value = given
    return own


def choose_rates(
    experiment: Experiment, grid: Grid, variants: Sequence[Variant]
) -> list[Rated]:
    """Runs every variant with every rate, where it has not been, and takes the best.

    Args:
      experiment: how one is run.
      grid: the rates.
      variants: of the command.

    Returns:
      One for each variant, in order. Runs lie in `--workdir/tuning/rate-R/VARIANT`.
    """
    if not grid.variants:
        return [Rated(one.name, None, ()) for one in variants]
    rated = [
        _choose(experiment, grid, ones) for ones in zip(*grid.variants, strict=True)
    ]
    _print_rates(grid.tuning, rated)
    return rated


def _says_rate(grid: Grid, ones: Sequence[Variant], repeated: Sequence[str]) -> bool:
    """Whether the runs of a variant differ, given it at each of the grid's rates."""
    first, *others = [
        _described(own, one, repeated)
        for own, one in zip(grid.tried, ones, strict=True)
    ]
    return any(other != first for other in others)


def _choose(experiment: Experiment, grid: Grid, ones: Sequence[Variant]) -> Rated:
    """The best rate of one variant, given it at each of the grid's rates."""
    name = ones[0].name
    if name in grid.known:
        return Rated(name, grid.known[name], ())
    if not _says_rate(grid, ones, experiment.repeated):
        return Rated(name, None, ())
    tried = []
    for rate, own, one in zip(grid.rates, grid.tried, ones, strict=True):
        print(f"{name}: rate {rate:g}", flush=True)
        done, reason = attempt(name, functools.partial(experiment.run, one, own))
        row = done[0] if done else {}
        tried.append({"rate": rate, **row, "reason": row.get("reason") or reason})
    ran = [row for row in tried if not row["reason"]]
    key = functools.partial(score, least=grid.tuning.least)
    best = max(ran, key=key, default=None)
    return Rated(name, None if best is None else best["rate"], tried)


def _described(
    values: flags.FlagValues, variant: Variant, repeated: Sequence[str]
) -> Json:
    """What a variant's run is, wherever it lies."""
    settings = {**as_dict(values), **variant._asdict()}
    return {
        name: value
        for name, value in settings.items()
        if name not in (*repeated, "workdir")
    }


def rate_rows(tuning: Tuning | None, rated: Sequence[Rated]) -> list[Json]:
    """The table of all rates that were tried."""
    least = "" if tuning is None else tuning.least
    return [
        {
            "name": one.name,
            "rate": row["rate"],
            "cost": row.get(least),
            "rounds_to_target": row.get("rounds_to_target"),
            "best_test_accuracy": row.get("best_test_accuracy"),
            "chosen": row["rate"] == one.rate,
            "reason": row["reason"],
        }
        for one in rated
        for row in one.tried
    ]


def _print_rates(tuning: Tuning, rated: Sequence[Rated]) -> None:
    """What was chosen from what, a line for each variant."""
    for one in rated:
        if not one.tried:
            own = "has a rate of its own" if one.rate is None else f"rate {one.rate:g}"
            print(f"{one.name}: {own}", flush=True)
            continue
        told = "; ".join(f"{row['rate']:g}: {_told(tuning, row)}" for row in one.tried)
        edge = "; at the edge of the grid, a wider one may do better" * bool(
            one.at_edge
        )
        chosen = "none ran" if one.rate is None else f"{one.rate:g}"
        print(f"{one.name}: rate {chosen} ({told}){edge}", flush=True)


def _told(tuning: Tuning, row: Json) -> str:
    """Rounds to the target and the cost; the best accuracy where there are none."""
    if row["reason"]:
        return "failed"
    rounds, cost = row.get("rounds_to_target"), row.get(tuning.least)
    known = [] if rounds is None else [f"{rounds} rounds"]
    if cost is not None and tuning.least != "rounds_to_target":
        known.append(f"{cost:.4g}")
    best = row.get("best_test_accuracy")
    return ", ".join(known) or ("nothing" if best is None else f"{best:.2%} at best")
