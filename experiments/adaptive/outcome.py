"""What each method cost to the target, and what the methods are held to."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.adaptive.methods import EVERYONE, FIXED, OURS, OVER_SELECTED
from fedjax_comp.experiment.conditions import accuracy_against_time
from fedjax_comp.experiment.fairness import AT_TARGET, FAIRNESS
from fedjax_comp.experiment.outcome import claim, failure_claims, ratio
from fedjax_comp.report import Figure, Run
from fedjax_comp.run_directory import Json

MEANS = (
    "rounds_to_target",
    "simulated_seconds_to_target",
    "uplink_bytes_to_target",
    "downlink_bytes_to_target",
    "total_bytes_to_target",
    "joules_to_target",
    "test_accuracy",
    "best_test_accuracy",
    *FAIRNESS,
    *AT_TARGET,
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "simulated_seconds",
    "joules",
)
COLUMNS = (
    "condition",
    "method",
    "seeds",
    "reached",
    "simulated_seconds_to_target_ratio",
    "uplink_share",
    *MEANS,
)
"""Of `table.csv`: means over seeds, of which the share `reached` came to the target.
`simulated_seconds_to_target_ratio` is the time of the best fixed setting for all of the
same condition over one's own; `uplink_share` that of the bytes to the target."""

SOONER = 1.5
NOT_SLOWER = 0.95


class Curve(NamedTuple):
    """The evaluations of a method's first seed."""

    condition: str
    run: Run


def mean_row(seeds: Sequence[Json]) -> Json:
    """The mean over seeds; a figure is None when one of them has none.

    So a cost to the target is None unless every seed has reached it.

    Args:
      seeds: the row of each seed's own run.
    """
    reached = [one["rounds_to_target"] is not None for one in seeds]
    row: Json = {"seeds": len(seeds), "reached": float(np.mean(reached))}
    for name in MEANS:
        each = [one[name] for one in seeds]
        row[name] = None if None in each else float(np.mean(each))
    up, total = row["uplink_bytes_to_target"], row["total_bytes_to_target"]
    row["uplink_share"] = up / total if total else None
    return row


def compare(rows: Sequence[Json]) -> None:
    """Adds to each row how much sooner it was than its condition's best fixed one."""
    for own in _by_condition(rows):
        best = best_fixed(own)
        for one in own:
            one["simulated_seconds_to_target_ratio"] = ratio(
                _seconds(best), _seconds(one)
            )


def _by_condition(rows: Sequence[Json]) -> list[list[Json]]:
    conditions = dict.fromkeys(one["condition"] for one in rows)
    return [[one for one in rows if one["condition"] == name] for name in conditions]


def _seconds(row: Json | None) -> float | None:
    return None if row is None else row["simulated_seconds_to_target"]


def best_fixed(rows: Sequence[Json], *, over_selected: bool = False) -> Json | None:
    """The fixed setting that reached the target first, chosen in hindsight.

    Args:
      rows: of one condition.
      over_selected: whether settings that do not wait for all clients count, too.
    """
    waiting = [n for n in FIXED if n not in OVER_SELECTED]
    return soonest_of(rows, FIXED if over_selected else waiting)


def soonest_of(rows: Sequence[Json], methods: Sequence[str]) -> Json | None:
    """The first of some methods at the target; None when none of them came to it."""
    reached = [
        one for one in rows if one["method"] in methods and _seconds(one) is not None
    ]
    return min(
        reached, key=lambda one: one["simulated_seconds_to_target"], default=None
    )


def claims_of(rows: Sequence[Json], *, quick: bool) -> list[Json]:
    """That nothing failed; and unless quick, `against_fixed`: two methods and three
    messages on a model this small cannot show adaptation."""
    failures = failure_claims("method", rows)
    return failures if quick else [*failures, *against_fixed(rows)]


def against_fixed(rows: Sequence[Json]) -> list[Json]:
    """Ours against the best fixed setting of each condition."""
    made: list[Json] = []
    for own in _by_condition(rows):
        condition = own[0]["condition"]
        spoken = soonest_of(own, EVERYONE)
        target = NOT_SLOWER if condition.startswith("constant") else SOONER
        for over_selected in (False, True):
            best = best_fixed(own, over_selected=over_selected)
            if best is None or (over_selected and best["method"] not in OVER_SELECTED):
                continue
            against = "over-selection, too" if over_selected else "settings for all"
            for one in own:
                if one["method"] in OURS or one is spoken:
                    made += claim(
                        f"{condition}: {one['method']} sooner than the best fixed "
                        f"({best['method']}; {against})",
                        target if one["method"] in OURS else 1.0,
                        ratio(_seconds(best), _seconds(one)),
                        at_least=True,
                    )
    return made


def soonest(row: Json) -> tuple[str, float]:
    """What the terminal's table is sorted by."""
    seconds = _seconds(row)
    return row["condition"], math.inf if seconds is None else seconds


def draw_figures(
    rows: Sequence[Json], curves: Sequence[Curve], folder: Path
) -> list[Figure]:
    """One figure a condition: the best fixed setting, and all that are not fixed.

    Args:
      rows: of all methods and conditions.
      curves: of those that did not fail.
      folder: where to write.
    """
    made = []
    for own in _by_condition(rows):
        condition, best = own[0]["condition"], best_fixed(own)
        runs = [curve.run for curve in curves if curve.condition == condition]
        names = {run.name for run in runs if run.name not in FIXED}
        if best is not None:
            names.add(best["method"])
        shown = [
            Run(run.name, [row for row in run.rows if row.get("simulated_seconds")])
            for run in sorted(runs, key=lambda run: run.name not in OURS)
            if run.name in names
        ]
        if shown:
            path = accuracy_against_time(shown, folder / f"{condition}.png", log_x=True)
            made.append(Figure(f"Test accuracy against time, {condition}", path))
    return made
