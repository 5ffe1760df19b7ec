"""The claims of the comparison, tested on what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.dynamic_averaging.grading import FIXED, bytes_at, fewer_at, loss_at
from fedjax_comp.experiment.outcome import claim, failure_claims
from fedjax_comp.report import Run
from fedjax_comp.run_directory import Json

FEWER = 10.0
"""The paper's order of magnitude."""

NEARLY_ALL, HALF = 0.9, 0.5
"""Parts of communication's benefit at which bytes are compared."""

RISES, SETTLES = 1.5, 1.5
QUIETER = 2.0
"""How many times fewer bytes a protocol sends whose traffic is looked at over time."""

WINDOW = 0.05
"""Part of the stream looked at before and behind a drift; half of the time to the next
drift where that is less."""


def claims_of(
    rows: Sequence[Json],
    curves: Sequence[Run],
    drifts: Sequence[int],
    num_updates: int,
    others: Sequence[Sequence[Json]] = (),
) -> list[Json]:
    """All claims that the protocols of this run allow to be looked at.

    The paper's is an order of magnitude less communication than at fixed times, at
    virtually unchanged loss. Bytes are compared at equal loss: that at which 90 %, and
    that at which half of communication's benefit is kept.

    Args:
      rows: of the table.
      curves: `update` and `total_bytes` of every protocol that ran.
      drifts: updates at which concepts begin.
      num_updates: of the stream.
      others: the rows of other streams, on which a Delta may be chosen.
    """
    made = failure_claims("protocol", rows)
    dynamic = [
        one
        for one in rows
        if one["family"] == "dynamic"
        and one["total_bytes_ratio"]
        and one["cumulative_loss"] is not None
    ]
    if not dynamic:
        return made
    made += _at_equal_loss(rows)
    chosen = chosen_on(others)
    made += claim(
        "times fewer bytes than the best fixed times at its loss, by dynamic averaging "
        f"with the Delta that is best on the other seeds and keeps {HALF:.0%} there "
        f"({chosen})",
        1.0,
        next((one["fixed_ratio"] for one in dynamic if one["name"] == chosen), None),
        above=True,
    )
    # One whose learners all speak after every update cannot speak more.
    quieter = [one for one in dynamic if one["total_bytes_ratio"] >= QUIETER]
    if drifts and quieter:
        # By a rule, so that none is picked for what it shows: the one of least loss.
        best = min(quieter, key=lambda one: one["cumulative_loss"])
        (curve,) = (curve for curve in curves if curve.name == best["name"])
        made += _drift_claims(curve, drifts, num_updates)
    return made


def chosen_on(streams: Sequence[Sequence[Mapping[str, Any]]]) -> str | None:
    """The dynamic protocol that does best against fixed times on some streams.

    Args:
      streams: the rows of each.

    Returns:
      The name of the one whose mean `fixed_ratio` is largest among those that keep at
      least half of the benefit in the mean; None where there is none.

    >>> row = {"family": "dynamic", "benefit_kept": 0.6}
    >>> chosen_on([[{**row, "name": "a", "fixed_ratio": 1.5},
    ...             {**row, "name": "b", "fixed_ratio": 2.5, "benefit_kept": 0.4}]])
    'a'
    """
    means = {}
    for of_one in zip(*streams, strict=True):
        ratios, kept = (
            [row.get(name) for row in of_one]
            for name in ("fixed_ratio", "benefit_kept")
        )
        if of_one[0]["family"] != "dynamic" or None in ratios or None in kept:
            continue
        if np.mean(kept) >= HALF:
            means[of_one[0]["name"]] = np.mean(ratios)
    return max(means, key=lambda name: means[name], default=None)


def _at_equal_loss(rows: Sequence[Json]) -> list[Json]:
    made = []
    for kept in (NEARLY_ALL, HALF):
        loss = loss_at(rows, kept)
        if loss is None:
            continue
        words = f"by dynamic averaging where {kept:.0%} of the benefit is kept"
        ours = bytes_at(rows, ["dynamic"], loss)
        made += claim(
            f"times fewer bytes than the first protocol, {words}",
            FEWER,
            rows[0]["total_bytes"] / ours if ours else 0.0,
            at_least=True,
        )
        fixed = fewer_at(rows, "dynamic", FIXED, loss)
        name = f"times fewer bytes than the best fixed times, {words}"
        made += claim(f"{name}: an order of magnitude", FEWER, fixed, at_least=True)
        made += claim(f"{name}: more than one", 1.0, fixed, above=True)
        made += claim(
            f"times fewer bytes than FDA, {words}",
            1.0,
            fewer_at(rows, "dynamic", ["FDA"], loss),
            above=True,
        )
    return made


def rates_around(
    rows: Sequence[Mapping[str, Any]], drifts: Sequence[int], num_updates: int
) -> tuple[float, float, float]:
    """Bytes an update before drifts, behind them, and at the end of what they began.

    Args:
      rows: `update` and `total_bytes`, in order.
      drifts: updates at which concepts begin.
      num_updates: of the stream.

    Returns:
      Mean rates over all drifts, each over a window of `WINDOW` of the stream, or half
      of the time to the neighbouring drift where that is less.

    >>> sent = [0] * 51 + [1, 2, 3, 4, 5] + [5] * 45
    >>> rows = [{"update": u, "total_bytes": x} for u, x in enumerate(sent)]
    >>> rates_around(rows, [50], 100)
    (0.0, 1.0, 0.0)
    """
    window = WINDOW * num_updates
    at = [row["update"] for row in rows]
    sent = [row["total_bytes"] for row in rows]

    def rate(first: float, last: float) -> tuple[float, float]:
        begin, end = np.interp((first, last), at, sent)
        return float(end - begin), last - first

    before, behind, settled = [], [], []
    for previous, drift, following in zip(
        (0, *drifts), drifts, (*drifts[1:], num_updates), strict=False
    ):
        back = min(window, (drift - previous) / 2)
        ahead = min(window, (following - drift) / 2)
        before.append(rate(drift - back, drift))
        behind.append(rate(drift, drift + ahead))
        settled.append(rate(following - ahead, following))
    sums = (np.sum(parts, axis=0) for parts in (before, behind, settled))
    first, second, third = (float(total / time) for total, time in sums)
    return first, second, third


def _drift_claims(curve: Run, drifts: Sequence[int], num_updates: int) -> list[Json]:
    before, behind, settled = rates_around(curve.rows, drifts, num_updates)
    name = f"bytes an update of {curve.name} behind a drift over those"
    rise, fall = behind / max(before, 1.0), behind / max(settled, 1.0)
    return [
        *claim(f"{name} before it", RISES, rise, at_least=True),
        *claim(f"{name} when it has settled", SETTLES, fall, at_least=True),
    ]
