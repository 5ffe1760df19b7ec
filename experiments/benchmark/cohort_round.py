"""Seconds for one round of federated averaging, beside a plain PyTorch loop.

    python -m experiments.benchmark.cohort_round --model=cnn

All contenders do the same round from the same parameters, and the largest difference
of their results is printed: it is the same arithmetic. They take turns, so that what
else the machine does falls on all of them.
"""

import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments.benchmark import torch_loop
from fedjax_comp import execution, models
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import ClientBatches, Cohort, Examples, Execution, PyTree
from fedjax_comp.keys import make_key

FLAGS = flags.FLAGS
LEARNING_RATE, SCALE = 0.1, 1 / 255

Round = Callable[[], float]
"""Runs one round and returns its seconds."""


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_enum("model", "cnn", ["cnn", "mlp"], "McMahan et al.'s CNN or 2NN.")
    flags.DEFINE_integer("num_clients", 10, "Clients in the cohort.", lower_bound=1)
    flags.DEFINE_integer("examples", 100, "Examples of each client.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 20, "Examples in a local batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 10, "Rounds timed of each.", lower_bound=1)
    flags.DEFINE_integer("cpu_devices", 2, "CPU devices of the mesh.", lower_bound=1)
    flags.DEFINE_bool("all", False, "Also the strategies that are not the default.")
    flags.DEFINE_string("torch_python", None, "A Python that has PyTorch.")


def make_cohort(num_clients: int, examples: int, batch_size: int) -> Cohort:
    """Random images, one epoch of them: `S = examples / batch_size` full batches."""
    if examples % batch_size:
        raise ValueError(
            f"Expected batch_size={batch_size} to divide examples={examples}: the "
            "PyTorch loop has no masks."
        )
    rng = np.random.default_rng(0)
    count, steps = num_clients * examples, examples // batch_size
    data = Examples(
        x=jnp.asarray(rng.integers(0, 256, (count, 28, 28, 1)), jnp.uint8),
        y=jnp.asarray(rng.integers(0, 10, count), jnp.int32),
    )
    index = jnp.arange(count, dtype=jnp.int32)
    clients = ClientBatches(
        client_id=jnp.arange(num_clients, dtype=jnp.int32),
        rows=index.reshape(num_clients, steps, batch_size),
        mask=jnp.ones((num_clients, steps, batch_size), bool),
        num_examples=jnp.full(num_clients, examples, jnp.int32),
        active=jnp.ones(num_clients, bool),
    )
    return Cohort(data, clients)


def jax_round(
    model: models.ModelFn, strategy: Execution, cohort: Cohort
) -> tuple[Round, PyTree, PyTree]:
    """A timed round, compiled, with the parameters before and after it."""
    task = models.classification(
        model(num_classes=10), input_shape=(28, 28, 1), scale=SCALE
    )
    algorithm = fed_avg(
        task, client_optimizer=optax.sgd(LEARNING_RATE), execution=strategy
    )
    key = make_key(0)
    before = jax.jit(task.init)(key)
    server, client = algorithm.init(key, before)
    num_clients = cohort.clients.client_id.shape[0]
    links = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), client
    )
    step = jax.jit(algorithm.round)

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(step(key, server, links, cohort))
        return time.perf_counter() - start

    return run, before, algorithm.params(step(key, server, links, cohort)[0])


def jax_contenders(
    model: str, *, every: bool
) -> dict[str, tuple[models.ModelFn, Execution]]:
    """Name to model and strategy; the first is the library's default."""
    build = models.cnn if model == "cnn" else lambda: models.mlp(200, 200)
    chosen: dict[str, tuple[models.ModelFn, Execution]] = {
        "auto()": (build(), execution.auto()),
        "scanned()": (build(), execution.scanned()),
    }
    if every:
        chosen["vmapped()"] = (build(), execution.vmapped())
    if every and model == "cnn":
        patches = models.cnn(convolve=models.conv_patches)
        chosen["auto(), conv_patches"] = (patches, execution.auto())
        chosen["vmapped(), conv_patches"] = (patches, execution.vmapped())
        library = models.cnn(convolve=models.conv_lax)
        chosen["auto(), conv_lax"] = (library, execution.auto())
    return chosen


