"""The figure: test loss against the bytes that one worker has sent and received."""

from collections.abc import Sequence
from pathlib import Path

from fedjax_comp.report import Figure, Run, format_bytes, line_figure

INCHES_A_NAME = 0.3


def loss_against_bytes(runs: Sequence[Run], path: Path) -> Figure:
    """Draws a curve for each pipeline; rows need `worker_bytes` and `test_loss`."""
    line_figure(
        runs,
        x="worker_bytes",
        y="test_loss",
        xlabel="Data of one worker so far, both ways (bytes, logarithmic)",
        ylabel="Test loss (nats a character)",
        path=path,
        log_x=True,
        x_format=format_bytes,
        size_inches=(7.2, max(4.4, INCHES_A_NAME * (len(runs) + 1))),
    )
    return Figure("Test loss against bytes of one worker, both ways", path)
