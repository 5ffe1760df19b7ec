"""Figures: accuracy against simulated time, and the times to the target."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.adaptive.methods import FIXED, OURS
from experiments.adaptive.outcome import best_fixed
from fedjax_comp.experiment.conditions import accuracy_against_time
from fedjax_comp.report import Figure, Run
from fedjax_comp.run_directory import Json


def draw_figures(
    outcomes: Sequence[Json], curves: Mapping[str, Sequence[Run]], folder: Path
) -> list[Figure]:
    """One figure a condition: the best fixed setting, and all that are not fixed.

    Args:
      outcomes: of all methods and conditions.
      curves: condition to the runs of the first seed.
      folder: where to write.
    """
    made = []
    for condition, runs in curves.items():
        own = [one for one in outcomes if one["condition"] == condition]
        best = best_fixed(own)
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
