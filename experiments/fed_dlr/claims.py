"""The cost of FedDLR's compact model, against the cheapest equally accurate model."""

from collections.abc import Sequence
from typing import cast

from fedjax_comp.experiment.comparison import Results
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.outcome import claim, failure_claims, ratio
from fedjax_comp.metrics import Row, to_target
from fedjax_comp.run_directory import Json

TOLERANCE, FEWER_FLOPS = 0.005, 3.0
"""What a compact model may lose to the first pipeline's accuracy, and is to save."""


def is_fed_dlr(algorithm: str) -> bool:
    """Whether an expression of `--algorithm` is FedDLR."""
    return bool(build("algorithm", algorithm).name == "fed_dlr")


def rivals(rows: Sequence[Json]) -> list[Json]:
    """All that ran and is not FedDLR."""
    return [
        row for row in rows if not row["reason"] and not is_fed_dlr(row["algorithm"])
    ]


def add_costs(results: Results) -> None:
    """Adds to each row what it cost to be accurate.

    `..._to_target` is the cost to the first one's best accuracy less the tolerance.
    FedDLR's rows have besides `rival`, the pipeline of another kind that reached their
    compact model's accuracy with the fewest bytes both ways, `rival_bytes`, these
    bytes, and `rival_bytes_ratio`, these over the bytes of FedDLR's whole run.
    """
    first = results.rows[0]
    # When the first failed there is no target, and nobody reached it.
    target = None if first["reason"] else first["best_test_accuracy"] - TOLERANCE
    evaluations = {run.name: cast(Sequence[Row], run.rows) for run in results.curves}
    others = rivals(results.rows)
    for row in results.rows:
        row |= to_target(evaluations.get(row["name"], ()), target)
        if row["reason"] or not is_fed_dlr(row["algorithm"]):
            continue
        asked = row["compact_accuracy"]
        costs = {
            name: to_target(evaluations[name], asked)["total_bytes_to_target"]
            for name in (other["name"] for other in others)
        }
        reached = {name: cost for name, cost in costs.items() if cost is not None}
        name = min(reached, key=lambda name: reached[name], default=None)
        cost = None if name is None else reached[name]
        row |= {
            "rival": name,
            "rival_bytes": cost,
            "rival_bytes_ratio": ratio(cost, row["total_bytes"]),
        }


def graded(rows: Sequence[Json]) -> Json | None:
    """The FedDLR of the fewest bytes whose compact model is as accurate as asked.

    When none is, the one whose compact model is the most accurate; None without any.
    """
    made = [one for one in rows if not one["reason"] and is_fed_dlr(one["algorithm"])]
    if not made or rows[0]["reason"]:
        return None
    least = rows[0]["best_test_accuracy"] - TOLERANCE
    accurate = [one for one in made if one["compact_accuracy"] >= least]
    if accurate:
        return min(accurate, key=lambda one: one["total_bytes"])
    return max(made, key=lambda one: one["compact_accuracy"])


def claims(results: Results) -> list[Json]:
    """What the README says the experiment shows, held against these runs.

    With `--quick` only that nothing failed: of a model this small and runs this short
    nothing else is to be learned.
    """
    made = failure_claims("pipeline", results.rows)
    best = graded(results.rows)
    if best is None or results.values.quick:
        return made
    name = f"({best['name']})"
    lost = results.rows[0]["best_test_accuracy"] - best["compact_accuracy"]
    made += claim(
        f"accuracy that the compact model {name} lost to dense training's best",
        TOLERANCE,
        lost,
        at_most=True,
    )
    others = rivals(results.rows)
    rival, times = best["rival"], best["rival_bytes_ratio"]
    if rival is None and others:
        # Nobody came there in its rounds: the cheapest of the near ones.
        nearly = best["compact_accuracy"] - TOLERANCE
        near = [one for one in others if one["best_test_accuracy"] >= nearly]
        if not near:
            near = [max(others, key=lambda one: one["best_test_accuracy"])]
        cheapest = min(near, key=lambda one: one["total_bytes"])
        rival = cheapest["name"]
        times = ratio(cheapest["total_bytes"], best["total_bytes"])
    made += claim(
        "times as many bytes that the best rival took to the compact model's accuracy "
        f"({best['name']} against {rival})",
        1.0,
        times,
        above=True,
    )
    cut = max(
        (one for one in others if one["cut_parameters"] < one["dense_parameters"]),
        key=lambda one: one["cut_accuracy"],
        default=None,
    )
    if cut is not None:
        made += claim(
            "accuracy of the compact model beyond that of the best rival cut after "
            f"training ({best['name']} against {cut['name']})",
            0.0,
            best["compact_accuracy"] - cut["cut_accuracy"],
            above=True,
        )
    made += claim(
        f"times fewer operations of the compact model {name}",
        FEWER_FLOPS,
        best["dense_over_compact_flops"],
        at_least=True,
    )
    for batch in (1, 256):
        control = best[f"dense_over_control_seconds_batch_{batch}"]
        made += claim(
            f"times less latency of the compact model {name}, batch {batch}, beyond "
            "dense against dense",
            max(control, 1 / control),
            best[f"dense_over_compact_seconds_batch_{batch}"],
            above=True,
        )
    return made
