"""What a run leaves for people to look at: figures, a page and TensorBoard events.

Everything here runs on the host, reads what lies in run directories and imports neither
JAX nor any code that trains. matplotlib is imported only when a figure is drawn: a run
needs it at its end, and many processes never.
"""

from fedjax_comp.report.html import Claim, Figure, Table, write_report
from fedjax_comp.report.means import Number, mean_curves, mean_row
from fedjax_comp.report.plots import (
    accuracy_against_bytes,
    accuracy_against_rounds,
    line_figure,
)
from fedjax_comp.report.rows import Run
from fedjax_comp.report.units import format_bytes, format_seconds, format_value

__all__ = [
    "Claim",
    "Figure",
    "Number",
    "Run",
    "Table",
    "accuracy_against_bytes",
    "accuracy_against_rounds",
    "format_bytes",
    "format_seconds",
    "format_value",
    "line_figure",
    "mean_curves",
    "mean_row",
    "write_report",
]
