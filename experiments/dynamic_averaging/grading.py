"""Protocols at equal loss: the benefit that each keeps, and what rivals pay for it.

A table has a loss and bytes for every setting of every family (periods, fractions,
Deltas). A family's settings, sorted by bytes, are points of a curve that is linear in
the logarithm of bytes between neighbours. The bytes of two families at one loss
are read off both curves, so that no two settings need to have the same loss.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_comp.run_directory import Json

FIXED = ("periodic", "FedAvg")
"""Families that average at fixed times."""

OTHERS = ("none", "serial")
"""Families that are no protocol of communication."""

Row = Mapping[str, Any]


def bytes_at(rows: Sequence[Row], families: Sequence[str], loss: float) -> float | None:
    """The fewest bytes for which one of some families loses no more than `loss`.

    Args:
      rows: of the table.
      families: each a curve of its own.
      loss: cumulative loss.

    Returns:
      Bytes, or None where no setting loses so little. Nothing is drawn beyond a
      family's cheapest setting: where that loses no more, its bytes count.

    >>> rows = [{"family": "periodic", "total_bytes": b, "cumulative_loss": x}
    ...         for b, x in ((100, 1.0), (10, 2.0))]
    >>> [bytes_at(rows, ["periodic"], x) for x in (0.9, 1.0, 3.0)]
    [None, 100.0, 10.0]
    >>> round(bytes_at(rows, ["periodic"], 1.5), 3)  # sqrt(10 * 100)
    31.623
    """
    found = [_on_curve(_curve(rows, family), loss) for family in families]
    return min((x for x in found if x is not None), default=None)


def _curve(rows: Sequence[Row], family: str) -> list[tuple[float, float]]:
    """A family's bytes and losses, without settings that others beat in both."""
    points = sorted(
        (row["total_bytes"], row["cumulative_loss"])
        for row in rows
        if row.get("family") == family
        and row["total_bytes"]
        and row["cumulative_loss"] is not None
    )
    curve: list[tuple[float, float]] = []
    for sent, lost in points:
        if not curve or lost < curve[-1][1]:
            curve.append((sent, lost))
    return curve


def _on_curve(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    for i, (sent, lost) in enumerate(curve):
        if lost > loss:
            continue
        if i == 0:
            return float(sent)
        fewer, worse = curve[i - 1]
        share = (worse - loss) / (worse - lost)
        return float(fewer ** (1 - share) * sent**share)
    return None


def loss_at(rows: Sequence[Row], kept: float) -> float | None:
    """The loss at which so large a part of communication's benefit is kept.

    Args:
      rows: of the table; the first is the protocol that has all of the benefit, and
        `none` the one that has nothing of it.
      kept: the part, from 0 to 1.

    Returns:
      Cumulative loss, or None where it is not known, or there is no benefit.

    >>> rows = [{"family": "periodic", "cumulative_loss": 100.0},
    ...         {"family": "none", "cumulative_loss": 120.0}]
    >>> loss_at(rows, 0.9)
    102.0
    """
    first = rows[0].get("cumulative_loss")
    alone = [row["cumulative_loss"] for row in rows if row.get("family") == "none"]
    if first is None or not alone or alone[0] is None or alone[0] <= first:
        return None
    return float(alone[0] - kept * (alone[0] - first))


def fewer_at(
    rows: Sequence[Row], own: str, rivals: Sequence[str], loss: float
) -> float | None:
    """How many times fewer bytes a family needs than the best rival, at one loss.

    >>> rows = [{"family": f, "total_bytes": b, "cumulative_loss": 1.0}
    ...         for f, b in (("periodic", 100), ("FedAvg", 80), ("dynamic", 20))]
    >>> fewer_at(rows, "dynamic", FIXED, 1.0)
    4.0
    """
    ours, theirs = bytes_at(rows, [own], loss), bytes_at(rows, rivals, loss)
    return theirs / ours if ours and theirs else None


LEVELS = (0.95, 0.9, 0.75, 0.5, 0.25)


def bytes_by_level(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """What each family pays for so large a part of the benefit: who wins where.

    Returns:
      Headings, and a line for each of `LEVELS`: the part kept, the loss, bytes of each
      family, and the cheapest one; None where a family does not get there.
    """
    families = [
        name
        for name in dict.fromkeys(row.get("family") for row in rows)
        if name and name not in OTHERS
    ]
    lines: list[list[Any]] = []
    for kept in LEVELS:
        loss = loss_at(rows, kept)
        if loss is None:
            continue
        paid = {name: bytes_at(rows, [name], loss) for name in families}
        known = {name: sent for name, sent in paid.items() if sent}
        cheapest = min(known, key=lambda name: known[name], default=None)
        sent = [None if x is None else round(x) for x in paid.values()]
        lines.append([kept, round(loss, 1), *sent, cheapest])
    return ["kept", "loss", *families, "cheapest"], lines


def add_grades(rows: Sequence[Json]) -> None:
    """Adds to each row what is known of it against the first, `none` and its rivals.

    Args:
      rows: of the table. Added are

        benefit_kept   (none - loss) / (none - first): 1 for the first, 0 for none
        fixed_ratio    bytes of the best fixed times at this loss over one's own
        rival          the family, other than one's own, that needs fewest bytes for it
        rival_ratio    that family's bytes over one's own

    A ratio is 0 where learners on their own lose no more, who send nothing.
    """
    worst, best = loss_at(rows, 0.0), loss_at(rows, 1.0)
    families = dict.fromkeys(row.get("family") for row in rows)
    senders = [name for name in families if name and name not in OTHERS]
    for row in rows:
        loss, sent, family = (
            row.get(name) for name in ("cumulative_loss", "total_bytes", "family")
        )
        row |= dict.fromkeys(("benefit_kept", "fixed_ratio", "rival", "rival_ratio"))
        if loss is None or family == "serial":
            continue
        if worst is not None and best is not None:
            row["benefit_kept"] = round((worst - loss) / (worst - best), 4)
        if not sent:
            continue
        if worst is not None and worst <= loss:
            row |= {"fixed_ratio": 0.0, "rival": "none", "rival_ratio": 0.0}
            continue
        if family not in FIXED:
            row["fixed_ratio"] = _over(bytes_at(rows, FIXED, loss), sent)
        reached = {
            name: found
            for name in senders
            if name != family and (found := bytes_at(rows, [name], loss))
        }
        if reached:
            row["rival"] = min(reached, key=lambda name: reached[name])
            row["rival_ratio"] = _over(reached[row["rival"]], sent)


def _over(rival: float | None, own: float) -> float | None:
    return None if rival is None else round(rival / own, 4)
