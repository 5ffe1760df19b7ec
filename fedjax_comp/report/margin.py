"""Names of curves in a figure's right margin, beside the ends of the curves."""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#333333"
LINE_WIDTH = 1.8
MARKER_SIZE = 5.0
_NAME_SIZE = 10


class CurveEnd(NamedTuple):
    """The end of a curve and the look of it.

    Attributes:
      name: what to write beside it.
      point: its last point, in the units of the axes.
      colour: the curve's colour.
      marker: the curve's marker.
      line: how the curve is drawn, as matplotlib's `linestyle`: "none" for one of a
        single point.
    """

    name: str
    point: tuple[float, float]
    colour: str
    marker: str
    line: str = "-"


def write_names(axes: "Axes", ends: Sequence[CurveEnd]) -> None:
    """Writes each name, behind a piece of its curve, as near to the height of the
    curve's end as it goes without overlap.

    Args:
      axes: where the curves are drawn, their limits already set.
      ends: one a curve.
    """
    if not ends:
        return
    axes.autoscale_view()  # a drawing would set the limits too, and costs more
    height_points = axes.get_window_extent().height / axes.figure.dpi * 72
    line_height = 1.3 * _NAME_SIZE / height_points
    to_axes = axes.transData + axes.transAxes.inverted()
    names = [wrapped(end.name) for end in ends]
    positions = spread(
        [float(to_axes.transform(end.point)[1]) for end in ends],
        [(len(lines) + 0.4) * line_height for lines in names],
    )
    for end, lines, position in zip(ends, names, positions, strict=True):
        axes.plot(
            [1.02, 1.045, 1.07],
            [position] * 3,
            color=end.colour,
            linewidth=LINE_WIDTH,
            linestyle=end.line,
            marker=end.marker,
            markersize=MARKER_SIZE,
            markeredgewidth=0,
            markevery=[1],
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            1.085,
            position,
            "\n".join(lines),
            transform=axes.transAxes,
            va="center",
            fontsize=_NAME_SIZE,
            linespacing=1.15,
            color=INK,
            parse_math=False,
        )


def wrapped(name: str, *, width: int = 32, max_lines: int = 4) -> list[str]:
    """Lines of a name, broken after a space, a comma or an opening bracket: names are
    often the expression of a compressor.

    Args:
      name: any text.
      width: characters a line. A longer piece without a place to break stands alone,
        cut at twice the width.
      max_lines: lines kept; an ellipsis stands for the rest.

    Returns:
      At least one line.

    >>> wrapped("chain(top_k(0.01), qsgd(levels=4))", width=18)
    ['chain(top_k(0.01),', 'qsgd(levels=4))']
    """
    lines = [""]
    for piece in re.findall(r"[^\s,(]*[\s,(]*", " ".join(name.split())):
        if len((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
    lines = [line.strip()[: 2 * width] for line in lines]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1] + " …"]
    return lines


def spread(targets: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Places boxes above each other without overlap, in the order of their targets.

    Each is as near to its target as a pass up and a pass down leave it; the highest
    ends at 1 at most. With too many boxes the lowest ones end below 0.

    Args:
      targets: wanted centres.
      heights: heights of the boxes.

    Returns:
      The centres.

    >>> spread([0.5, 0.5], [0.25, 0.25])
    [0.5, 0.75]
    """
    order = sorted(range(len(targets)), key=lambda i: targets[i])
    centres = list(targets)
    for below, above in itertools.pairwise(order):
        gap = (heights[below] + heights[above]) / 2
        centres[above] = max(centres[above], centres[below] + gap)
    overshoot = centres[order[-1]] + heights[order[-1]] / 2 - 1.0
    if overshoot > 0:
        centres[order[-1]] -= overshoot
    for below, above in reversed(list(itertools.pairwise(order))):
        gap = (heights[below] + heights[above]) / 2
        centres[below] = min(centres[below], centres[above] - gap)
    return centres
