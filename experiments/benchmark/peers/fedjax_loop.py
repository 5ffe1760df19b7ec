"""A round by fedjax's own federated averaging (Ro, Suresh and Wu, "FedJAX", 2021).

    python fedjax_loop.py MODEL WORK.npz BATCH_SIZE [DEVICES]

Clients are in memory, in the order of the work. With several `DEVICES` fedjax's own
backend (`pmap`) spreads the clients over them; else they run one by one under `jit`.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np


def loss_of(model: str, jax: Any, scale: float) -> Any:
    """`(parameters, batch, key) -> mean loss` of `cnn` or `mlp`."""
    jnp, lax = jax.numpy, jax.lax

    def dense(p: Any, name: str, x: Any) -> Any:
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def convolve(p: Any, name: str, x: Any) -> Any:
        x = lax.conv_general_dilated(
            x,
            p[f"{name}/kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + p[f"{name}/bias"])
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )

    def logits(p: Any, x: Any) -> Any:
        if model == "cnn":
            x = convolve(p, "Conv_1", convolve(p, "Conv_0", x))
        x = x.reshape(x.shape[0], -1)
        last = 1 if model == "cnn" else 2
        for i in range(last):
            x = jax.nn.relu(dense(p, f"Dense_{i}", x))
        return dense(p, f"Dense_{last}", x)

    def loss(p: Any, batch: Any, key: Any) -> Any:
        del key
        log = jax.nn.log_softmax(logits(p, batch["x"].astype(jnp.float32) * scale))
        return -jnp.take_along_axis(log, batch["y"][:, None], axis=1).mean()

    return loss


def main(model: str, path: str, batch_size: int, devices: int) -> None:
    """Runs one round, reports, then runs one round a line of standard input."""
    # What the jax that fedjax asks for has in place of `jax_num_cpu_devices`.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    jax: Any = importlib.import_module("jax")
    fedjax: Any = importlib.import_module("fedjax")
    fed_avg: Any = importlib.import_module("fedjax.algorithms.fed_avg")
    work = np.load(path)
    names = [n.removeprefix("before/") for n in work.files if n.startswith("before/")]
    loss = loss_of(model, jax, float(work["scale"]))
    sgd = fedjax.optimizers.sgd
    if devices > 1:
        fedjax.set_for_each_client_backend("pmap")
    algorithm = fed_avg.federated_averaging(
        jax.grad(loss),
        sgd(float(work["learning_rate"])),
        sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=batch_size, num_epochs=1, skip_shuffle=True
        ),
    )
    clients = [
        (str(i), fedjax.ClientDataset({"x": x, "y": y}), key)
        for i, (x, y, key) in enumerate(
            zip(
                work["x"],
                work["y"],
                jax.random.split(jax.random.PRNGKey(0), len(work["y"])),
                strict=True,
            )
        )
    ]
    before = {name: jax.numpy.asarray(work[f"before/{name}"]) for name in names}

    def run_round() -> Any:
        state, _ = algorithm.apply(algorithm.init(before), clients)
        return jax.block_until_ready(state.params)

    after = run_round()
    difference = max(
        float(np.abs(np.asarray(after[name]) - work[f"after/{name}"]).max())
        for name in names
    )
    ready = {
        "fedjax": importlib.import_module("importlib.metadata").version("fedjax"),
        "jax": jax.__version__,
        "devices": jax.device_count(),
        "difference": difference,
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        start_time = time.perf_counter()
        run_round()
        print(time.perf_counter() - start_time, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int((*sys.argv, "1")[4]))
