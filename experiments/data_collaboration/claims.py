"""Means over trials, and what they are held against."""

from collections.abc import Sequence

import numpy as np
from absl import flags

from fedjax_comp.experiment.measurements import claim, failure_claim
from fedjax_comp.run_directory import Json

PUBLISHED = {(1, 100): 0.732, (10, 100): 0.875, (5, 1000): 0.949}
"""Accuracy of data collaboration on MNIST by users and examples of each: the series of
Bogdanova et al. 2020 (arXiv 2011.06803). That the last one is of five users follows
from its centralised rival, which has one curve through both sweeps."""

CURVE = {1: 0.732, 2: 0.8, 3: 0.822, 5: 0.846, 7: 0.861, 10: 0.875}
"""The same, by users with 100 examples each: the reference line of the figure."""

WITHIN = 0.03
PUBLISHED_MODEL = "mlp(512, 128)"


def summarise(rows: Sequence[Json]) -> list[Json]:
    """Means over trials, method by method and cell by cell.

    >>> row = {"method": "a", "users": 1, "examples": 2, "test_accuracy": 0.5,
    ...        "uplink_bytes": 8, "downlink_bytes": 9}
    >>> summarise([row, {**row, "test_accuracy": 0.7}])[0]["test_accuracy"]
    0.6
    """
    names = ("method", "users", "examples")
    groups: dict[tuple, list[Json]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    table = []
    for group, own in sorted(groups.items(), key=lambda item: item[0]):
        accuracies = [row["test_accuracy"] for row in own]
        table.append(
            {
                **dict(zip(names, group, strict=True)),
                "test_accuracy": round(float(np.mean(accuracies)), 5),
                "spread": round(
                    float(np.std(accuracies, ddof=min(1, len(own) - 1))), 5
                ),
                "trials": len(own),
                "uplink_bytes": round(np.mean([row["uplink_bytes"] for row in own])),
                "downlink_bytes": round(
                    np.mean([row["downlink_bytes"] for row in own])
                ),
            }
        )
    return table


def claims_of(
    table: Sequence[Json],
    failures: Sequence[Json],
    first: str,
    values: flags.FlagValues,
) -> list[Json]:
    """All claims that this table allows to be looked at."""
    at = {(one["method"], one["users"], one["examples"]): one for one in table}

    def accuracy(method: str, users: int, examples: int) -> float | None:
        found = at.get((method, users, examples))
        return None if found is None else found["test_accuracy"]

    made = failure_claim(failures)
    if values.dataset == "mnist" and values.model == PUBLISHED_MODEL:
        for (users, examples), published in PUBLISHED.items():
            ours = accuracy(first, users, examples)
            made += claim(
                f"{first}, {users} users of {examples}: distance of accuracy from the "
                f"published {published}",
                WITHIN,
                None if ours is None else abs(ours - published),
                at_least=False,
            )
    most = max(values.num_users)
    ours, alone = (
        accuracy(name, most, values.base_examples) for name in (first, "individual")
    )
    if most > 1 and ours is not None and alone is not None:
        made += claim(
            f"{first}, {most} users: accuracy above that of a user alone",
            0.0,
            ours - alone,
            at_least=True,
        )
    pair = [at.get((name, most, values.base_examples)) for name in (first, "fed_avg")]
    if all(pair):
        one, other = (row["uplink_bytes"] for row in pair if row)
        made += claim(
            f"{first}, {most} users: times fewer bytes sent by users than fed_avg",
            1.0,
            other / one,
            at_least=True,
        )
    base = (values.base_users, values.base_examples)
    plain, coarse = accuracy(first, *base), accuracy("8-bit", *base)
    if plain is not None and coarse is not None:
        made += claim(
            "8-bit upload: accuracy lost at the base setting",
            0.01,
            plain - coarse,
            at_least=False,
        )
    return made
