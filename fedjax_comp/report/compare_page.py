"""The page that compares groups of runs: `write_comparison`."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from fedjax_comp.report.colours import colours
from fedjax_comp.report.compared import (
    CLOCK_COLUMNS,
    TO_TARGET,
    Compared,
    change_in_words,
    compare,
    has_column,
    in_words,
    quality_of,
)
from fedjax_comp.report.found import Found, FoundRun
from fedjax_comp.report.groups import Group, Grouping, shortened
from fedjax_comp.report.line_plot import NARROW, WIDE, Curve, line_plot
from fedjax_comp.report.means import is_number, mean_curves
from fedjax_comp.report.rows import Run
from fedjax_comp.report.units import format_bytes, format_seconds, format_value

MOST_CURVES = 24
"""Of a figure; what is beyond is in the table alone."""


class _Axis(NamedTuple):
    column: str
    words: str
    write: Callable[[float], str]
    log: bool = False


_AXES = (
    _Axis("round", "rounds", lambda x: f"{x:,g}"),
    _Axis("total_bytes", "bytes sent, both ways (logarithmic)", format_bytes, True),
    _Axis("simulated_seconds", "simulated time", format_seconds),
    _Axis("joules", "energy of the devices (joules)", lambda x: f"{x:,g}"),
)


class _Column(NamedTuple):
    name: str
    kind: str
    first: str = "ascending"
    look: str = ""


class _Cell(NamedTuple):
    text: str
    sort: object = ""
    small: str = ""


class _Figure(NamedTuple):
    caption: str
    wide: Markup
    narrow: Markup
    note: str


def write_comparison(
    path: Path | str,
    grouping: Grouping,
    found: Found,
    *,
    reference: Group,
    target_accuracy: float | None = None,
) -> Path:
    """Writes the page: figures, a table with ratios first, and what each group is.

    Args:
      path: where to write it.
      grouping: the groups.
      found: what they were made of.
      reference: the group that others are held against.
      target_accuracy: accuracy that bytes are counted to; None for none.

    Returns:
      The path written.
    """
    groups = grouping.groups
    quality = quality_of(found.runs)
    compared = compare(
        groups, reference, quality=quality, target_accuracy=target_accuracy
    )
    columns, cells = _table(compared, reference, found.runs, quality, target_accuracy)
    drawn = _drawn_groups(groups, reference)
    script = Path(__file__).with_name("sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("compare.html.jinja").render(
        title=f"{_counted(len(found.runs), 'run')} in {_counted(len(groups), 'group')}",
        sentences=_sentences(grouping, found, reference, target_accuracy),
        colours=colours(len(drawn)),
        columns=columns,
        rows=[
            {
                "cells": row,
                "colour": drawn.index(index) if index in drawn else None,
                "label": group.label,
                "settings": _texts(group.settings),
                "runs": _places(group),
            }
            for index, (group, row) in enumerate(zip(groups, cells, strict=True))
        ],
        figures=_figures([groups[i] for i in drawn], found.runs, quality),
        shared=_texts(grouping.shared),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
    path = Path(path)
    # Names may hold what is no valid text (file names do): shown, never fatal.
    path.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return path


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)


def _sentences(
    grouping: Grouping, found: Found, reference: Group, target_accuracy: float | None
) -> list[str]:
    told = []
    if grouping.named_by:
        told.append(
            f"Groups are named by the flags in which they differ: "
            f"{', '.join(grouping.named_by)}."
            + f" With these differ {', '.join(grouping.following)}."
            * bool(grouping.following)
        )
    told.append(
        f"Ratios and differences are against “{reference.label}”, seed by seed; means "
        "of seeds are followed by their standard deviation, which is a band around a "
        "curve. Bytes are those of both directions."
    )
    if target_accuracy is not None:
        told.append(
            f"The target is a test accuracy of {100 * target_accuracy:g} %, at the "
            "first evaluation that reaches it."
        )
    if len(grouping.groups) > MOST_CURVES:
        told.append(
            f"{len(grouping.groups) - MOST_CURVES} groups are in the table alone: "
            f"{MOST_CURVES} have curves."
        )
    if found.passed:
        told.append(
            "Nothing was evaluated round by round in "
            f"{', '.join(map(str, found.passed))}."
        )
    if found.damaged:
        told.append(f"Left out: {' '.join(found.damaged)}")
    return told


def _texts(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, shortened(value, most=10**6)) for name, value in settings.items()]


def _places(group: Group) -> list[tuple[str, str]]:
    def named(run: FoundRun) -> str:
        return "run" if run.seed is None else f"seed {run.seed}"

    own = [
        (named(run), f"{run.path}" + f" ({run.state})" * bool(run.state))
        for run in group.runs
    ]
    same = [(f"{named(run)} again", f"{run.path}") for run in group.repeated]
    return [*own, *same]


def _table(
    compared: Sequence[Compared],
    reference: Group,
    runs: Sequence[FoundRun],
    quality: str,
    target_accuracy: float | None,
) -> tuple[list[_Column], list[list[_Cell]]]:
    clocks = [name for name in CLOCK_COLUMNS if has_column(runs, name)]
    better = "descending" if quality == "test_accuracy" else "ascending"
    columns = [
        _Column("in all", "number", "descending", "ratio"),
        _Column("group", "text", look="group"),
    ]
    if target_accuracy is not None:
        to = f"to {100 * target_accuracy:g} %"
        columns.insert(0, _Column(to, "number", "descending", "ratio"))
        columns.append(_Column(f"bytes {to}", "number"))
    columns += [
        _Column(quality.replace("test_", ""), "number", better),
        _Column("bytes", "number"),
        _Column("rounds", "number"),
        *(_Column(name.replace("_", " "), "number") for name in clocks),
        _Column("seeds", "number", "descending"),
    ]
    unfinished = any(run.state for run in runs)
    if unfinished:
        columns.append(_Column("state", "text", "descending", "state"))
    rows = []
    for one in compared:
        group, means = one.group, one.means
        change = change_in_words(one.change, quality)
        row = [
            _verdict(one.fewer_bytes, f"at {change}" if change else ""),
            _Cell(group.label, group.label),
        ]
        if target_accuracy is not None:
            row.insert(0, _verdict(one.fewer_to_target, ""))
            row.append(_reached(one))
        if group is reference:
            row[0] = row[0]._replace(text="reference", small="")
            if target_accuracy is not None:
                row[1] = row[1]._replace(text="reference", small="")
        row += [
            _number(means, name) for name in (quality, "total_bytes", "round", *clocks)
        ]
        row.append(_Cell(str(len(group.runs)), len(group.runs)))
        if unfinished:
            states = [run.state for run in group.runs if run.state]
            # What each has of its own is with its directory.
            text = states[0] if len(group.runs) == 1 and states else ""
            if states and not text:
                text = f"{len(states)} of {len(group.runs)} {states[0]}"
            row.append(_Cell(text, text))
        rows.append(row)
    return columns, rows


def _verdict(ratio: float | None, change: str) -> _Cell:
    return _Cell(in_words(ratio), "" if ratio is None else ratio, change)


def _reached(one: Compared) -> _Cell:
    if one.reached in (0, len(one.group.runs)):
        return _number(one.means, TO_TARGET)
    return _Cell("–", "", f"{one.reached} of {len(one.group.runs)} seeds")


def _number(means: Mapping[str, object], name: str) -> _Cell:
    value, sd = means.get(name), means.get(f"{name}_sd")
    small = f"± {format_value(name, sd)}" if sd else ""
    return _Cell(format_value(name, value), value if is_number(value) else "", small)


def _drawn_groups(groups: Sequence[Group], reference: Group) -> list[int]:
    """Indices of the groups that have curves: the reference, and the first others."""
    first = groups.index(reference)
    others = [index for index in range(len(groups)) if index != first]
    return sorted([first, *others[: MOST_CURVES - 1]])


def _figures(
    groups: Sequence[Group], runs: Sequence[FoundRun], quality: str
) -> list[_Figure]:
    if not has_column(runs, quality):
        return []
    means = [
        mean_curves([[Run(group.label, run.rows)] for run in group.runs])[0]
        for group in groups
    ]
    found = []
    for axis in _AXES:
        curves = [_curve(mean, axis, quality, i) for i, mean in enumerate(means)]
        if not all(curve.points for curve in curves):
            continue
        words = f"{quality.replace('_', ' ').capitalize()} against {axis.words}"
        wide, same = _drawn(curves, axis, quality, words, narrow=False)
        narrow, _ = _drawn(curves, axis, quality, words, narrow=True)
        sets = [[f"“{curves[i].name}”" for i in members] for members in same]
        note = "".join(f" {' and '.join(ones)} lie on each other." for ones in sets)
        found.append(_Figure(words + ".", wide, narrow, note.strip()))
    return found


def _curve(mean: Run, axis: _Axis, quality: str, colour: int) -> Curve:
    points, band = [], []
    for index, row in enumerate(mean.rows):
        x, y = row.get(axis.column), row.get(quality)
        if is_number(x) and is_number(y) and (x > 0 or not axis.log):
            sd = mean.spread[index].get(quality) if mean.spread else None
            by = float(sd) if is_number(sd) else 0.0
            points.append((float(x), float(y)))
            band.append((y - by, y + by))
    return Curve(mean.name, points, band, colour)


def _drawn(
    curves: Sequence[Curve], axis: _Axis, quality: str, words: str, *, narrow: bool
) -> tuple[Markup, list[list[int]]]:
    percent = quality == "test_accuracy"
    svg, same = line_plot(
        curves,
        layout=NARROW if narrow else WIDE,
        title=words,
        xlabel=axis.words,
        write_x=axis.write,
        write_y=(lambda y: f"{100 * y:g} %") if percent else (lambda y: f"{y:g}"),
        log_x=axis.log,
    )
    kind = "narrow" if narrow else "wide"
    return Markup(svg.replace("<svg ", f'<svg class="{kind}" ', 1)), same
