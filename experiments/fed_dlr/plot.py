"""Figures of the FedDLR experiment."""

from collections.abc import Sequence
from pathlib import Path

from experiments.frontier.plot import curves, size_for
from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json


def figures(
    runs: Sequence[Run], outcomes: Sequence[Json], folder: Path
) -> list[Figure]:
    """Accuracy against bytes both ways, and of the compact models against their work.

    Args:
      runs: the evaluations of every pipeline that did not fail.
      outcomes: the rows of the table.
      folder: where to write the figures.

    Returns:
      The figures; none when every pipeline failed.
    """
    if not runs:
        return []
    columns = ("uplink_bytes", "downlink_bytes")
    return [
        curves(runs, columns, folder / "accuracy_against_bytes.png"),
        _compact_models([one for one in outcomes if not one["reason"]], folder),
    ]


def _compact_models(outcomes: Sequence[Json], folder: Path) -> Figure:
    path = line_figure(
        [Run(one["pipeline"], [one]) for one in outcomes],
        x="compact_flops",
        y="compact_accuracy",
        xlabel="Floating-point operations an example (logarithmic)",
        ylabel="Test accuracy of the compact model",
        path=folder / "compact_models.png",
        log_x=True,
        size_inches=size_for(len(outcomes)),
    )
    return Figure("The compact model that each run ends with", path)
