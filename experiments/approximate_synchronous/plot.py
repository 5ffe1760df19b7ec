"""Figures: accuracy against time on the WAN and against bytes, for each partition."""

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
    figures = []
    for number, partition in enumerate(dict.fromkeys(c.partition for c in curves)):
        runs = [Run(c.name, c.rows) for c in curves if c.partition == partition]
        by_time = line_figure(
            runs,
            x="wan_seconds",
            y="test_accuracy",
            xlabel="Simulated time on the WAN (seconds, logarithmic)",
            ylabel="Test accuracy of the first centre",
            path=folder / f"accuracy_against_wan_seconds_{number}.png",
            log_x=True,
        )
        by_bytes = line_figure(
            runs,
            x="link_bytes",
            y="test_accuracy",
            xlabel="Data sent between centres (bytes, logarithmic)",
            ylabel="Test accuracy of the first centre",
            path=folder / f"accuracy_against_bytes_{number}.png",
            log_x=True,
            x_format=format_bytes,
        )
        figures += [
            Figure(f"Test accuracy against time on the WAN, {partition}", by_time),
            Figure(f"Test accuracy against bytes, {partition}", by_bytes),
        ]
    return figures
