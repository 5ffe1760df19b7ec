"""Figures: cumulative loss against bytes, and both over time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#333333"
WINDOW = 0.05
"""Part of the stream over which a rate is taken."""


def draw_figures(
    rows: Sequence[Json],
    curves: Sequence[Run],
    drifts: Sequence[int],
    folder: Path,
) -> list[Figure]:
    """All figures that the protocols of a run allow.

    Args:
      rows: the rows of the table.
      curves: `update`, `cumulative_loss` and `total_bytes` of those that ran.
      drifts: updates at which concepts begin; none where curves are means of streams
        that drift at other times.
      folder: where to write the figures.

    Returns:
      The figures.
    """
    figures = [loss_against_bytes(rows, folder / "loss_against_bytes.png")]
    sending = [curve for curve in curves if curve.rows[-1]["total_bytes"]]
    if sending:
        dynamic = {one["name"] for one in rows if one["family"] == "dynamic"}
        shown = [curve for curve in sending if curve.name in dynamic] or sending
        figures += [
            bytes_rate(shown, drifts, folder / "bytes_rate.png"),
            over_updates(
                sending,
                "total_bytes",
                "Bytes sent so far (logarithmic)",
                drifts,
                folder / "bytes_over_time.png",
            ),
        ]
    if curves:
        figures.append(
            over_updates(
                curves,
                "cumulative_loss",
                "Cumulative loss",
                drifts,
                folder / "loss_over_time.png",
            )
        )
    return [figure for figure in figures if figure is not None]


def loss_against_bytes(rows: Sequence[Json], path: Path) -> Figure | None:
    """One point a protocol, families joined; dashed: those that send nothing."""
    done = [one for one in rows if one["cumulative_loss"] is not None]
    sending = [one for one in done if one["total_bytes"]]
    if not sending:
        return None
    families = list(dict.fromkeys(one["family"] for one in sending))

    def decorate(axes: "Axes") -> None:
        for one in sending:
            # Below for the first family, above for the others: they lie close together.
            below = one["family"] == families[0]
            axes.annotate(
                one["protocol"].partition("(")[2].removesuffix(")"),
                (one["total_bytes"], one["cumulative_loss"]),
                xytext=(0, -6 if below else 6),
                textcoords="offset points",
                ha="center",
                va="top" if below else "bottom",
                fontsize=8,
                color=INK,
            )
        low, high = axes.get_ylim()
        quiet = [one for one in done if not one["total_bytes"]]
        for one in quiet:
            # One far away would press all others together.
            if low - (high - low) <= one["cumulative_loss"] <= high + (high - low):
                axes.axhline(
                    one["cumulative_loss"], color=INK, linewidth=0.9, linestyle="--"
                )
        shown = [f"{one['name']} {one['cumulative_loss']:,.0f}" for one in quiet]
        if shown:
            axes.set_title(
                f"nothing sent: {', '.join(shown)}", fontsize=9, color=INK, loc="left"
            )

    by_bytes = sorted(sending, key=lambda one: one["total_bytes"])
    line_figure(
        [
            Run(family, [one for one in by_bytes if one["family"] == family])
            for family in families
        ],
        x="total_bytes",
        y="cumulative_loss",
        xlabel="Data sent, both ways (bytes, logarithmic)",
        ylabel="Cumulative loss",
        path=path,
        log_x=True,
        x_format=format_bytes,
        size_inches=(8.0, 5.0),
        decorate=decorate,
    )
    return Figure("Cumulative loss against bytes sent; dashed: nothing is sent", path)


def bytes_rate(curves: Sequence[Run], drifts: Sequence[int], path: Path) -> Figure:
    """Bytes an update over the last part of the stream."""
    line_figure(
        [Run(curve.name, moving_rate(curve.rows)) for curve in curves],
        x="update",
        y="bytes_an_update",
        xlabel="Updates of each learner",
        ylabel="Bytes an update, both ways",
        path=path,
        size_inches=_size(len(curves)),
        decorate=_marks(drifts, bytes_on_y=True),
    )
    return Figure(
        f"Bytes an update, over the last {WINDOW:.0%} of the stream" + _told(drifts),
        path,
    )


def moving_rate(rows: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Bytes an update over a window behind each row.

    >>> rows = [{"update": u, "total_bytes": 3 * u} for u in (0, 50, 100)]
    >>> [row["bytes_an_update"] for row in moving_rate(rows)]
    [3.0, 3.0]
    """
    at = np.array([row["update"] for row in rows], np.float64)
    sent = np.array([row["total_bytes"] for row in rows], np.float64)
    back = np.maximum(at[1:] - WINDOW * at[-1], 0)
    rates = (sent[1:] - np.interp(back, at, sent)) / (at[1:] - back)
    return [
        {"update": int(update), "bytes_an_update": float(rate)}
        for update, rate in zip(at[1:], rates, strict=True)
    ]


def over_updates(
    curves: Sequence[Run],
    column: str,
    words: str,
    drifts: Sequence[int],
    path: Path,
) -> Figure:
    """A total of every protocol over time."""
    counts_bytes = column == "total_bytes"
    line_figure(
        curves,
        x="update",
        y=column,
        xlabel="Updates of each learner",
        ylabel=words,
        path=path,
        log_y=counts_bytes,
        size_inches=_size(len(curves)),
        decorate=_marks(drifts, bytes_on_y=counts_bytes),
    )
    return Figure(f"{words} over time{_told(drifts)}", path)


def _told(drifts: Sequence[int]) -> str:
    return "; dotted: drifts" if drifts else ""


def _size(count: int) -> tuple[float, float]:
    """Inches of a figure with so many names beside it."""
    return (7.2, max(4.4, 0.3 * (count + 1)))


def _marks(drifts: Sequence[int], *, bytes_on_y: bool) -> "Callable[[Axes], None]":
    def decorate(axes: "Axes") -> None:
        for drift in drifts:
            axes.axvline(drift, color=INK, linewidth=0.9, linestyle=":")
        if bytes_on_y:
            axes.yaxis.set_major_formatter(_write_bytes)

    return decorate


def _write_bytes(value: float, place: Any) -> str:
    del place
    return format_bytes(value)
