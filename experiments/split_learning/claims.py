"""The claims of the comparison, tested on its outcomes."""

from collections.abc import Sequence

from experiments.split_learning.methods import build_method
from experiments.split_learning.published import (
    GIGABYTES,
    TFLOPS,
    crossover,
    gigabytes,
    resnet_sizes,
    vgg_work_ratio,
)
from fedjax_comp.experiment.outcome import by_construction, claim, failure_claims
from fedjax_comp.run_directory import Json


def published_claims() -> list[Json]:
    """What follows from shapes at the sizes of the published tables."""
    sizes = resnet_sizes()
    few, many = gigabytes(sizes, 100), gigabytes(sizes, 500)
    work = TFLOPS[100]["fedavg"] / TFLOPS[100]["split"]
    ratio = vgg_work_ratio()
    at = crossover(sizes)
    worst = max(
        abs(ours[method] / GIGABYTES[count][method] - 1)
        for count, ours in ((100, few), (500, many))
        for method in ours
    )
    sends = "ResNet-50, CIFAR-100, {} clients: bytes of split learning over FedAvg's"
    crosses = "ResNet-50, CIFAR-100: clients at which the curves cross, {} {}"
    return [
        *claim(sends.format(100), 1.0, few["split"] / few["fedavg"], above=True),
        *claim(sends.format(500), 1.0, many["split"] / many["fedavg"], at_most=True),
        *claim(crosses.format("above", 100), 100, at, above=True),
        *claim(crosses.format("at most", 500), 500, at, at_most=True),
        *claim(
            "the six published figures are met to a quarter (largest relative "
            "difference)",
            0.25,
            worst,
            at_most=True,
        ),
        *claim(
            "VGG, CIFAR-10: how many times more a client with the whole model works, "
            f"as published ({work:.0f}) to a third (relative difference)",
            1 / 3,
            abs(ratio / work - 1),
            at_most=True,
        ),
    ]


def measured_claims(rows: Sequence[Json]) -> list[Json]:
    """What the runs show; those that are not there claim nothing."""
    done = [one for one in rows if not one["reason"]]
    made = []
    split = _dense(done, "round_robin", parts=2)
    whole = _dense(done, "fed_avg", parts=1)
    both = sorted(set(split) & set(whole))
    if len(both) > 1:
        for count, way in ((both[0], "above"), (both[-1], "at_most")):
            sent = [x[count]["client_megabytes"] for x in (split, whole)]
            made += by_construction(
                claim(
                    f"{count} clients: bytes of split learning over FedAvg's",
                    1.0,
                    sent[0] / sent[1],
                    **{way: True},
                )
            )
            taken = [x[count]["seconds"] for x in (split, whole)]
            made += by_construction(
                claim(
                    f"{count} clients: seconds of split learning, in turns, over "
                    "FedAvg's after as many epochs",
                    1.0,
                    taken[0] / taken[1],
                    above=True,
                )
            )
    for count in both:
        made += claim(
            f"{count} clients: split learning is as accurate as FedAvg after as many "
            "epochs (difference)",
            -0.005,
            split[count]["test_accuracy"] - whole[count]["test_accuracy"],
            at_least=True,
        )
    u_shaped = _dense(done, "round_robin", parts=3)
    for count in sorted(set(u_shaped) & set(split)):
        ours, theirs = (x[count]["test_accuracy"] for x in (u_shaped, split))
        made += claim(
            f"{count} clients: U-shaped is the same training (difference of accuracy)",
            0.002,
            abs(ours - theirs),
            at_most=True,
        )
    return made


def defence_claims(rows: Sequence[Json]) -> list[Json]:
    """What a penalty takes from the server at a cut, and what it costs."""
    told = {}
    for one in rows:
        method = build_method(one["method"])
        if one["recovered_cosine"] is not None and method.kind == "round_robin":
            links = (one["uplink"], one["downlink"])
            told[one["num_clients"], method.cuts, links, method.no_peek] = one
    made = []
    for (count, cut, links, weight), own in told.items():
        plain = told.get((count, cut, links, 0.0))
        if not weight or plain is None:
            continue
        word = f"{count} clients, cut before {cut[0]}: no_peek={weight:g}"
        made += claim(
            f"{word} takes something from the recovered cosine",
            0.0,
            plain["recovered_cosine"] - own["recovered_cosine"],
            above=True,
        )
        made += claim(
            f"{word} costs at most a point of accuracy",
            0.01,
            plain["test_accuracy"] - own["test_accuracy"],
            at_most=True,
        )
    return made


def claims_of(rows: Sequence[Json], *, quick: bool = False) -> list[Json]:
    """That nothing failed, what follows from shapes, and what the runs show.

    Args:
      rows: of the table.
      quick: whether they are too few examples to say what a defence costs.
    """
    return [
        *failure_claims("method", rows),
        *by_construction(published_claims()),
        *measured_claims(rows),
        *([] if quick else defence_claims(rows)),
    ]


def _dense(outcomes: Sequence[Json], kind: str, *, parts: int) -> dict[int, Json]:
    """Runs of one kind with neither compressor nor penalty, by number of clients.

    Of several the first, which others are held against.
    """
    found: dict[int, Json] = {}
    for one in outcomes:
        method = build_method(one["method"])
        if (
            method.kind == kind
            and len(method.cuts) == parts - 1
            and not method.no_peek
            and one["uplink"] == one["downlink"] == "identity()"
        ):
            found.setdefault(one["num_clients"], one)
    return found
