"""Means over seeds of what runs measured, and standard deviations."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from fedjax_comp.report.rows import Row, Run
from fedjax_comp.run_directory import Json

Number = int | float


def is_number(value: object) -> TypeGuard[Number]:
    """Whether a value is a number; `bool`, which Python counts among them, is not."""
    return isinstance(value, Number) and not isinstance(value, bool)


def _mean(values: Sequence[Number]) -> Number:
    mean = statistics.fmean(values)
    return int(mean) if mean.is_integer() and abs(mean) < 2**53 else _short(mean)


def _short(value: float) -> float:
    """Six digits, as tables have them."""
    return float(f"{value:.6g}")


def mean_row(rows: Sequence[Mapping[str, object]]) -> Json:
    """Means of a variant's rows, and `<column>_sd`, their standard deviations.

    What is not known of every seed, or not finite, is not known of all: a cost to a
    target that one of them did not reach has no mean.

    Args:
      rows: one a seed.

    >>> row = mean_row([{"name": "a", "mb": 3, "is": True}, {"name": "a", "mb": 4}])
    >>> row["name"], row["mb"], round(row["mb_sd"], 3), row["is"]
    ('a', 3.5, 0.707, None)
    >>> mean_row([{"rounds": 9}, {"rounds": None}])["rounds"] is None
    True
    """
    found: Json = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        each = [row.get(name) for row in rows]
        numbers = [x for x in each if is_number(x) and math.isfinite(x)]
        if len(numbers) == len(each):
            found[name] = _mean(numbers)
            if len(numbers) > 1:
                found[f"{name}_sd"] = _short(statistics.stdev(numbers))
        elif any(is_number(x) for x in each):
            found[name] = None
        else:
            found[name] = each[0] if all(x == each[0] for x in each) else None
    return found


def mean_curves(each: Sequence[Sequence[Run]]) -> list[Run]:
    """The means of curves of one name, round by round, with their spread.

    Args:
      each: the curves of each seed; some may lack one. A mean has the rounds that all
        of its curves have; rows without a `round` are joined by their places.

    >>> a, b = ([Run("a", [{"round": 1, "loss": x}])] for x in (1.0, 3.0))
    >>> mean_curves([a, b])[0].rows, mean_curves([a, b])[0].spread[0]["round"]
    ([{'round': 1, 'loss': 2}], 0.0)
    """
    curves = []
    for name in dict.fromkeys(run.name for runs in each for run in runs):
        runs = [run for of_seed in each for run in of_seed if run.name == name]
        means = [mean_row(rows) for rows in _aligned(runs)]
        curves.append(
            Run(
                name,
                [
                    {k: x for k, x in mean.items() if not k.endswith("_sd")}
                    for mean in means
                ],
                [
                    {k[:-3]: x for k, x in mean.items() if k.endswith("_sd")}
                    for mean in means
                ],
            )
        )
    return curves


def _aligned(runs: Sequence[Run]) -> list[list[Row]]:
    """The rows of one evaluation in each of the runs, for those that all have."""
    places = [{_place(i, row): row for i, row in enumerate(run.rows)} for run in runs]
    return [
        [rows[place] for rows in places]
        for place in places[0]
        if all(place in rows for rows in places)
    ]


def _place(index: int, row: Row) -> tuple[str, Number]:
    found = row.get("round")
    return ("round", found) if is_number(found) else ("row", index)
