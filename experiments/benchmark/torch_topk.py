"""The other contender of `kernels`: PyTorch's top-k of magnitudes, as its own process.

    python torch_topk.py X.npy K

The script loads a vector, finds its K largest magnitudes once and prints one JSON line:
versions, and the least magnitude found. From then on it finds them once for every line
it reads and prints the seconds. It imports neither JAX nor this library.
"""

import importlib
import json
import sys
import time

import numpy as np


def main(path: str, k: int) -> None:
    """Reports, then runs once a line of standard input."""
    torch = importlib.import_module("torch")
    x = torch.from_numpy(np.load(path, allow_pickle=False))

    def run() -> float:
        indices = torch.topk(x.abs(), k, sorted=False).indices
        return float(x[indices].abs().min())

    ready = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "threshold": run(),
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
