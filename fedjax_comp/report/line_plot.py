"""Curves as SVG in a page: their colours and inks are the page's, light or dark.

A curve's name stands at its end, in its colour (class `cI` of the I-th curve, whose
`color` the page's style sets), and a thin line connects the two. Curves that lie on
each other are drawn in alternating dashes, so that all are seen.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedjax_comp.report.margin import spread, wrapped

Point = tuple[float, float]

_DASH = 7.0
_NEAR = 0.75
"""Curves that are nowhere further apart, in units of the figure, lie on each other."""


class Curve(NamedTuple):
    """A curve to be drawn.

    Attributes:
      name: what stands at its end.
      points: `(x, y)`, in the order of x.
      band: `(low, high)` of y at each point; none where nothing is known of it.
      colour: which of the page's colours it has.
    """

    name: str
    points: Sequence[Point]
    band: Sequence[Point]
    colour: int


class Axis(NamedTuple):
    """What a value's place is made from.

    Attributes:
      low: the value at `start`.
      high: the value at `end`, more than `low`.
      start: a coordinate of the figure.
      end: another one.
      log: whether the place is that of the logarithm.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The coordinate of a value.

        >>> Axis(0.0, 10.0, 100.0, 300.0).place(2.5)
        150.0
        >>> Axis(1.0, 100.0, 0.0, 80.0, log=True).place(10.0)
        40.0
        """
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


class Layout(NamedTuple):
    """Sizes in units of the figure, of which a page shows one as one pixel or less.

    Attributes:
      width: of the whole figure.
      height: of the curves' part, at least; many names need more.
      left: what is left of the curves, for the numbers of the vertical axis.
      right: what is right of them, for names.
      characters: of a line of a name.
      font: size of the letters.
      ticks: about how many numbers stand at the horizontal axis.
    """

    width: float
    height: float
    left: float
    right: float
    characters: int
    font: float
    ticks: int


WIDE = Layout(900, 360, 58, 270, 33, 13.0, 7)
NARROW = Layout(350, 250, 44, 126, 16, 11.5, 3)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within `[low, high]`, evenly spaced.

    >>> ticks(0.0, 1.0, 6)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten within `[low, high]`, with 2 and 5 times these where few are.

    >>> log_ticks(3.0, 250.0, 6)
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**e for e in range(first, last + 1) for f in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            break
    return found[:: max(1, -(-len(found) // most))] or [low]


def coincident(places: Sequence[Sequence[Point]]) -> list[list[int]]:
    """Sets of curves that lie on each other, as indices.

    Args:
      places: the points of each curve, in units of the figure.

    Returns:
      Sets of two or more; curves of different lengths are different.

    >>> coincident([[(0, 0)], [(0, 5)], [(0.1, 0)]])
    [[0, 2]]
    """
    sets: list[list[int]] = []
    for index, points in enumerate(places):
        for members in sets:
            first = places[members[0]]
            pairs = zip(first, points, strict=False)
            if len(first) == len(points) and all(
                math.dist(a, b) < _NEAR for a, b in pairs
            ):
                members.append(index)
                break
        else:
            sets.append([index])
    return [members for members in sets if len(members) > 1]


def line_plot(
    curves: Sequence[Curve],
    *,
    layout: Layout,
    title: str,
    xlabel: str,
    write_x: Callable[[float], str],
    write_y: Callable[[float], str],
    log_x: bool = False,
) -> tuple[str, list[list[int]]]:
    """Draws curves.

    Args:
      curves: at least one, each with a point; x is positive where it is logarithmic.
      layout: sizes.
      title: what is seen, in words, for those who cannot see it.
      xlabel: name and unit of the horizontal axis.
      write_x: how its numbers are written.
      write_y: how those of the vertical axis are.
      log_x: whether the horizontal axis is logarithmic.

    Returns:
      An `<svg>` element; and the sets of curves that lie on each other, as indices.

    Raises:
      ValueError: when there is no point.

    >>> svg, same = line_plot(
    ...     [Curve("dense", [(0.0, 0.0), (10.0, 1.0)], [], 0)],
    ...     layout=Layout(200, 100, 40, 60, 10, 10.0, 3), title="t", xlabel="rounds",
    ...     write_x=str, write_y=str)
    >>> 'points="42.0,108.0 138.0,12.0"' in svg
    True
    """
    if not any(curve.points for curve in curves):
        raise ValueError("Expected curves=[...] to have a point.")
    names = [_lines(curve.name, layout.characters) for curve in curves]
    line = 1.25 * layout.font
    needed = sum((len(lines) + 0.35) * line for lines in names)
    height = max(layout.height, needed)
    top = 10.0
    bottom = top + height
    # Curves stay two units away from the frame.
    x = _axis(
        [point[0] for curve in curves for point in curve.points],
        (layout.left + 2, layout.width - layout.right - 2),
        log_x,
    )
    y = _axis(
        [point[1] for curve in curves for point in curve.points]
        + [end for curve in curves for ends in curve.band for end in ends],
        (bottom - 2, top + 2),
        False,
    )
    places = [[(x.place(a), y.place(b)) for a, b in curve.points] for curve in curves]
    same = coincident(places)
    right = layout.width - layout.right
    parts = [_grid(x, y, layout, bottom, right, write_x, write_y, log_x)]
    for curve in curves:
        parts.append(_band(curve, x, y))
    for index, points in enumerate(places):
        parts.append(_line(curves[index].colour, points, _turn(index, same)))
    centres = spread(
        [1 - (points[-1][1] - top) / height if points else 0.0 for points in places],
        [(len(lines) + 0.35) * line / height for lines in names],
    )
    for curve, points, lines, centre in zip(
        curves, places, names, centres, strict=True
    ):
        middle = top + (1 - centre) * height
        parts.append(_name(curve.colour, points[-1], lines, right, middle, layout))
    middle = (layout.left + right) / 2
    label = bottom + 2.75 * layout.font
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{label:.1f}" text-anchor="middle">'
        f"{html.escape(xlabel)}</text>"
    )
    whole = label + 0.6 * layout.font
    return (
        f'<svg viewBox="0 0 {layout.width:g} {whole:.0f}" role="img" '
        f'font-size="{layout.font:g}" aria-label="{html.escape(title)}">'
        + "".join(parts)
        + "</svg>",
        same,
    )


def _lines(name: str, characters: int) -> list[str]:
    """Lines of a name, none longer than that."""
    return [
        line[start : start + characters]
        for line in wrapped(name, width=characters)
        for start in range(0, max(1, len(line)), characters)
    ]


def _axis(values: Sequence[float], ends: tuple[float, float], log: bool) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        by = max(0.5, abs(low) * 1e-3)  # 0.5 alone is lost in a number beyond 1e16
        low, high = (low / 2, high * 2) if log else (low - by, high + by)
    return Axis(low, high, *ends, log)


def _grid(
    x: Axis,
    y: Axis,
    layout: Layout,
    bottom: float,
    right: float,
    write_x: Callable[[float], str],
    write_y: Callable[[float], str],
    log_x: bool,
) -> str:
    parts = []
    for value in ticks(y.low, y.high, 6):
        up = y.place(value)
        parts.append(
            f'<path class="grid" d="M{layout.left:g} {up:.1f}H{right:g}"/>'
            f'<text class="axis" x="{layout.left - 6:g}" '
            f'y="{up + 0.35 * layout.font:.1f}" text-anchor="end">'
            f"{html.escape(write_y(value))}</text>"
        )
    for value in (log_ticks if log_x else ticks)(x.low, x.high, layout.ticks):
        across = x.place(value)
        parts.append(
            f'<path class="grid" d="M{across:.1f} 10V{bottom:.1f}"/>'
            f'<text class="axis" x="{across:.1f}" y="{bottom + 1.35 * layout.font:.1f}"'
            f' text-anchor="middle">{html.escape(write_x(value))}</text>'
        )
    return "".join(parts)


def _line(colour: int, points: Sequence[Point], turn: tuple[int, int]) -> str:
    position, number = turn
    dashes = (
        ""
        if number == 1
        else f' stroke-dasharray="{_DASH:g} {_DASH * (number - 1):g}"'
        f' stroke-dashoffset="{0 - _DASH * position:g}"'
    )
    return (
        f'<polyline class="line c{colour}" points="{_text(points)}"{dashes}/>'
        f'<circle class="end c{colour}" cx="{points[-1][0]:.1f}" '
        f'cy="{points[-1][1]:.1f}" r="3"/>'
    )


def _turn(index: int, same: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Which dash of how many is a curve's own."""
    for members in same:
        if index in members:
            return members.index(index), len(members)
    return 0, 1


