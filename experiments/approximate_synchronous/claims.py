"""What the comparison is to show, held against its outcomes."""

from collections.abc import Sequence

from fedjax_comp.run_directory import Json

SPEEDUP = 1.8
"""At least so many times faster than synchronous on the WAN (Hsieh et al. 2017)."""

LAN_RATIO = 1.4
"""At most so many times the time of synchronous on a local network (the same)."""

SKEW_LOSS = 0.05
"""Accuracy that approximate synchronous parallel loses at least by label skew, beyond
what synchronous training loses by it."""


def claims_of(outcomes: Sequence[Json]) -> list[Json]:
    """Every claim whose protocols are there.

    Args:
      outcomes: rows of the table, the first of which is synchronous.

    Returns:
      `{name, target, measured, holds}` each.
    """
    first, *_ = outcomes
    done = [one for one in outcomes if one["accuracy"] is not None]
    if first not in done:
        return []
    same = [
        one
        for one in done
        if one["family"] == "gaia" and one["partition"] == first["partition"]
    ]
    made = []
    if same and first["wan_seconds_to_target"]:
        fastest = max(same, key=lambda one: one["wan_speedup"] or 0)
        speedup = fastest["wan_speedup"] or 0
        made.append(
            _claim(
                f"{fastest['protocol']} reaches the target so many times faster than "
                f"{first['protocol']} on the WAN",
                SPEEDUP,
                speedup,
                speedup >= SPEEDUP,
            )
        )
        ratio = fastest["lan_ratio"]
        if ratio is not None:
            made.append(
                _claim(
                    f"{fastest['protocol']} on the WAN takes so many times what "
                    f"{first['protocol']} takes on a local network",
                    LAN_RATIO,
                    ratio,
                    ratio <= LAN_RATIO,
                )
            )
        top = [one for one in done if one["family"] == "top-k" and one["wan_speedup"]]
        if top:
            best = max(one["wan_speedup"] for one in top)
            made.append(
                _claim(
                    f"{fastest['protocol']} is faster than top-k with error feedback "
                    "(speedups over the first)",
                    best,
                    speedup,
                    speedup > best,
                )
            )
    return made + _skew_claims(first, done)


def _skew_claims(first: Json, done: Sequence[Json]) -> list[Json]:
    skewed = [one for one in done if one["partition"] != first["partition"]]
    reference = [one for one in skewed if one["rule"] == first["rule"]]
    gaia = [one for one in skewed if one["family"] == "gaia"]
    made = []
    for one in gaia:
        even = [
            other
            for other in done
            if other["rule"] == one["rule"] and other["partition"] == first["partition"]
        ]
        if not (even and reference):
            continue
        lost = even[0]["all_centres_accuracy"] - one["all_centres_accuracy"]
        lost -= first["accuracy"] - reference[0]["accuracy"]
        made.append(
            _claim(
                f"label skew costs {one['protocol']} more accuracy than it costs "
                f"{first['protocol']}",
                SKEW_LOSS,
                lost,
                lost >= SKEW_LOSS,
            )
        )
    return made


def _claim(name: str, target: float, measured: float, holds: bool) -> Json:
    return {
        "name": name,
        "target": target,
        "measured": round(measured, 4),
        "holds": bool(holds),
    }
