"""The claims of the comparison, tested on its rows."""

from collections.abc import Iterable, Sequence

from fedjax_comp.experiment.outcome import claim, failure_claims, ratio
from fedjax_comp.run_directory import Json

SPEEDUP = 1.8
"""At least so many times faster than synchronous on the WAN (Hsieh et al. 2017)."""

LAN_SLOWDOWN = 1.4
"""At most so many times the time of synchronous on a local network (the same)."""

SKEW_LOSS = 0.05
"""Accuracy that approximate synchronous parallel loses at least by label skew, beyond
what synchronous training loses by it."""


def claims_of(rows: Sequence[Json], *, of_paper: bool = True) -> list[Json]:
    """That nothing failed, and every claim whose protocols are there.

    Args:
      rows: of the table, the first of which is synchronous.
      of_paper: whether the data can bear the paper's figures and what is beside them;
        without, only that the significant updates are fewer bytes is claimed.

    Returns:
      `{name, target, measured, holds}` each.
    """
    first, *_ = rows
    made = failure_claims("protocol", rows)
    done = [one for one in rows if not one["reason"]]
    if first["reason"]:
        return made
    even = [one for one in done if one["partition"] == first["partition"]]
    if not of_paper:
        return [*made, *_byte_claims(first, even)]
    return [
        *made,
        *_time_claims(first, even),
        *_rival_claims(first, even),
        *_skew_claims(first, done),
    ]


def _byte_claims(first: Json, done: Sequence[Json]) -> list[Json]:
    sent = [one["link_bytes"] for one in done if one["family"] == "gaia"]
    return claim(
        f"gaia sends so many times fewer bytes than {first['name']} in as many updates",
        1.0,
        ratio(first["link_bytes"], min(sent, default=None)),
        above=True,
    )


def _time_claims(first: Json, even: Sequence[Json]) -> list[Json]:
    gaia = _fastest(one for one in even if one["family"] == "gaia")
    if gaia is None or not first["wan_seconds_to_target"]:
        return []
    return [
        *claim(
            f"gaia ({gaia['name']}) reaches the target so many times faster than "
            f"{first['name']} on the WAN",
            SPEEDUP,
            gaia["wan_seconds_to_target_ratio"],
            at_least=True,
        ),
        *claim(
            f"gaia ({gaia['name']}) on the WAN takes so many times what "
            f"{first['name']} takes on a local network",
            LAN_SLOWDOWN,
            gaia["slowdown_against_lan"],
            at_most=True,
        ),
    ]


def _rival_claims(first: Json, even: Sequence[Json]) -> list[Json]:
    """Gaia against the best of all others, and against top-k that waits as long."""
    made: list[Json] = []
    others = [one for one in even if one["family"] != "gaia" and one is not first]
    if others:
        made += _faster(
            [one for one in even if one["family"] == "gaia"],
            others,
            "the best protocol of another family",
        )
    for delay in sorted({one["delay"] for one in even}):
        alike = [one for one in even if one["delay"] == delay]
        top = [one for one in alike if one["family"] == "top-k"]
        gaia = [one for one in alike if one["family"] == "gaia"]
        if top and gaia:
            made += _faster(gaia, top, f"top-k, both with a delay of {delay} updates")
    return made


def _faster(ours: Sequence[Json], theirs: Sequence[Json], word: str) -> list[Json]:
    own, rival = _fastest(ours), _fastest(theirs)
    if own is None or rival is None:
        return []
    return claim(
        f"gaia ({own['name']}) is so many times as fast as {word} ({rival['name']})",
        1.0,
        ratio(rival["wan_seconds_to_target"], own["wan_seconds_to_target"]),
        above=True,
    )


def _fastest(rows: Iterable[Json]) -> Json | None:
    there = [one for one in rows if one["wan_seconds_to_target"]]
    return min(there, key=lambda one: one["wan_seconds_to_target"], default=None)


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
