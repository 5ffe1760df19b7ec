"""Names of points in a figure, beside the points."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedjax_comp.report.margin import INK, CurveEnd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]

_NAME_SIZE = 10
_GAP = 8.0
"""From a point to its name, in pixels of the figure."""
_AWAY = 11.0
"""From a point to the name of another, at least."""
_TOUCHING = 8.0
_STEP, _STEPS = 7.0, 20
"""Points nearer to each other are not told apart by the eye."""


def write_names_at_points(axes: "Axes", ends: Sequence[CurveEnd]) -> None:
    """Writes each name beside its point, without overlap; one that finds no place near
    it is led to by a thin line. Points that touch have one list of names, the highest
    first.

    Args:
      axes: where the points are drawn, their limits already set.
      ends: one a point.
    """
    axes.autoscale_view()
    places = [tuple(axes.transData.transform(end.point)) for end in ends]
    lists = touching(places)
    points = [
        (max(places[i][0] for i in one), sum(places[i][1] for i in one) / len(one))
        for one in lists
    ]
    texts = [
        axes.text(
            *ends[one[0]].point,
            "\n".join(ends[i].name for i in one),
            fontsize=_NAME_SIZE,
            color=INK,
            parse_math=False,
        )
        for one in lists
    ]
    boxes = [text.get_window_extent() for text in texts]
    area = axes.get_window_extent()
    corners = place_names(
        points,
        [(box.width, box.height) for box in boxes],
        # The figure grows with what is right of the axes.
        within=(area.x0, area.y0, area.x1 + max(b.width for b in boxes), area.y1),
    )
    to_data = axes.transData.inverted()
    for text, box, point, (left, low) in zip(
        texts, boxes, points, corners, strict=True
    ):
        # A text's position is not its box's corner, but moves as that does.
        start = axes.transData.transform(text.get_position())
        x, y = to_data.transform((left + start[0] - box.x0, low + start[1] - box.y0))
        text.set_position((float(x), float(y)))
        near = (
            min(max(point[0], left), left + box.width),
            min(max(point[1], low), low + box.height),
        )
        if max(abs(near[0] - point[0]), abs(near[1] - point[1])) > 2 * _GAP:
            line = to_data.transform([point, near])
            axes.plot(line[:, 0], line[:, 1], color="#999999", linewidth=0.7, zorder=1)


def touching(points: Sequence[Point]) -> list[list[int]]:
    """Sets of points that touch one another, each from its highest point down.

    >>> touching([(0, 0), (50, 0), (0, 6), (0, 12)])
    [[3, 2, 0], [1]]
    """
    sets: list[list[int]] = []
    for index, point in enumerate(points):
        near = [
            one
            for one in sets
            if any(math.dist(points[i], point) < _TOUCHING for i in one)
        ]
        merged = [*itertools.chain(*near), index]
        kept = [one for one in sets if one not in near]
        first = sets.index(near[0]) if near else len(sets)
        sets = [*kept[:first], merged, *kept[first:]]
    return [sorted(one, key=lambda i: -points[i][1]) for one in sets]


def place_names(
    points: Sequence[Point],
    sizes: Sequence[Point],
    *,
    within: tuple[float, float, float, float],
) -> list[Point]:
    """Places boxes beside points, the nearest free place of each in turn.

    Args:
      points: where each belongs.
      sizes: width and height of each.
      within: left, low, right and high end of where they may be.

    Returns:
      Their lower left corners. A box that finds no free place stands right of its
      point, over others.

    >>> place_names([(0.0, 0.0)], [(20.0, 10.0)], within=(-50, -50, 50, 50))
    [(8.0, -5.0)]
    """
    own = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    others = [(x - _AWAY, y - _AWAY, x + _AWAY, y + _AWAY) for x, y in points]
    taken: list[tuple[float, float, float, float]] = []
    corners = list(points)
    # What is large finds its place last, so it chooses first.
    for index in sorted(range(len(points)), key=lambda i: -sizes[i][1]):
        (x, y), (width, height) = points[index], sizes[index]
        dots = [own[i] if i == index else box for i, box in enumerate(others)]
        tried = [
            (left, y - height / 2 + rise * _STEP)
            for rise in range(-_STEPS, _STEPS + 1)
            for far in range(8)
            for left in (
                x + _GAP + far * 2 * _STEP,
                x - _GAP - width - far * 2 * _STEP,
                *([x - width / 2] if abs(rise) * _STEP >= height / 2 + _GAP else []),
            )
        ]
        tried.sort(key=lambda corner: _distance(x, y, corner, width, height))
        for left, low in tried:
            box = (left, low, left + width, low + height)
            inside = (
                box[0] >= within[0]
                and box[1] >= within[1]
                and box[2] <= within[2]
                and box[3] <= within[3]
            )
            if inside and not any(_overlap(box, other) for other in (*taken, *dots)):
                break
        else:
            left, low = tried[0]
        taken.append((left, low, left + width, low + height))
        corners[index] = (left, low)
    return corners


def _distance(x: float, y: float, corner: Point, width: float, height: float) -> float:
    left, low = corner
    across = max(left - x, x - left - width, 0.0)
    up = max(low - y, y - low - height, 0.0)
    # Level with its point and right of it, a name is read most easily.
    return across + 1.5 * up + 0.2 * abs(low + height / 2 - y) + (left < x)


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return (one[0] < other[2] and other[0] < one[2] and one[1] < other[3]) and other[
        1
    ] < one[3]
