"""Figures of reports where there is matplotlib, and a notice where there is none.

A run does not need it: rows, tables and claims are the same, and `fedjax_comp.report`
draws curves of any finished run without it. A run says before its first round which
figures will be missing, so that hours of training do not end in an `ImportError`.
"""

from collections.abc import Callable, Sequence

from fedjax_comp.extras import goes_with
from fedjax_comp.report import Figure


def tell_of_missing() -> None:
    """Says once which pictures of a run there will not be; nothing where all are."""
    _is_drawn()
    goes_with("tensorboardX", extra="report", purpose="TensorBoard events")


def drawn(draw: Callable[[], Sequence[Figure | None]]) -> list[Figure]:
    """The figures that `draw` makes; none without matplotlib.

    Args:
      draw: makes figures; None for one that could not be drawn.

    >>> drawn(lambda: [None])
    []
    """
    return [one for one in draw() if one is not None] if _is_drawn() else []


def _is_drawn() -> bool:
    return goes_with("matplotlib", extra="report", purpose="figures")
