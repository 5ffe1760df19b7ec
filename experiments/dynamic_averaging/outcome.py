"""What a protocol's run amounts to: a row of the table and a curve over updates."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.dynamic_averaging.protocols import Rule, Variant
from fedjax_comp.metrics import Row
from fedjax_comp.run_directory import Json

COLUMNS = (
    "protocol",
    "family",
    "rule",
    "cumulative_loss",
    "loss_ratio",
    "total_bytes",
    "bytes_ratio",
    "uplink_bytes",
    "downlink_bytes",
    "models_sent",
    "full_synchronisations",
    "violations",
    "test_accuracy",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
    "reason",
)
"""Of `table.csv`. `loss_ratio` is one's loss over that of the first protocol,
`bytes_ratio` the first one's bytes over one's own; `models_sent` is how many a learner
sent; `reason` is empty unless the protocol failed."""


class Curve(NamedTuple):
    """A protocol over time.

    Attributes:
      name: of the protocol.
      family: of the protocol.
      rows: `update`, `cumulative_loss` and `total_bytes`, in order.
    """

    name: str
    family: str
    rows: list[Json]


def rows_by_update(rows: Sequence[Row], every: int) -> list[Json]:
    """Totals against updates of a learner, from rows against rounds.

    Args:
      rows: a run's evaluations.
      every: updates in a round.

    Returns:
      One row each with `update`, `cumulative_loss` and `total_bytes`.

    >>> row = {"round": 2, "uplink_bytes": 3, "downlink_bytes": 4}
    >>> rows_by_update([{**row, "observed": {"loss_sum": 1.5}}], every=8)
    [{'update': 16, 'cumulative_loss': 1.5, 'total_bytes': 7}]
    """
    return [
        {
            "update": row["round"] * every,
            "cumulative_loss": row.get("observed", {}).get("loss_sum", 0.0),
            "total_bytes": row["uplink_bytes"] + row["downlink_bytes"],
        }
        for row in rows
    ]


def measured(variant: Variant, rule: Rule, summary: Json, rows: list[Json]) -> Json:
    """The table's row of a protocol that ran to its end."""
    observed, learners = summary["observed"], summary["num_clients"]
    began_again = summary["dropped_updates"]
    reason = ""
    if began_again:
        # Their losses are in no sum, so what was summed says nothing.
        reason = f"models that were not finite began again {began_again} times"
    averaged = observed["members"] > 0
    return {
        **_named(variant, rule.family),
        "cumulative_loss": None if began_again else rows[-1]["cumulative_loss"],
        "total_bytes": rows[-1]["total_bytes"],
        "uplink_bytes": summary["uplink_bytes"],
        "downlink_bytes": summary["downlink_bytes"],
        "models_sent": round(summary["uplink_messages"] / learners, 3),
        "full_synchronisations": int(observed["full"]) if not rule.in_one_place else 0,
        "violations": int(observed["violators"]),
        "test_accuracy": summary["test_accuracy"] if averaged else None,
        "audited_messages": summary["audited_messages"],
        "audit_failures": summary["audit_failures"],
        "reason": reason,
    }


def failed(variant: Variant, reason: str) -> Json:
    """The table's row of a protocol that could not be run."""
    nothing = dict.fromkeys(COLUMNS)
    return {**nothing, **_named(variant, ""), "reason": reason}


def add_comparisons(outcomes: Sequence[Json]) -> None:
    """Adds to each row its loss and bytes against those of the first."""
    first = outcomes[0]
    for one in outcomes:
        known = None not in (first["cumulative_loss"], one["cumulative_loss"])
        one["loss_ratio"] = (
            round(one["cumulative_loss"] / first["cumulative_loss"], 4)
            if known
            else None
        )
        one["bytes_ratio"] = (
            round(first["total_bytes"] / one["total_bytes"], 4)
            if first["total_bytes"] and one["total_bytes"]
            else None
        )


def _named(variant: Variant, family: str) -> Json:
    return {
        "protocol": variant.name,
        "family": family,
        "rule": variant.protocol,
        "uplink": variant.uplink,
        "downlink": variant.downlink,
    }
