"""Means over trials, and what they are held against."""

from collections.abc import Sequence

import numpy as np

from experiments.data_dispatch.dispatchers import GLOBAL
from fedjax_comp.experiment.measurements import claim, failure_claim
from fedjax_comp.run_directory import Json


def summarise(rows: Sequence[Json]) -> list[Json]:
    """Means over trials by dispatcher and machines; sizes are extremes over trials."""
    groups: dict[tuple[str, int], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["dispatcher"], row["machines"]), []).append(row)
    table = []
    for (name, machines), own in sorted(groups.items()):

        def mean(column: str, own: list[Json] = own) -> float:
            return float(np.mean([row[column] for row in own]))

        table.append(
            {
                "dispatcher": name,
                "machines": machines,
                "test_accuracy": round(mean("test_accuracy"), 5),
                "spread": round(
                    float(
                        np.std(
                            [row["test_accuracy"] for row in own],
                            ddof=min(1, len(own) - 1),
                        )
                    ),
                    5,
                ),
                "trials": len(own),
                "copies": round(mean("copies"), 3),
                "smallest": min(row["smallest"] for row in own),
                "largest": max(row["largest"] for row in own),
                "steps": round(mean("steps")),
                "uplink_bytes": round(mean("uplink_bytes")),
            }
        )
    return table


def claims_of(table: Sequence[Json], failures: Sequence[Json]) -> list[Json]:
    """All claims that this table allows to be looked at."""
    made = failure_claim(failures)
    most = max(one["machines"] for one in table)
    at = {one["dispatcher"]: one for one in table if one["machines"] == most}
    one_model = [one for one in table if one["dispatcher"] == GLOBAL]
    ours = at.get("clusters")
    if ours is None or most == 1:
        return made
    for rival in ("random", "hashing", "tree"):
        if rival in at:
            made += claim(
                f"clusters, {most} machines: accuracy above that of {rival}",
                0.0,
                ours["test_accuracy"] - at[rival]["test_accuracy"],
                at_least=True,
            )
    if one_model:
        made += claim(
            f"clusters, {most} machines: accuracy above that of one model",
            0.0,
            ours["test_accuracy"] - one_model[0]["test_accuracy"],
            at_least=True,
        )
    replicated = at.get("clusters-p2")
    if replicated is not None:
        made += claim(
            f"clusters, {most} machines: accuracy gained by a second copy",
            0.0,
            replicated["test_accuracy"] - ours["test_accuracy"],
            at_least=True,
        )
    return made
