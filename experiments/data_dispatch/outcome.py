"""Means over trials, the claims about them, and their figures."""

from collections.abc import Sequence

from experiments.data_dispatch.flags import GLOBAL, LARGE
from fedjax_comp.experiment.measurements import (
    Measured,
    claims_over_trials,
    mean_of,
    over_trials,
)
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json


def summarise(measurements: Sequence[Json]) -> list[Json]:
    """Means over trials by dispatcher and machines; sizes are extremes over trials."""
    name = "{dispatcher}, {num_clients} machines"
    return [
        {
            **row,
            "copies": mean_of(own, "copies", 3),
            "smallest": min(one["smallest"] for one in own),
            "largest": max(one["largest"] for one in own),
            "steps": mean_of(own, "steps"),
            "parameters": mean_of(own, "parameters"),
            "uplink_bytes": mean_of(own, "uplink_bytes"),
        }
        for row, own in over_trials(measurements, name, "dispatcher", "num_clients")
    ]


GAP = 0.05
"""Part of the least cost by which a greedy assignment may exceed it."""


def claims(measured: Measured) -> list[Json]:
    """Clusters against their rivals, on as many machines as there were at most.

    With `--quick` the data are too few for a claim against one model of all of them.
    """
    quick = measured.values.quick
    made = claims_over_trials(
        measured.measurements, lambda own: claims_of(summarise(own), quick=quick)
    )
    gaps = [one["largest_gap"] for one in measured.facts.get("greedy_gap", ())]
    return made + claim(
        "greedy assignments cost more than the least on small instances, as a part of "
        "it (the largest)",
        GAP,
        max(gaps, default=None),
        at_most=True,
    )


def claims_of(rows: Sequence[Json], *, quick: bool = False) -> list[Json]:
    """The claims that these rows allow to be looked at.

    Args:
      rows: of the table.
      quick: whether they are of data that are too few to say how clusters compare with
        one model, or with the tree.
    """
    most = max(one["num_clients"] for one in rows)
    at = {
        one["dispatcher"]: one["test_accuracy"]
        for one in rows
        if one["num_clients"] in (most, 1)
    }
    ours = at.get("clusters")
    if ours is None or most == 1:
        return []
    made: list[Json] = []
    above = "clusters, {} machines: accuracy above that of {}"
    whole = () if quick else ("tree", GLOBAL, LARGE.format(most))
    for rival in ("random", "hashing", *whole):
        if rival in at:
            name = above.format(most, rival)
            made += claim(name, 0.0, ours - at[rival], above=True)
    if "clusters-p2" in at and not quick:
        made += claim(
            f"clusters, {most} machines: accuracy gained by a second copy",
            0.0,
            at["clusters-p2"] - ours,
            above=True,
        )
    return made


def figures(measured: Measured) -> list[Figure]:
    """Accuracy against machines and against bytes moved; one model is dashed."""
    rows, folder = measured.rows, measured.figures_path
    counts = sorted({one["num_clients"] for one in rows})
    machines = [count for count in counts if count > 1] or counts
    large = {LARGE.format(count): count for count in machines}
    names = dict.fromkeys(one["dispatcher"] for one in rows)
    runs = [
        Run(name, [one for one in rows if one["dispatcher"] == name])
        for name in names
        if name != GLOBAL and name not in large
    ]
    as_large = [
        {**one, "num_clients": large[one["dispatcher"]]}
        for one in rows
        if one["dispatcher"] in large
    ]
    if as_large:
        runs.append(Run("one model as large", as_large))
    level = [one for one in rows if one["dispatcher"] == GLOBAL]
    ends = (machines[0], machines[-1])
    dashed = [{**one, "num_clients": k} for one in level for k in ends]
    by_machines = line_figure(
        runs or [Run(one["name"], [one]) for one in rows],
        x="num_clients",
        y="test_accuracy",
        xlabel="Machines (logarithmic)",
        ylabel="Test accuracy",
        path=folder / "accuracy_against_machines.png",
        log_x=True,
        x_format=lambda count: f"{count:g}",
        reference=Run(GLOBAL, dashed) if dashed else None,
    )
    shown = [
        one
        for one in rows
        if one["num_clients"] == machines[-1]
        or one["dispatcher"] in (GLOBAL, LARGE.format(machines[-1]))
    ]
    by_bytes = line_figure(
        [Run(one["dispatcher"], [one]) for one in shown],
        x="uplink_bytes",
        y="test_accuracy",
        xlabel="Moved to the machines (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=folder / "accuracy_against_bytes.png",
        log_x=True,
        x_format=format_bytes,
    )
    return [
        Figure("Test accuracy against machines", by_machines),
        Figure(f"Test accuracy against bytes, {machines[-1]} machines", by_bytes),
    ]
