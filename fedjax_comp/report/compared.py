"""The results of groups of runs, and how they compare with one of the groups."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedjax_comp.report.found import FoundRun
from fedjax_comp.report.groups import Group
from fedjax_comp.report.means import is_number, mean_row
from fedjax_comp.run_directory import Json

COLUMNS = ("test_accuracy", "test_loss", "round", "total_bytes")
CLOCK_COLUMNS = ("simulated_seconds", "joules")
TO_TARGET = "total_bytes_to_target"


class Compared(NamedTuple):
    """A group and its figures, at the last evaluation of each run.

    Attributes:
      group: the group.
      means: over seeds, with `<column>_sd`: `COLUMNS`, `CLOCK_COLUMNS`, `TO_TARGET`.
      reached: in how many runs the target was reached.
      fewer_bytes: the reference's total bytes over the group's own; None where one sent
        nothing or it is not known.
      fewer_to_target: the same of the bytes to the target.
      change: of accuracy in points (of loss, where there is no accuracy), against the
        reference.
    """

    group: Group
    means: Json
    reached: int
    fewer_bytes: float | None
    fewer_to_target: float | None
    change: float | None


def quality_of(runs: Sequence[FoundRun]) -> str:
    """`test_accuracy`, or where not all runs have one, `test_loss`."""
    known = has_column(runs, "test_accuracy") or not has_column(runs, "test_loss")
    return "test_accuracy" if known else "test_loss"


def has_column(runs: Sequence[FoundRun], column: str) -> bool:
    """Whether each run has a number there, in any of its evaluations."""
    return all(any(is_number(row.get(column)) for row in run.rows) for run in runs)


def compare(
    groups: Sequence[Group],
    reference: Group,
    *,
    quality: str,
    target_accuracy: float | None = None,
) -> list[Compared]:
    """Figures of every group.

    Ratios and differences are taken within each seed, against the reference with the
    same seed, and then averaged over the seeds that both have; without any such seed,
    they are those of the means.

    Args:
      groups: the groups.
      reference: one of them.
      quality: `test_accuracy` or `test_loss`.
      target_accuracy: in `(0, 1]`; None for no target.
    """
    against = {run.seed: _figures(run, target_accuracy) for run in reference.runs}
    found = []
    for group in groups:
        own = {run.seed: _figures(run, target_accuracy) for run in group.runs}
        both = [seed for seed in own if seed in against]
        pairs = [(against[seed], own[seed]) for seed in both] or [
            (mean_row(list(against.values())), mean_row(list(own.values())))
        ]
        found.append(
            Compared(
                group=group,
                means=mean_row(list(own.values())),
                reached=sum(row[TO_TARGET] is not None for row in own.values()),
                fewer_bytes=_mean(pairs, "total_bytes", _ratio),
                fewer_to_target=_mean(pairs, TO_TARGET, _ratio),
                change=_mean(pairs, quality, _points if "acc" in quality else _minus),
            )
        )
    return found


def _figures(run: FoundRun, target_accuracy: float | None) -> Json:
    last = {name: run.rows[-1].get(name) for name in (*COLUMNS, *CLOCK_COLUMNS)}
    reached = (
        row["total_bytes"]
        for row in run.rows
        if target_accuracy is not None
        and is_number(row.get("test_accuracy"))
        and row["test_accuracy"] >= target_accuracy
    )
    return {**last, TO_TARGET: next(reached, None)}


def _mean(
    pairs: Sequence[tuple[Json, Json]],
    column: str,
    function: Callable[[float, float], float | None],
) -> float | None:
    each = []
    for reference, own in pairs:
        a, b = reference.get(column), own.get(column)
        each.append(function(a, b) if is_number(a) and is_number(b) else None)
    known = [value for value in each if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(each) else None


def _ratio(reference: float, own: float) -> float | None:
    return reference / own if reference and own else None


def _points(reference: float, own: float) -> float:
    return 100 * (own - reference)


def _minus(reference: float, own: float) -> float:
    return own - reference


def in_words(ratio: float | None) -> str:
    """A ratio of bytes as people say it.

    >>> in_words(74.63), in_words(0.5), in_words(1.0), in_words(None)
    ('74.6× fewer bytes', '2.0× more bytes', 'as many bytes', '–')
    """
    if ratio is None:
        return "–"
    if abs(ratio - 1) < 0.005:
        return "as many bytes"
    word, times = ("fewer", ratio) if ratio > 1 else ("more", 1 / ratio)
    form = ".0f" if times >= 99.95 else ".1f" if times >= 1.05 else ".2f"
    return f"{times:,{form}}× {word} bytes"


def change_in_words(change: float | None, quality: str) -> str:
    """A difference as people say it.

    >>> change_in_words(-0.51, "test_accuracy"), change_in_words(0.02, "test_loss")
    ('−0.5 points', '+0.02 loss')
    """
    if change is None:
        return ""
    if quality == "test_accuracy":
        text, unit = f"{change:+.1f}", "points"
        text = "±0.0" if text in ("+0.0", "-0.0") else text
    else:
        text, unit = f"{change:+.3g}", "loss"
    return f"{text.replace('-', '−')} {unit}"
