"""What the comparison is to show, held against what was measured."""

from collections.abc import Mapping, Sequence

from fedjax_comp.metrics import Row
from fedjax_comp.run_directory import Json

TOLERANCE = 0.005
"""Test accuracy below the first pipeline's best that still counts as equal."""

FEWER = 10.0


def bytes_to_accuracy(rows: Sequence[Row], target: float) -> Json:
    """Steps and uplink bytes at the first evaluation of at least `target`.

    >>> rows = [{"round": 5, "test_accuracy": 0.9, "uplink_bytes": 70}]
    >>> bytes_to_accuracy(rows, 0.9)
    {'steps_to_target': 5, 'uplink_bytes_to_target': 70}
    >>> bytes_to_accuracy(rows, 0.95)["steps_to_target"]
    """
    for row in rows:
        if row["test_accuracy"] >= target:
            return {
                "steps_to_target": row["round"],
                "uplink_bytes_to_target": row["uplink_bytes"],
            }
    return {"steps_to_target": None, "uplink_bytes_to_target": None}


def add_comparisons(
    outcomes: Sequence[Json], rows: Mapping[str, Sequence[Row]]
) -> float | None:
    """Adds to each outcome what it took to the target, and its ratio to the first.

    Args:
      outcomes: one a pipeline; those of failed ones are given empty entries.
      rows: evaluations of each pipeline that did not fail.

    Returns:
      The target: the first pipeline's best accuracy less `TOLERANCE`; None when the
      first one failed.
    """
    best = outcomes[0]["best_test_accuracy"]
    target = None if best is None else best - TOLERANCE
    for one in outcomes:
        own = rows.get(one["pipeline"], ())
        one.update(bytes_to_accuracy(own, 2.0 if target is None else target))
    reference = outcomes[0]["uplink_bytes_to_target"]
    for one in outcomes:
        spent = one["uplink_bytes_to_target"]
        known = reference is not None and spent
        one["uplink_ratio"] = round(reference / spent, 2) if known else None
    return target


def best_of(outcomes: Sequence[Json], family: str) -> Json | None:
    """The pipeline of a family with the fewest bytes to the target."""
    reached = [
        one
        for one in outcomes
        if one["family"] == family and one["uplink_bytes_to_target"]
    ]
    return min(reached, key=lambda one: one["uplink_bytes_to_target"], default=None)


def claims_of(outcomes: Sequence[Json]) -> list[Json]:
    """All claims that the pipelines of this run allow to be looked at."""
    failures = sum(bool(one["reason"]) for one in outcomes)
    broken = sum(one["audit_failures"] or 0 for one in outcomes)
    made = [
        _claim("pipelines that failed", 0, failures, failures == 0),
        _claim(
            "audited messages that do not decode bit for bit", 0, broken, broken == 0
        ),
    ]
    data = best_of(outcomes, "data")
    if data is None:
        return made
    for family, target in (
        ("quantizer", FEWER),
        ("sparsifier", 1.0),
        ("low-rank", 1.0),
        ("shipped", 1.0),
    ):
        other = best_of(outcomes, family)
        if other is None:
            continue
        ratio = other["uplink_bytes_to_target"] / data["uplink_bytes_to_target"]
        made.append(
            _claim(
                f"uplink bytes of the best {family} ({other['pipeline']}) over those "
                f"of the best data pipeline ({data['pipeline']}), to the first "
                f"pipeline's best accuracy less {100 * TOLERANCE:.1f} points",
                target,
                round(ratio, 2),
                ratio >= target,
            )
        )
    return made


def _claim(name: str, target: float, measured: float, holds: bool) -> Json:
    return {"name": name, "target": target, "measured": measured, "holds": holds}