def _band(curve: Curve, x: Axis, y: Axis) -> str:
    if not any(low < high for low, high in curve.band):
        return ""
    across = [x.place(point[0]) for point in curve.points]
    low = [(a, y.place(ends[0])) for a, ends in zip(across, curve.band, strict=True)]
    high = [(a, y.place(ends[1])) for a, ends in zip(across, curve.band, strict=True)]
    outline = _text([*low, *reversed(high)])
    return f'<polygon class="band c{curve.colour}" points="{outline}"/>'


def _name(
    colour: int,
    end: Point,
    lines: Sequence[str],
    right: float,
    middle: float,
    layout: Layout,
) -> str:
    far = " far" if end[0] < right - 20 else ""
    first = middle - (len(lines) - 1) * 0.625 * layout.font + 0.35 * layout.font
    spans = "".join(
        f'<tspan x="{right + 20:g}" y="{first + 1.25 * layout.font * i:.1f}">'
        f"{html.escape(text)}</tspan>"
        for i, text in enumerate(lines)
    )
    return (
        f'<path class="lead{far} c{colour}" d="M{end[0]:.1f} {end[1]:.1f}'
        f'L{right + 6:g} {middle:.1f}H{right + 16:g}"/>'
        f'<text class="name c{colour}">{spans}</text>'
    )


def _text(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
