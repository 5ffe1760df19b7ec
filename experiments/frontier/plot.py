"""Figures of the frontier: bytes to the target against rounds, and the curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.frontier.pareto import pareto_front
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json

INCHES_A_NAME = 0.3


def size_for(count: int) -> tuple[float, float]:
    """Inches of a figure with so many names beside it."""
    return (7.2, max(4.4, INCHES_A_NAME * (count + 1)))


def bytes_against_rounds(
    outcomes: Sequence[Json], column: str, words: str, folder: Path
) -> Figure | None:
    """One point a pipeline that reached the target, with the Pareto front.

    Args:
      outcomes: the rows of the frontier's table.
      column: `uplink_bytes_to_target` or `total_bytes_to_target`.
      words: what the column counts.
      folder: where to write the figure.

    Returns:
      The figure; None when no pipeline reached the target.
    """
    reached = [one for one in outcomes if one[column] is not None]
    if not reached:
        return None
    path = line_figure(
        [Run(one["name"], [one]) for one in reached],
        x=column,
        y="rounds_to_target",
        xlabel=f"Data to the target, {words} (bytes, logarithmic)",
        ylabel="Rounds to the target",
        path=folder / f"{column}.png",
        log_x=True,
        x_format=format_bytes,
        reference=Run(
            "Pareto front", pareto_front(reached, (column, "rounds_to_target"))
        ),
        size_inches=size_for(len(reached) + 1),
    )
    return Figure(f"Rounds against bytes to the target, {words}", path)


def curves(runs: Sequence[Run], columns: Sequence[str], path: Path) -> Figure:
    """Test accuracy against bytes sent so far, all pipelines."""

    def total(row: Mapping[str, Any]) -> int:
        return sum(row[column] for column in columns)

    words = " + ".join(column.removesuffix("_bytes") for column in columns)
    line_figure(
        runs,
        x=total,
        y="test_accuracy",
        xlabel=f"Data sent so far, {words} (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=path,
        log_x=True,
        x_format=format_bytes,
        size_inches=size_for(len(runs)),
    )
    return Figure(f"Test accuracy against bytes sent, {words}", path)
