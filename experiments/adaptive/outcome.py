"""The cost of each method to the target, and the claims about them, for one seed.

Means and deviations over seeds, and whether a claim is beyond their noise, are computed
in `fedjax_comp.experiment.seeds`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from experiments.adaptive.methods import EVERYONE, FIXED, OURS, OVER_SELECTED
from fedjax_comp.experiment.conditions import accuracy_against_time
from fedjax_comp.experiment.fairness import AT_TARGET, FAIRNESS
from fedjax_comp.experiment.outcome import claim, failure_claims, ratio
from fedjax_comp.report import Figure, Run
from fedjax_comp.run_directory import Json

COLUMNS = (
    "condition",
    "method",
    "reached",
    "simulated_seconds_to_target_ratio",
    "uplink_share",
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
"""Of `table.csv`. `reached` is 1 where the target was, so that its mean over seeds is
the share of these; `simulated_seconds_to_target_ratio` is the time of the best fixed
setting for all of the same condition over one's own; `uplink_share` is of the bytes to
the target."""

SOONER = 1.5
NOT_SLOWER = 0.95


def told(row: Json) -> Json:
    """A run's row with what of it is told beside: `reached` and `uplink_share`."""
    up, total = row["uplink_bytes_to_target"], row["total_bytes_to_target"]
    return {
        **{name: row[name] for name in COLUMNS if name in row},
        "reached": int(row["rounds_to_target"] is not None),
        "uplink_share": up / total if total else None,
    }


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
    """Ours, and the soonest that lets everyone speak, against the best fixed setting.

    What differs between seeds, which setting was the best, stands in brackets.
    """
    made: list[Json] = []
    for own in _by_condition(rows):
        condition = own[0]["condition"]
        target = NOT_SLOWER if condition.startswith("constant") else SOONER
        held = [
            (one["method"], target, one, {"at_least": True})
            for one in own
            if one["method"] in OURS
        ]
        spoken = soonest_of(own, EVERYONE)
        if spoken is not None:
            # Where all are given the shortest message it is a fixed setting: a tie.
            name = f"the soonest of everyone ({spoken['method']})"
            held.append((name, 1.0, spoken, {"above": True}))
        for among in ("for all", "over-selection among them"):
            over_selected = among != "for all"
            if over_selected and not _are_any(own, OVER_SELECTED):
                continue
            best = best_fixed(own, over_selected=over_selected)
            if best is None:
                continue
            for name, least, one, bound in held:
                made += claim(
                    f"{condition}: {name} sooner than the best fixed setting, {among} "
                    f"({best['method']})",
                    least,
                    ratio(_seconds(best), _seconds(one)),
                    **bound,
                )
    return made


def _are_any(rows: Sequence[Json], methods: Sequence[str]) -> bool:
    return any(one["method"] in methods for one in rows)


def soonest(row: Json) -> tuple[str, float]:
    """What the terminal's table is sorted by."""
    seconds = _seconds(row)
    return row["condition"], math.inf if seconds is None else seconds


def draw_figures(
    rows: Sequence[Json], curves: Sequence[Run], folder: Path
) -> list[Figure]:
    """One figure a condition: the best fixed setting, and all that are not fixed.

    Args:
      rows: of all methods and conditions.
      curves: of those that did not fail, named `CONDITION/METHOD`.
      folder: where to write.
    """
    made = []
    for own in _by_condition(rows):
        condition, best = own[0]["condition"], best_fixed(own)
        runs = {one["method"]: _of(curves, one["name"]) for one in own}
        shown = [
            _timed(run._replace(name=method))
            for method, run in runs.items()
            if run is not None
            and (method not in FIXED or (best and method == best["method"]))
        ]
        if shown:
            shown.sort(key=lambda run: run.name not in OURS)
            path = accuracy_against_time(shown, folder / f"{condition}.png", log_x=True)
            made.append(Figure(f"Test accuracy against time, {condition}", path))
    return made


def _of(curves: Sequence[Run], name: str) -> Run | None:
    return next((run for run in curves if run.name == name), None)


def _timed(run: Run) -> Run:
    """Without what was evaluated at time 0, which a logarithmic axis does not have."""
    keep = [i for i, row in enumerate(run.rows) if row.get("simulated_seconds")]
    return run._replace(
        rows=[run.rows[i] for i in keep],
        spread=[run.spread[i] for i in keep] if run.spread else run.spread,
    )
