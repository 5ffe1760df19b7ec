"""Means over trials, the claims about them, and their figures."""

from collections.abc import Sequence

from experiments.robust.flags import NO_ATTACK
from fedjax_comp.experiment.measurements import Measured, mean_of, over_trials
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json

COLUMNS = (
    "aggregator",
    "attack",
    "bad_clients",
    "test_accuracy",
    "spread",
    "accuracy_lost",
    "trials",
    "dropped_updates",
)
"""Of `table.csv`; `accuracy_lost` is against the same aggregator without an attack."""

TOLERANCE = 0.05
"""Accuracy that an aggregator may lose to bad clients and still count as robust."""


def summarise(measurements: Sequence[Json]) -> list[Json]:
    """Means over trials by attack, number of bad clients and aggregator."""
    name = "{aggregator}, {bad_clients} bad, {attack}"
    keys = ("attack", "bad_clients", "aggregator")
    rows = [
        {**row, "dropped_updates": mean_of(own, "dropped_updates", 1)}
        for row, own in over_trials(measurements, name, *keys)
    ]
    good = {
        row["aggregator"]: row["test_accuracy"]
        for row in rows
        if row["attack"] == NO_ATTACK
    }
    for row in rows:
        known = good.get(row["aggregator"])
        lost = None if known is None else round(known - row["test_accuracy"], 5)
        row["accuracy_lost"] = lost
    return rows


def claims(measured: Measured) -> list[Json]:
    """That the others withstand a fifth of bad clients, and that the mean does not."""
    few = measured.values.num_clients // 5
    attacked = [
        one
        for one in measured.rows
        if one["attack"] != NO_ATTACK and one["bad_clients"] <= few
    ]
    made: list[Json] = []
    for name in dict.fromkeys(one["aggregator"] for one in attacked):
        lost = [
            one["accuracy_lost"]
            for one in attacked
            if one["aggregator"] == name and one["accuracy_lost"] is not None
        ]
        made += claim(
            f"{name}: most accuracy lost to at most {few} bad clients",
            TOLERANCE,
            max(lost, default=None),
            above=name == "mean",
            at_most=name != "mean",
        )
    return made


def figures(measured: Measured) -> list[Figure]:
    """Accuracy against the number of bad clients, a figure for each attack."""
    good = [one for one in measured.rows if one["attack"] == NO_ATTACK]
    attacks = dict.fromkeys(one["attack"] for one in measured.rows)
    return [
        Figure(
            f"Test accuracy with bad clients: {attack}",
            line_figure(
                [
                    Run(
                        name,
                        [
                            one
                            for one in (*good, *measured.rows)
                            if one["aggregator"] == name
                            and one["attack"] in (NO_ATTACK, attack)
                        ],
                    )
                    for name in dict.fromkeys(x["aggregator"] for x in good)
                ],
                x="bad_clients",
                y="test_accuracy",
                xlabel="Bad clients",
                ylabel="Test accuracy",
                path=measured.figures_path / f"{attack}.png",
            ),
        )
        for attack in attacks
        if attack != NO_ATTACK
    ]
