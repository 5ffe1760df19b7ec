"""What a run leaves for people to look at: figures, a page and TensorBoard events.

Everything here runs on the host, reads what lies in run directories and imports neither
JAX nor what trains. What draws with matplotlib is imported when it is asked for: a run
needs it at its end, and many processes never.
"""

import importlib
from typing import TYPE_CHECKING

from fedjax_comp.report.events import write_events
from fedjax_comp.report.html import Claim, Figure, Table, write_report
from fedjax_comp.report.means import Number, mean_curves, mean_row
from fedjax_comp.report.rows import Run
from fedjax_comp.report.units import format_bytes, format_seconds, format_value

if TYPE_CHECKING:
    from fedjax_comp.report.plots import (
        accuracy_against_bytes,
        accuracy_against_rounds,
        line_figure,
    )

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
    "write_events",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("fedjax_comp.report.plots"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
