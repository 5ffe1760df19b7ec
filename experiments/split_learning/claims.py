"""What the comparison is to show, held against its outcomes."""

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
    return [
        _claim(
            "ResNet-50, CIFAR-100, 100 clients: split learning sends more than FedAvg "
            "(times as much)",
            1.0,
            few["split"] / few["fedavg"],
            few["split"] > few["fedavg"],
        ),
        _claim(
            "ResNet-50, CIFAR-100, 500 clients: split learning sends less than FedAvg "
            "(times as much)",
            1.0,
            many["split"] / many["fedavg"],
            many["split"] < many["fedavg"],
        ),
        _claim("the curves cross between 100 and 500 clients", 500, at, 100 < at < 500),
        _claim(
            "the six published figures are met to a quarter (largest relative "
            "difference)",
            0.25,
            worst,
            worst <= 0.25,
        ),
        _claim(
            f"VGG, CIFAR-10: a client with the whole model works as many times more as "
            f"published ({work:.0f}), to a third",
            round(work),
            ratio,
            abs(ratio / work - 1) <= 1 / 3,
        ),
    ]


def measured_claims(outcomes: Sequence[Json]) -> list[Json]:
    """What the runs show; those that are not there claim nothing."""
    done = [one for one in outcomes if one["accuracy"] is not None]
    made = []
    split = _dense(done, "round_robin", parts=2)
    whole = _dense(done, "fed_avg", parts=1)
    both = sorted(set(split) & set(whole))
    if len(both) > 1:
        few, many = both[0], both[-1]
        made += [
            _claim(
                f"{count} clients: bytes of split learning as a multiple of FedAvg's "
                f"({'more' if count == few else 'fewer'})",
                1.0,
                split[count]["client_megabytes"] / whole[count]["client_megabytes"],
                (split[count]["client_megabytes"] > whole[count]["client_megabytes"])
                == (count == few),
            )
            for count in (few, many)
        ]
    for count in both:
        lead = split[count]["accuracy"] - whole[count]["accuracy"]
        made.append(
            _claim(
                f"{count} clients: split learning is as accurate as FedAvg after as "
                "many epochs (difference)",
                -0.005,
                lead,
                lead >= -0.005,
            )
        )
    u_shaped = _dense(done, "round_robin", parts=3)
    for count in sorted(set(u_shaped) & set(split)):
        difference = abs(u_shaped[count]["accuracy"] - split[count]["accuracy"])
        made.append(
            _claim(
                f"{count} clients: U-shaped is the same training (difference of "
                "accuracy)",
                0.002,
                difference,
                difference <= 0.002,
            )
        )
    audited = sum(one["audited_messages"] for one in done)
    if audited:
        failures = sum(one["audit_failures"] for one in done)
        made.append(
            _claim(
                "every audited message decodes bit for bit from its bytes",
                0,
                failures,
                failures == 0,
            )
        )
    return made


def _dense(outcomes: Sequence[Json], kind: str, *, parts: int) -> dict[int, Json]:
    """Uncompressed runs of one kind, by number of clients."""
    return {
        one["clients"]: one
        for one in outcomes
        if build_method(one["method"]).kind == kind
        and len(build_method(one["method"]).cuts) == parts - 1
        and one["uplink"] == one["downlink"] == "identity()"
    }


def _claim(name: str, target: float, measured: float, holds: bool) -> Json:
    return {
        "name": name,
        "target": target,
        "measured": round(measured, 4),
        "holds": bool(holds),
    }
