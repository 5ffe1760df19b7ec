"""Federated averaging as a plain PyTorch loop.

    python torch_loop.py MODEL WORK.npz BATCH_SIZE THREADS [PART PARTS]

This is the fastest such loop that was found: it has no module, no optimizer object and
no copy of a state dict; one call copies, steps or adds up all parameters; images of the
CNN are in channels-last order. With `PART` and `PARTS` it takes only its share of the
clients, on a core of its own, and does not add the shares up.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np


def to_torch(name: str, array: np.ndarray, *, channels: int | None) -> np.ndarray:
    """A JAX parameter in PyTorch's layout: OIHW kernels, dense layers transposed.

    `channels` is how many channels the first dense layer's inputs were flattened from,
    channels last in JAX and first in PyTorch; None where there are none.
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and name == "Dense_0/kernel" and channels is not None:
        pixels, width = array.shape[0] // channels, array.shape[1]
        swapped = array.reshape(pixels, channels, width).swapaxes(0, 1)
        return swapped.reshape(-1, width).T
    return array.T


def logits_of(model: str, torch: Any) -> Any:
    """`(parameters, images) -> logits` of `cnn` or `mlp`."""
    relu, linear = torch.relu, torch.nn.functional.linear
    convolve = torch.nn.functional.conv2d
    pool = torch.nn.functional.max_pool2d

    def mlp(p: Any, x: Any) -> Any:
        x = relu(linear(x.flatten(1), p[0], p[1]))
        return linear(relu(linear(x, p[2], p[3])), p[4], p[5])

    def cnn(p: Any, x: Any) -> Any:
        x = pool(relu(convolve(x, p[0], p[1], padding=2)), 2)
        x = pool(relu(convolve(x, p[2], p[3], padding=2)), 2)
        return linear(relu(linear(x.flatten(1), p[4], p[5])), p[6], p[7])

    return mlp if model == "mlp" else cnn


def main(
    model: str, path: str, batch_size: int, threads: int, part: int, parts: int
) -> None:
    """Runs one round, reports, then runs one round a line of standard input."""
    if parts > 1:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[part % len(cores)]})
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    work = np.load(path)
    names = [n for n in work.files if n.startswith("before/")]
    channels = 64 if model == "cnn" else None
    form = torch.channels_last if model == "cnn" else torch.contiguous_format
    logits = logits_of(model, torch)
    rate, scale = float(work["learning_rate"]), float(work["scale"])

    def parameters(prefix: str) -> list[Any]:
        arrays = [
            to_torch(name, work[f"{prefix}/{name}"], channels=channels)
            for name in (n.removeprefix("before/") for n in names)
        ]
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        return [
            x.contiguous(memory_format=form) if x.dim() == 4 else x for x in tensors
        ]

    x = torch.from_numpy(work["x"]).permute(0, 1, 4, 2, 3)
    x = [images.contiguous(memory_format=form) for images in x]
    y = torch.from_numpy(work["y"]).long()
    num_clients, num_examples = y.shape
    own = range(part * num_clients // parts, (part + 1) * num_clients // parts)
    server = parameters("before")
    client = [p.clone().requires_grad_() for p in server]
    total = [torch.zeros_like(p) for p in server]

    def run_round() -> None:
        torch._foreach_zero_(total)
        for i in own:
            with torch.no_grad():
                torch._foreach_copy_(client, server)
            images = x[i].float() * scale
            for start in range(0, num_examples, batch_size):
                rows = slice(start, start + batch_size)
                loss = torch.nn.functional.cross_entropy(
                    logits(client, images[rows]), y[i, rows]
                )
                grads = torch.autograd.grad(loss, client)
                with torch.no_grad():
                    torch._foreach_add_(client, grads, alpha=-rate)
            with torch.no_grad():
                torch._foreach_add_(total, client, alpha=1 / num_clients)
        if parts == 1:
            torch._foreach_copy_(server, total)

    run_round()
    difference = None
    if parts == 1:
        difference = max(
            float((p - value).abs().max())
            for p, value in zip(server, parameters("after"), strict=True)
        )
    ready = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "difference": difference,
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        start_time = time.perf_counter()
        run_round()
        print(time.perf_counter() - start_time, flush=True)


if __name__ == "__main__":
    text, numbers = sys.argv[1:3], [int(x) for x in sys.argv[3:]]
    main(text[0], text[1], *(numbers if len(numbers) == 4 else [*numbers, 0, 1]))
