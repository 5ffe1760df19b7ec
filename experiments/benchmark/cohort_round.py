"""Seconds for one round of federated averaging, beside PyTorch, fedjax and pfl.

    python -m experiments.benchmark.cohort_round --model=cnn

All contenders do the same round from the same parameters; the script prints the largest
difference of their results, which shows that the arithmetic is the same. They take
turns, so that other load on the machine affects all of them.
"""

import contextlib
import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmark import peers
from experiments.benchmark.hlo_cost import Program
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
    for name in ("torch", "fedjax", "pfl"):
        flags.DEFINE_string(f"{name}_python", None, f"A Python that has {name}.")


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
        key=jax.random.split(make_key(1), num_clients),
    )
    return Cohort(data, clients)


def jax_round(
    model: models.ModelFn, strategy: Execution, cohort: Cohort
) -> tuple[Round, PyTree, PyTree, jax.stages.Compiled]:
    """A timed round, with the parameters before and after it, and its program."""
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
    step = jax.jit(algorithm.round).lower(key, server, links, cohort).compile()

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(step(key, server, links, cohort))
        return time.perf_counter() - start

    after = algorithm.params(step(key, server, links, cohort)[0])
    return run, before, after, step


def products(strategy_round: jax.stages.Compiled) -> float:
    """Floating-point operations of a compiled round, loops multiplied out."""
    text = strategy_round.as_text()
    return Program(text or "").cost.flops * jax.local_device_count()


def peak(size: int = 1024, repeats: int = 10) -> Round:
    """A timed product of `size x size` matrices on every device at once."""
    mesh = execution.device_mesh()
    place = NamedSharding(mesh, PartitionSpec(execution.CLIENTS_AXIS))
    x = jax.device_put(jnp.ones((mesh.size, size, size)), place)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=place.spec, out_specs=place.spec
    )
    def multiply(x: jax.Array) -> jax.Array:
        for _ in range(repeats):
            x = jnp.matmul(x, x) / size
        return x

    product = jax.jit(multiply)

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        return (time.perf_counter() - start) / (2 * repeats * mesh.size * size**3)

    run()
    return run


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
    """Writes a round's work and its result for those of `peers`."""
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
def peer_round(
    python: str, script: str, *arguments: Sequence[object]
) -> Iterator[tuple[Round, list[dict[str, float | str]]]]:
    """A timed round of a script of `peers`, and what it says of itself.

    Args:
      python: that runs it.
      script: its name.
      arguments: of each of its processes, which share the round: it takes as long as
        the slowest of them.
    """
    path = Path(peers.__file__).parent / f"{script}.py"
    with contextlib.ExitStack() as exits:
        processes = [
            exits.enter_context(
                subprocess.Popen(
                    [python, str(path), *map(str, own)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for own in arguments
        ]
        pipes = []
        for process in processes:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError(f"Expected pipes to {script}.")
            pipes.append((process.stdin, process.stdout))

        def run() -> float:
            for to_process, _ in pipes:
                to_process.write("round\n")
                to_process.flush()
            return max(float(answer.readline()) for _, answer in pipes)

        told = [answer.readline() for _, answer in pipes]
        if not all(told):
            sys.exit(f"{python} could not run {path.name}: see above.")
        yield run, [json.loads(line) for line in told]
        for to_process, _ in pipes:
            to_process.close()


def peers_asked_for(
    model: str, work: Path, batch_size: int
) -> dict[str, tuple[str, str, list[list[object]]]]:
    """Name to Python, script and the arguments of each of its processes."""
    given: list[object] = [model, work, batch_size]
    found: dict[str, tuple[str, str, list[list[object]]]] = {}
    torch, jax_python, pfl = FLAGS.torch_python, FLAGS.fedjax_python, FLAGS.pfl_python
    cores = FLAGS.cpu_devices
    if torch is None and importlib.util.find_spec("torch") is not None:
        torch = sys.executable
    for threads in sorted({1, cores}):
        if torch is not None:
            found[f"PyTorch, threads: {threads}"] = (
                torch,
                "torch_loop",
                [[*given, threads]],
            )
        if pfl is not None:
            found[f"pfl, threads: {threads}"] = (pfl, "pfl_loop", [[*given, threads]])
        if jax_python is not None:
            found[f"fedjax, devices: {threads}"] = (
                jax_python,
                "fedjax_loop",
                [[*given, threads]],
            )
    if torch is not None and cores > 1:
        parts = [[*given, 1, part, cores] for part in range(cores)]
        found[f"PyTorch, processes: {cores}"] = (torch, "torch_loop", parts)
    return found


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


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown: least and median seconds; how many times those of the first row.

    >>> print(table({"a": [1.0, 3.0], "b": [2.0, 2.0]}))
    | round | min s | median s | times the first, min | median |
    | --- | --- | --- | --- | --- |
    | a | 1.0000 | 2.0000 | 1.00 | 1.00 |
    | b | 2.0000 | 2.0000 | 2.00 | 1.00 |
    """
    lines = [
        "| round | min s | median s | times the first, min | median |",
        "| --- | --- | --- | --- | --- |",
    ]
    ours = next(iter(seconds.values()))
    for name, values in seconds.items():
        least, middle = min(values), statistics.median(values)
        cells = [
            name,
            f"{least:.4f}",
            f"{middle:.4f}",
            f"{least / min(ours):.2f}",
            f"{middle / statistics.median(ours):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
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
    flops = 0.0
    for name, (model, strategy) in jax_contenders(FLAGS.model, every=FLAGS.all).items():
        rounds[name], before, after, program = jax_round(model, strategy, cohort)
        first = after if first is None else first
        flops = flops or products(program)
        moved, apart = (
            largest_difference(after, before),
            largest_difference(after, first),
        )
        print(f"{name}: moved {moved:.2e}, differs from the first {apart:.2e}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.npz"
        write_work(work, cohort, before, first)
        with contextlib.ExitStack() as exits:
            asked = peers_asked_for(FLAGS.model, work, FLAGS.batch_size)
            for name, (python, script, arguments) in asked.items():
                rounds[name], facts = exits.enter_context(
                    peer_round(python, script, *arguments)
                )
                print(f"{name}: {facts}")
            if not asked:
                print("nothing else was measured: see --torch_python and the like")
            rounds["product"] = peak()
            seconds = take_turns(rounds, FLAGS.repeats)
            each = min(seconds.pop("product"))
            print(table(seconds))
            least = min(next(iter(seconds.values())))
            print(
                f"{flops / 1e9:.1f} GFLOP a round by the first; products of matrices "
                f"reach {1e-9 / each:.0f} GFLOP/s on all devices, by which a round "
                f"takes {flops * each:.4f} s, {flops * each / least:.0%} of the first's"
            )


if __name__ == "__main__":
    define_flags()
    app.run(main)
