"""What the comparison is to show, held against its rows."""

from collections.abc import Sequence

from fedjax_comp.experiment.outcome import claim, failure_claims
from fedjax_comp.run_directory import Json

SPEEDUP = 1.8
"""At least so many times faster than synchronous on the WAN (Hsieh et al. 2017)."""

LAN_SLOWDOWN = 1.4
"""At most so many times the time of synchronous on a local network (the same)."""

SKEW_LOSS = 0.05
"""Accuracy that approximate synchronous parallel loses at least by label skew, beyond
what synchronous training loses by it."""


def claims_of(rows: Sequence[Json]) -> list[Json]:
    """That nothing failed, and every claim whose protocols are there.

    Args:
      rows: of the table, the first of which is synchronous.

    Returns:
      `{name, target, measured, holds}` each.
    """
    first, *_ = rows
    made = failure_claims("protocol", rows)
    done = [one for one in rows if not one["reason"]]
    if first["reason"]:
        return made
    return [*made, *_time_claims(first, done), *_skew_claims(first, done)]


def _time_claims(first: Json, done: Sequence[Json]) -> list[Json]:
    if not first["wan_seconds_to_target"]:
        return []
    even = [one for one in done if one["partition"] == first["partition"]]
    gaia = [one for one in even if one["family"] == "gaia"]
    if not gaia:
        return []
    fastest = max(gaia, key=_speedup)
    top = [_speedup(one) for one in done if one["family"] == "top-k"]
    best = max(top, default=0.0)
    return [
        *claim(
            f"{fastest['name']} reaches the target so many times faster than "
            f"{first['name']} on the WAN",
            SPEEDUP,
            _speedup(fastest),
            at_least=True,
        ),
        *claim(
            f"{fastest['name']} on the WAN takes so many times what {first['name']} "
            "takes on a local network",
            LAN_SLOWDOWN,
            fastest["slowdown_against_lan"],
            at_most=True,
        ),
        *claim(
            f"{fastest['name']} is as fast as top-k with error feedback, or faster "
            "(speedups over the first)",
            best,
            _speedup(fastest) if best else None,
            at_least=True,
        ),
    ]


def _speedup(row: Json) -> float:
    return row["wan_seconds_to_target_ratio"] or 0.0


def _skew_claims(first: Json, done: Sequence[Json]) -> list[Json]:
    skewed = [one for one in done if one["partition"] != first["partition"]]
    reference = [one for one in skewed if one["protocol"] == first["protocol"]]
    even = {
        one["protocol"]: one for one in done if one["partition"] == first["partition"]
    }
    made = []
    for one in skewed:
        if one["family"] != "gaia" or one["protocol"] not in even or not reference:
            continue
        lost = even[one["protocol"]]["mean_centre_accuracy"]
        lost -= one["mean_centre_accuracy"]
        lost -= first["test_accuracy"] - reference[0]["test_accuracy"]
        made += claim(
            f"label skew costs {one['name']} more accuracy than it costs "
            f"{first['name']}",
            SKEW_LOSS,
            lost,
            at_least=True,
        )
    return made
