"""A round by pfl's own federated averaging (Granqvist et al., "pfl-research", 2024).

    python pfl_loop.py MODEL WORK.npz BATCH_SIZE THREADS

It uses pfl's simulated backend and PyTorch. A callback after every central iteration
reports the time since the last line that was read.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main(model: str, path: str, batch_size: int, threads: int) -> None:
    """Runs one round, reports, then runs one round a line of standard input."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    loop: Any = importlib.import_module("torch_loop")
    pfl_data: Any = importlib.import_module("pfl.data.dataset")
    federated: Any = importlib.import_module("pfl.data.federated_dataset")
    backends: Any = importlib.import_module("pfl.aggregate.simulate")
    models: Any = importlib.import_module("pfl.model.pytorch")
    algorithms: Any = importlib.import_module("pfl.algorithm.federated_averaging")
    base: Any = importlib.import_module("pfl.algorithm.base")
    hyper: Any = importlib.import_module("pfl.hyperparam.base")
    callbacks: Any = importlib.import_module("pfl.callback.base")
    work = np.load(path)
    names = [n.removeprefix("before/") for n in work.files if n.startswith("before/")]
    channels = 64 if model == "cnn" else None
    logits, scale = loop.logits_of(model, torch), float(work["scale"])

    def parameters(prefix: str) -> list[Any]:
        return [
            torch.from_numpy(
                np.ascontiguousarray(
                    loop.to_torch(name, work[f"{prefix}/{name}"], channels=channels)
                )
            )
            for name in names
        ]

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        """As pfl asks for: a loss, and metrics that nobody asks for here."""

        def __init__(self) -> None:
            super().__init__()
            self.own = torch.nn.ParameterList(
                torch.nn.Parameter(p) for p in parameters("before")
            )

        def loss(self, x: Any, y: Any, eval: bool = False) -> Any:
            del eval
            images = x.float() * scale
            return torch.nn.functional.cross_entropy(logits(list(self.own), images), y)

        def metrics(self, x: Any, y: Any, eval: bool = True) -> dict[str, Any]:
            del x, y, eval
            return {}

    x = torch.from_numpy(work["x"]).permute(0, 1, 4, 2, 3).contiguous()
    y = torch.from_numpy(work["y"]).long()
    users = [pfl_data.Dataset((x[i], y[i])) for i in range(len(y))]
    turn = iter(range(1 << 60))
    population = federated.FederatedDataset(
        lambda i: users[i], lambda: next(turn) % len(users)
    )
    module = Model()
    trained = models.PyTorchModel(
        module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0)
    )

    class Report(callbacks.TrainingProcessCallback):  # type: ignore[misc, name-defined]
        """Facts after the first iteration, the seconds of each after the others."""

        started = 0.0

        def after_central_iteration(
            self, aggregate_metrics: Any, model: Any, *, central_iteration: int
        ) -> tuple[bool, Any]:
            del aggregate_metrics, model
            if central_iteration == 0:
                difference = max(
                    float((p.detach() - value).abs().max())
                    for p, value in zip(module.own, parameters("after"), strict=True)
                )
                facts = {
                    "pfl": importlib.import_module("importlib.metadata").version("pfl"),
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                    "difference": difference,
                }
                print(json.dumps(facts), flush=True)
            else:
                print(time.perf_counter() - self.started, flush=True)
            is_over = not sys.stdin.readline()
            self.started = time.perf_counter()
            return is_over, importlib.import_module("pfl.metrics").Metrics()

    algorithms.FederatedAveraging().run(
        base.NNAlgorithmParams(
            central_num_iterations=1 << 30,
            evaluation_frequency=1 << 31,
            train_cohort_size=len(users),
            val_cohort_size=0,
        ),
        backends.SimulatedBackend(population, population),
        trained,
        hyper.NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=float(work["learning_rate"]),
            local_batch_size=batch_size,
        ),
        callbacks=[Report()],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
