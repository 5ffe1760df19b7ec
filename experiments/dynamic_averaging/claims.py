"""What the comparison is to show, held against what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_comp.experiment.outcome import claim, failure_claims
from fedjax_comp.report import Run
from fedjax_comp.run_directory import Json

TOLERANCE = 0.05
"""Part of the first protocol's cumulative loss that may be lost for its bytes."""

FEWER = 10.0
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
) -> list[Json]:
    """All claims that the protocols of this run allow to be looked at.

    Args:
      rows: of the table.
      curves: `update` and `total_bytes` of every protocol that ran.
      drifts: updates at which concepts begin.
      num_updates: of the stream.
    """
    made = failure_claims("protocol", rows)
    dynamic = [
        one
        for one in rows
        if one["family"] == "dynamic"
        and one["total_bytes_ratio"]
        and one["loss_increase"] is not None
    ]
    if not dynamic:
        return made
    near = [one for one in dynamic if one["loss_increase"] <= TOLERANCE]
    made += claim(
        "times fewer bytes than the first protocol, by dynamic averaging within "
        f"{TOLERANCE:.0%} of its cumulative loss",
        FEWER,
        max((one["total_bytes_ratio"] for one in near), default=0.0),
        at_least=True,
    )
    dearest = min(dynamic, key=lambda one: one["total_bytes_ratio"])
    most = dearest["cumulative_loss"] * (1 + TOLERANCE)
    rivals = [
        one["total_bytes"]
        for one in rows
        if one["family"] == "periodic" and (one["cumulative_loss"] or most + 1) <= most
    ]
    if rivals:
        made += claim(
            f"too small a Delta saves nothing: bytes of {dearest['name']} over those "
            "of the cheapest periodic averaging within "
            f"{TOLERANCE:.0%} of its cumulative loss",
            1.0,
            dearest["total_bytes"] / min(rivals),
            at_least=True,
        )
    # One whose learners all speak after every update cannot speak more.
    quieter = [one for one in dynamic if one["total_bytes_ratio"] >= QUIETER]
    if drifts and quieter:
        # By a rule, so that none is picked for what it shows: the one of least loss.
        best = min(quieter, key=lambda one: one["loss_increase"])
        (curve,) = (curve for curve in curves if curve.name == best["name"])
        made += _drift_claims(curve, drifts, num_updates)
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
