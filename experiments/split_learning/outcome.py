"""The result of a method's run: a row of the table and a curve over bytes."""

from collections.abc import Sequence

import jax

from experiments.split_learning.methods import Method, Variant
from experiments.split_learning.problem import Setting, build_split, share_of_batch
from experiments.split_learning.seconds import (
    Links,
    messages_of_client,
    run_seconds,
)
from experiments.split_learning.work import client_flops
from fedjax_comp.algorithms.links.split_exchange import divide
from fedjax_comp.keys import make_key
from fedjax_comp.metrics import Row
from fedjax_comp.report import Run
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bytes

COLUMNS = (
    "method",
    "num_clients",
    "test_accuracy",
    "best_test_accuracy",
    "client_megabytes",
    "handover_megabytes",
    "client_gigaflops",
    "seconds",
    "distance_correlation",
    "recovered_cosine",
    "guessed_cosine",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
)
"""Megabytes (10**6 bytes) and operations are of one client in the whole run, bytes both
ways; `handover_megabytes` is what of them is weights. `seconds` are of the whole run on
the given links (`seconds`). The last model's activations, as the link brings them, have
`distance_correlation` with the test images; `recovered_cosine` is that of these images
with what the server makes of them (`recovery`)."""


def curve_of(variant: Variant, rows: Sequence[Row], seconds: float) -> Run:
    """Accuracy against bytes of one client and against the seconds of the run."""
    last = rows[-1]["round"] if rows else 1
    return Run(
        variant.name,
        [
            {
                "seconds": seconds * row["round"] / last,
                "client_bytes": (row["uplink_bytes"] + row["downlink_bytes"])
                / variant.num_clients,
                "test_accuracy": row["test_accuracy"],
            }
            for row in rows
        ],
    )


def measured(
    variant: Variant,
    method: Method,
    setting: Setting,
    summary: Json,
    batch_size: int,
    links: Links,
) -> Json:
    """A row of the table, leakage apart."""
    count = variant.num_clients
    total = summary["total_bytes"]
    num_train = len(setting.dataset.train.y)
    if method.kind == "large_batch":
        batch, steps = share_of_batch(num_train, count, method.steps), 1
    else:
        batch = batch_size or -(-num_train // count)
        steps = -(-num_train // count // batch)
    work = summary["rounds"] * steps * client_flops(method, setting, batch)
    (row,) = summary["runs"]
    return {
        **row,
        "name": variant.name,
        "client_megabytes": total / count / 1e6,
        "handover_megabytes": (
            2 * handover_bytes(method, setting) * summary["rounds"] / 1e6
            if method.cuts
            else total / count / 1e6
        ),
        "client_gigaflops": work / 1e9,
        "seconds": run_seconds(
            method,
            links,
            num_clients=count,
            uplink_bytes=summary["uplink_bytes"],
            downlink_bytes=summary["downlink_bytes"],
            messages=messages_of_client(method, summary["rounds"], steps),
            flops=work,
        ),
        "audited_messages": summary["audited_messages"],
        "audit_failures": summary["audit_failures"],
    }


def handover_bytes(method: Method, setting: Setting) -> int:
    """Of the client's part, one way."""
    params = jax.eval_shape(setting.task.init, make_key(0))
    return message_bytes(divide(build_split(setting, method.cuts), params).client)
