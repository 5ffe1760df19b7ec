"""The other contender: federated averaging as a plain PyTorch loop, in a process.

    python torch_loop.py MODEL WORK.npz BATCH_SIZE

reads a round's work (see `cohort_round.write_work`), does that round once and prints
one JSON line: versions, and the largest difference from the parameters that JAX got
from the same work. From then on it runs one round for every line it reads and prints
the seconds. It imports neither JAX nor the library, so any Python with PyTorch and
NumPy runs it.
"""

import importlib
import json
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


def build(model: str, torch: Any) -> Any:
    """The PyTorch module of `cnn` or `mlp`."""
    nn = torch.nn
    if model == "mlp":
        layers = [nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(200, 10))
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


def main(model: str, work_path: str, batch_size: int) -> None:
    """Runs one round, reports, then runs one round a line of standard input."""
    torch = importlib.import_module("torch")
    work = np.load(work_path)
    server, client = build(model, torch), build(model, torch)
    names = [n for n in work.files if n.startswith("before/")]
    channels = 64 if model == "cnn" else None

    def parameters(prefix: str) -> list[Any]:
        arrays = [
            to_torch(name, work[f"{prefix}/{name}"], channels=channels)
            for name in (n.removeprefix("before/") for n in names)
        ]
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    x = torch.from_numpy(work["x"]).permute(0, 1, 4, 2, 3).contiguous()
    y = torch.from_numpy(work["y"]).long()
    num_clients, num_examples = y.shape
    optimizer = torch.optim.SGD(client.parameters(), lr=float(work["learning_rate"]))

    def run_round() -> None:
        total = [torch.zeros_like(p) for p in server.parameters()]
        for i in range(num_clients):
            client.load_state_dict(server.state_dict())
            for start in range(0, num_examples, batch_size):
                rows = slice(start, start + batch_size)
                optimizer.zero_grad()
                logits = client(x[i, rows].float() * float(work["scale"]))
                torch.nn.functional.cross_entropy(logits, y[i, rows]).backward()
                optimizer.step()
            with torch.no_grad():
                for t, new, old in zip(
                    total, client.parameters(), server.parameters(), strict=True
                ):
                    t += (new - old) / num_clients
        with torch.no_grad():
            for p, t in zip(server.parameters(), total, strict=True):
                p += t

    with torch.no_grad():
        for p, value in zip(server.parameters(), parameters("before"), strict=True):
            p.copy_(value)
    run_round()
    difference = max(
        float((p.detach() - value).abs().max())
        for p, value in zip(server.parameters(), parameters("after"), strict=True)
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
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