def write_work(path: Path, cohort: Cohort, before: PyTree, after: PyTree) -> None:
    """Writes a round's work and its result for the PyTorch loop."""
    num_clients = cohort.clients.client_id.shape[0]
    arrays: dict[str, np.ndarray] = {
        "x": np.asarray(cohort.examples.x).reshape(num_clients, -1, 28, 28, 1),
        "y": np.asarray(cohort.examples.y).reshape(num_clients, -1),
        "learning_rate": np.array(LEARNING_RATE, np.float32),
        "scale": np.array(SCALE, np.float32),
    }
    for prefix, params in (("before", before), ("after", after)):
        for layer in sorted(params, key=lambda name: (name.startswith("Dense"), name)):
            for kind in ("kernel", "bias"):
                arrays[f"{prefix}/{layer}/{kind}"] = np.asarray(params[layer][kind])
    np.savez(path, allow_pickle=False, **arrays)


@contextlib.contextmanager
def torch_round(
    python: str | None, model: str, work: Path, batch_size: int
) -> Iterator[tuple[Round, dict[str, float | str]] | None]:
    """A timed round in a process of its own, or None where there is no PyTorch."""
    if python is None and importlib.util.find_spec("torch") is None:
        yield None
        return
    command = [python or sys.executable, torch_loop.__file__, model, work, batch_size]
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("Expected pipes to the PyTorch process.")
        to_process, from_process = process.stdin, process.stdout

        def run() -> float:
            to_process.write("round\n")
            to_process.flush()
            return float(from_process.readline())

        yield run, json.loads(from_process.readline())
        to_process.close()


def largest_difference(one: PyTree, other: PyTree) -> float:
    """`max |one - other|` over all coordinates."""
    differences = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), one, other)
    return float(max(jax.tree.leaves(differences)))


def take_turns(contenders: dict[str, Round], repeats: int) -> dict[str, list[float]]:
    """Seconds of every round of every contender, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            seconds[name].append(run())
            # Threads of the one just done may spin for a moment longer.
            time.sleep(0.05)
    return seconds


def table(seconds: dict[str, list[float]], reference: str | None) -> str:
    """Markdown: least and median seconds; how many times the reference's speed.

    >>> print(table({"a": [1.0, 3.0], "b": [2.0, 2.0]}, "b"))
    | round | min s | median s | speed by min | speed by median |
    | --- | --- | --- | --- | --- |
    | a | 1.0000 | 2.0000 | 2.00 | 1.00 |
    | b | 2.0000 | 2.0000 | 1.00 | 1.00 |
    """
    lines = [
        "| round | min s | median s | speed by min | speed by median |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, values in seconds.items():
        speeds = ["not measured"] * 2
        if reference is not None:
            theirs = seconds[reference]
            speeds = [
                f"{min(theirs) / min(values):.2f}",
                f"{statistics.median(theirs) / statistics.median(values):.2f}",
            ]
        cells = [name, f"{min(values):.4f}", f"{statistics.median(values):.4f}"]
        lines.append(f"| {' | '.join([*cells, *speeds])} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    try:
        cohort = make_cohort(FLAGS.num_clients, FLAGS.examples, FLAGS.batch_size)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    print(
        f"{FLAGS.model}: {FLAGS.num_clients} clients x {FLAGS.examples} examples, "
        f"batch {FLAGS.batch_size}; jax {jax.__version__} on {jax.default_backend()}, "
        f"{jax.local_device_count()} devices"
    )
    rounds: dict[str, Round] = {}
    first: PyTree = None
    before: PyTree = None
    for name, (model, strategy) in jax_contenders(FLAGS.model, every=FLAGS.all).items():
        rounds[name], before, after = jax_round(model, strategy, cohort)
        first = after if first is None else first
        moved, apart = (
            largest_difference(after, before),
            largest_difference(after, first),
        )
        print(f"{name}: moved {moved:.2e}, differs from the first {apart:.2e}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.npz"
        write_work(work, cohort, before, first)
        with torch_round(
            FLAGS.torch_python, FLAGS.model, work, FLAGS.batch_size
        ) as other:
            reference = None
            if other is None:
                print("PyTorch: not measured (not installed; see --torch_python)")
            else:
                reference = "PyTorch loop"
                rounds[reference], facts = other
                print(f"{reference}: {facts}")
            print(table(take_turns(rounds, FLAGS.repeats), reference))


if __name__ == "__main__":
    define_flags()
    app.run(main)
