"""Figures: accuracy against time on the WAN and against bytes; bytes on each link."""

from collections.abc import Sequence
from pathlib import Path

from experiments.approximate_synchronous.outcome import Curve
from fedjax_comp.report import Figure, Run, format_bytes, line_figure


def draw_figures(curves: Sequence[Curve], folder: Path) -> list[Figure]:
    """Accuracy of the first centre's model.

    Args:
      curves: of the protocols that did not fail.
      folder: where to write.

    Returns:
      The figures for the report; none without curves.
    """
    if not curves:
        return []
    runs = [Run(curve.name, curve.rows) for curve in curves]
    size = (7.2, 5.4)
    by_time = line_figure(
        runs,
        x="wan_seconds",
        y="test_accuracy",
        xlabel="Simulated time on the WAN (seconds, logarithmic)",
        ylabel="Test accuracy of the first centre",
        path=folder / "accuracy_against_wan_seconds.png",
        log_x=True,
        size_inches=size,
    )
    by_bytes = line_figure(
        runs,
        x="total_bytes",
        y="test_accuracy",
        xlabel="Data sent between centres (bytes, logarithmic)",
        ylabel="Test accuracy of the first centre",
        path=folder / "accuracy_against_bytes.png",
        log_x=True,
        x_format=format_bytes,
        size_inches=size,
    )
    return [
        Figure("Test accuracy against time on the WAN", by_time),
        Figure("Test accuracy against bytes between centres", by_bytes),
    ]
