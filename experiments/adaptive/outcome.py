"""What each method cost to the target, and what the methods are held to."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.adaptive.methods import FIXED, OURS, OVER_SELECTED
from fedjax_comp.report import format_bytes
from fedjax_comp.run_directory import Json

COSTS = ("seconds_to_target", "bytes_to_target", "joules_to_target")
COLUMNS = (
    "condition",
    "method",
    "reached",
    "rounds_to_target",
    *COSTS,
    "uplink_share",
    "sooner",
    "best_test_accuracy",
)
"""Of `table.csv`. `sooner` is the time of the best fixed setting over one's own;
`uplink_share` that of the bytes."""

SOONER = 1.5
NOT_SLOWER = 0.95


def outcome_of(summary: Json) -> Json:
    """Rounds, time, bytes and energy to the target; infinite when not reached."""
    row = summary["to_target"]
    shared = {"best_test_accuracy": summary["best_test_accuracy"]}
    if row is None:
        return {
            "reached": 0.0,
            "rounds_to_target": math.inf,
            **dict.fromkeys(COSTS, math.inf),
            "uplink_share": math.nan,
            **shared,
        }
    total = row["uplink_bytes"] + row["downlink_bytes"]
    return {
        "reached": 1.0,
        "rounds_to_target": row["round"],
        "seconds_to_target": row["simulated_seconds"],
        "bytes_to_target": total,
        "joules_to_target": row["joules"],
        "uplink_share": row["uplink_bytes"] / max(1, total),
        **shared,
    }


def mean_outcome(condition: str, method: str, seeds: Sequence[Json]) -> Json:
    """The mean over seeds; costs are None when one of them did not reach the target."""
    made: Json = {"condition": condition, "method": method}
    for name in seeds[0]:
        value = float(np.mean([seed[name] for seed in seeds]))
        made[name] = value if math.isfinite(value) else None
    return made


def add_comparisons(outcomes: Sequence[Json]) -> None:
    """Adds `sooner` to the outcomes of one condition."""
    best = best_fixed(outcomes)
    for one in outcomes:
        own = one["seconds_to_target"]
        known = best is not None and own is not None
        one["sooner"] = best["seconds_to_target"] / own if known and best else None


def best_fixed(outcomes: Sequence[Json], *, over_selected: bool = False) -> Json | None:
    """The fixed setting that reached the target first, chosen in hindsight.

    Args:
      outcomes: of one condition.
      over_selected: whether settings that do not wait for all clients count, too.
    """
    names = FIXED if over_selected else [n for n in FIXED if n not in OVER_SELECTED]
    reached = [
        one
        for one in outcomes
        if one["method"] in names and one["seconds_to_target"] is not None
    ]
    return min(reached, key=lambda one: one["seconds_to_target"], default=None)


def adaptive_claims(outcomes: Sequence[Json]) -> list[Json]:
    """Ours against the best fixed setting in hindsight, for each condition."""
    made = []
    for condition in dict.fromkeys(one["condition"] for one in outcomes):
        own = [one for one in outcomes if one["condition"] == condition]
        steady = condition.startswith("constant")
        target = NOT_SLOWER if steady else SOONER
        for over_selected in (False, True):
            best = best_fixed(own, over_selected=over_selected)
            if best is None or (over_selected and best["method"] not in OVER_SELECTED):
                continue
            against = "over-selection, too" if over_selected else "settings for all"
            for one in own:
                if one["method"] not in OURS or one["seconds_to_target"] is None:
                    continue
                ratio = best["seconds_to_target"] / one["seconds_to_target"]
                made.append(
                    {
                        "name": f"{condition}: {one['method']} sooner than the best "
                        f"fixed ({best['method']}; {against})",
                        "target": target,
                        "measured": round(ratio, 3),
                        "holds": ratio >= target,
                    }
                )
    return made


def print_table(outcomes: Sequence[Json]) -> None:
    """The comparison on the terminal, the soonest first."""
    shown = ConsoleTable(title="To the target")
    shown.add_column("network", no_wrap=True)
    shown.add_column("method", no_wrap=True)
    for heading in ("rounds", "seconds", "bytes", "joules", "sooner"):
        shown.add_column(heading, justify="right", no_wrap=True)

    def order(one: Json) -> tuple[str, float]:
        seconds = one["seconds_to_target"]
        return one["condition"], math.inf if seconds is None else seconds

    for one in sorted(outcomes, key=order):
        if one["seconds_to_target"] is None:
            shown.add_row(one["condition"], one["method"], *["-"] * 5)
            continue
        shown.add_row(
            one["condition"],
            one["method"],
            f"{one['rounds_to_target']:.1f}",
            f"{one['seconds_to_target']:.1f}",
            format_bytes(one["bytes_to_target"]),
            f"{one['joules_to_target']:.0f}",
            f"{one['sooner']:.2f}x" if one["sooner"] else "-",
        )
    Console().print(shown)
