"""Figures of runs: curves with names beside them, in colours all can tell apart.

The palette is Okabe and Ito's ("Color Universal Design", 2008) without its yellow,
which is too pale for a line; markers tell the curves apart without any colour. Figures
are drawn without pyplot, so nothing stays open and no display is asked for.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedjax_comp.extras import needs
from fedjax_comp.report.margin import (
    INK,
    LINE_WIDTH,
    MARKER_SIZE,
    CurveEnd,
    write_names,
)
from fedjax_comp.report.point_names import write_names_at_points
from fedjax_comp.report.rows import Row, Run
from fedjax_comp.report.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Column = str | Callable[[Row], object]
"""The name of a column, or what to compute from a row."""

_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#882255",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MAX_MARKERS = 12
_SIZE_INCHES = (7.2, 4.4)
_DOTS_PER_INCH = 144


def accuracy_against_rounds(runs: Sequence[Run], path: Path | str) -> Path:
    """Draws test accuracy against rounds, one curve a run.

    Args:
      runs: rows need `round` and `test_accuracy`.
      path: where to write the figure; the ending chooses the format.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no run.

    >>> import tempfile
    >>> rows = [{"round": 1, "test_accuracy": 0.5}, {"round": 2, "test_accuracy": 0.7}]
    >>> folder = tempfile.TemporaryDirectory()
    >>> accuracy_against_rounds([Run("dense", rows)], folder.name + "/rounds.png").name
    'rounds.png'
    >>> folder.cleanup()
    """
    return line_figure(
        runs,
        x="round",
        y="test_accuracy",
        xlabel="Communication rounds",
        ylabel="Test accuracy",
        path=path,
    )


def accuracy_against_bytes(
    runs: Sequence[Run], path: Path | str, *, columns: Sequence[str] = ("uplink_bytes",)
) -> Path:
    """Draws test accuracy against all bytes sent so far, on a logarithmic axis.

    Args:
      runs: rows need `test_accuracy` and the columns.
      path: where to write the figure; the ending chooses the format.
      columns: cumulative byte counts to add up: `uplink_bytes`, `downlink_bytes` or
        both. Rows before the first byte have no place on the axis and are left out.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no run or no column.

    >>> import tempfile
    >>> rows = [{"uplink_bytes": 10**6 * r, "test_accuracy": 0.1 * r} for r in range(9)]
    >>> folder = tempfile.TemporaryDirectory()
    >>> accuracy_against_bytes([Run("dense", rows)], folder.name + "/bytes.png").name
    'bytes.png'
    >>> folder.cleanup()
    """
    if not columns:
        raise ValueError("Expected columns=() to name a column, e.g. uplink_bytes.")
    words = " + ".join(column.removesuffix("_bytes") for column in columns)

    def total(row: Row) -> object:
        counts = [_number(row.get(column)) for column in columns]
        return sum(counts) if all(map(math.isfinite, counts)) else None

    return line_figure(
        runs,
        x=total,
        y="test_accuracy",
        xlabel=f"Data sent so far, {words} (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=path,
        log_x=True,
        x_format=format_bytes,
    )


def line_figure(
    series: Sequence[Run],
    *,
    x: Column,
    y: Column,
    xlabel: str,
    ylabel: str,
    path: Path | str,
    log_x: bool = False,
    log_y: bool = False,
    x_format: Callable[[float], str] | None = None,
    reference: Run | None = None,
    size_inches: tuple[float, float] = _SIZE_INCHES,
    decorate: "Callable[[Axes], None] | None" = None,
    names_at_points: bool = False,
) -> Path:
    """Draws one curve a run, with the run's name at the end of its curve.

    Rows whose `x` or `y` is missing or not finite are left out (as is what is not
    positive on a logarithmic axis): a run that diverged still gives a figure.

    Args:
      series: the runs, in the order of their colours.
      x: the column on the horizontal axis.
      y: the column on the vertical axis; shown in percent when its name ends in
        `accuracy`.
      xlabel: name and unit of the horizontal axis.
      ylabel: name and unit of the vertical axis.
      path: where to write the figure; the ending chooses the format. Missing folders
        are made.
      log_x: whether the horizontal axis is logarithmic.
      log_y: whether the vertical axis is.
      x_format: how the marks of the horizontal axis are written.
      reference: what the runs are held against, a dashed line behind them.
      size_inches: width and height without the names; many names need more height.
      decorate: draws what else is to be seen on the finished axes, such as marks at
        times when something happened.
      names_at_points: whether names stand beside the last points and not in the margin,
        for runs of a single row: all then have one colour.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no run.
      MissingExtra: without matplotlib, of the extra `report`.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> line_figure(
    ...     [Run("error", [{"bits": 1, "db": -3.0}, {"bits": 2, "db": -9.0}])],
    ...     x="bits",
    ...     y="db",
    ...     xlabel="Rate (bits a coordinate)",
    ...     ylabel="Distortion (dB)",
    ...     path=folder.name + "/distortion.png",
    ... ).name
    'distortion.png'
    >>> folder.cleanup()
    """
    with needs("report", "figures"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    if not series:
        raise ValueError("Expected series=[] to hold at least one run.")
    figure = Figure(figsize=size_inches)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, xlabel=xlabel, ylabel=ylabel)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")

    ends: list[CurveEnd] = []
    whole = True
    behind = [] if reference is None else _points(reference.rows, x, y, log_x, log_y)
    if reference is not None and behind:
        across, up = zip(*behind, strict=True)
        axes.plot(across, up, color=INK, linewidth=LINE_WIDTH, linestyle="--")
        ends.append(CurveEnd(reference.name, behind[-1], INK, "", "--"))
    for index, run in enumerate(series):
        points = _points(run.rows, x, y, log_x, log_y)
        if not points:
            continue
        whole = whole and all(float(point[0]).is_integer() for point in points)
        place = 0 if names_at_points else index
        colour = _COLOURS[place % len(_COLOURS)]
        marker = _MARKERS[place % len(_MARKERS)]
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=colour,
            linewidth=LINE_WIDTH,
            marker=marker,
            markersize=MARKER_SIZE,
            markeredgewidth=0,
            markevery=max(1, math.ceil(len(points) / _MAX_MARKERS)),
        )
        if run.spread and isinstance(y, str):
            _band(axes, run, x, y, log_x, colour)
        line = "-" if len(points) > 1 else "none"
        ends.append(CurveEnd(run.name, points[-1], colour, marker, line))

    if not ends:
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center")
        axes.set_xticks([])
    if isinstance(y, str) and y.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.margins(x=0.02)
    _ticks(axes, log_x=log_x, whole=whole, x_format=x_format)
    if decorate is not None:
        decorate(axes)
    if names_at_points:
        write_names_at_points(axes, ends)
    else:
        write_names(axes, ends)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib, equal figures are equal files.
    metadata = {"Software": None} if path.suffix == ".png" else None
    figure.savefig(path, dpi=_DOTS_PER_INCH, bbox_inches="tight", metadata=metadata)
    return path


def _band(axes: "Axes", run: Run, x: Column, y: str, log_x: bool, colour: str) -> None:
    """A standard deviation around a mean, where both are known."""
    ends = [
        {"x": x(row) if callable(x) else row.get(x), y: _number(row.get(y)) + sign * sd}
        for sign in (-1, 1)
        for row, spread in zip(run.rows, run.spread, strict=True)
        for sd in [_number(spread.get(y))]
    ]
    half = len(ends) // 2
    low, high = (
        _points(rows, "x", y, log_x, False) for rows in (ends[:half], ends[half:])
    )
    axes.fill_between(
        [point[0] for point in low],
        [point[1] for point in low],
        [point[1] for point in high],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return math.nan


def _points(
    rows: Sequence[Row], x: Column, y: Column, log_x: bool, log_y: bool
) -> list[tuple[float, float]]:
    def read(row: Row, column: Column) -> float:
        return _number(column(row) if callable(column) else row.get(column))

    points = ((read(row, x), read(row, y)) for row in rows)
    return [
        (a, b)
        for a, b in points
        if math.isfinite(a) and math.isfinite(b)
        if (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _style(axes: "Axes", *, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=11, color=INK, labelpad=6, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=11, color=INK, labelpad=6, parse_math=False)
    axes.grid(color="#D9D9D9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, color="#999999", labelcolor=INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


def _ticks(
    axes: "Axes", *, log_x: bool, whole: bool, x_format: Callable[[float], str] | None
) -> None:
    from matplotlib import ticker

    if log_x:
        low, high = axes.get_xlim()
        decades = math.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
        axes.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=subs, numticks=12))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    elif whole:
        axes.xaxis.set_major_locator(
            ticker.MaxNLocator(nbins=8, integer=True, steps=[1, 2, 2.5, 5, 10])
        )
    if x_format is not None:
        write = x_format
        axes.xaxis.set_major_formatter(
            ticker.FuncFormatter(lambda value, _: write(value))
        )
