"""Seconds of the array kernels that compressors are made of, beside lower bounds.

    python -m experiments.benchmark.kernels --torch_python=PATH

Selection is compared with `jax.lax.top_k` and `torch.topk`, everything else with
a copy of the same array. All take turns, so that other load on the machine affects
all of them. A line has the least and the median seconds, and their ratios to those.
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
from absl import app, flags

from experiments.benchmark import torch_topk
from experiments.benchmark.cohort_round import Round, take_turns
from fedjax_comp.base import PyTree
from fedjax_comp.compress import noise
from fedjax_comp.compress.quantize.scalar import extrema, symbols_of
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.compress.transform.hadamard import hadamard
from fedjax_comp.keys import make_key
from fedjax_comp.wire.words import pack_words

FLAGS = flags.FLAGS
LEVELS, WIDTH = 16, 4
COPY, LIBRARY_TOP_K, TORCH = "copy", "jax.lax.top_k", "torch.topk"


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_integer("log2_n", 24, "Coordinates, as a power of two.", lower_bound=5)
    flags.DEFINE_float("fraction", 0.01, "Share of coordinates that top-k keeps.")
    flags.DEFINE_integer("repeats", 10, "Runs timed of each.", lower_bound=1)
    flags.DEFINE_string("torch_python", None, "A Python that has PyTorch.")


def quantize_and_pack(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """4 bits a coordinate as `stochastic_quantize` has them: the scale, and words."""
    low, high = extrema(x)
    t = (x - low) * ((LEVELS - 1) / (high - low))
    symbols = symbols_of(noise.bernoulli_round(key, t), LEVELS)
    return jnp.stack([low, high]), pack_words(symbols.values, WIDTH)


def timed(function: Callable[..., PyTree], *args: jax.Array) -> Round:
    """A run of a function, compiled."""
    compiled = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(compiled(*args))

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        return time.perf_counter() - start

    return run


def copy_on_host(x: jax.Array) -> Round:
    """One `memcpy` into memory that is there already."""
    source = np.array(x)
    target = np.empty_like(source)

    def run() -> float:
        start = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - start

    run()
    return run


def contenders(x: jax.Array, k: int) -> dict[str, Round]:
    """Name to run; the copy is the host's own on a CPU."""
    on_cpu = jax.default_backend() == "cpu"
    key = make_key(1)

    def exact(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        indices = selection.largest_indices(x, k)
        return indices, x[indices]

    def sampled(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        indices, count = selection.indices_above_sampled(x, k)
        return indices, count, x[indices]

    return {
        COPY: copy_on_host(x) if on_cpu else timed(lambda x: x + 1.0, x),
        LIBRARY_TOP_K: timed(lambda x: jax.lax.top_k(jnp.abs(x), k), x),
        "top-k, exact": timed(exact, x),
        "top-k, sampled threshold": timed(sampled, x),
        "4-bit quantize and pack": timed(quantize_and_pack, key, x),
        "Hadamard": timed(hadamard, x.reshape(1, -1, 1)),
    }


@contextlib.contextmanager
def torch_run(
    python: str | None, x: np.ndarray, k: int
) -> Iterator[tuple[Round, dict[str, float | str]] | None]:
    """PyTorch's run in a process of its own, or None where there is no PyTorch."""
    if python is None and importlib.util.find_spec("torch") is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x, allow_pickle=False)
        command = [python or sys.executable, torch_topk.__file__, str(path), str(k)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("Expected pipes to the PyTorch process.")
            to_process, from_process = process.stdin, process.stdout

            def run() -> float:
                to_process.write("run\n")
                to_process.flush()
                return float(from_process.readline())

            yield run, json.loads(from_process.readline())
            to_process.close()


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown: milliseconds, copies that would take as long, speed against top-k's.

    >>> print(table({COPY: [1.0, 3.0], LIBRARY_TOP_K: [4.0, 4.0], "a": [2.0, 2.0]}))
    | kernel | min ms | median ms | copies (min) | top_k's speed (min, median) |
    | --- | --- | --- | --- | --- |
    | copy | 1000.0 | 2000.0 | 1.0 | |
    | jax.lax.top_k | 4000.0 | 4000.0 | 4.0 | 1.0, 1.0 |
    | a | 2000.0 | 2000.0 | 2.0 | |
    """
    lines = [
        "| kernel | min ms | median ms | copies (min) | top_k's speed (min, median) |",
        "| --- | --- | --- | --- | --- |",
    ]
    copy, reference = min(seconds[COPY]), seconds[LIBRARY_TOP_K]
    for name, values in seconds.items():
        least, median = min(values), statistics.median(values)
        selects = name in (LIBRARY_TOP_K, TORCH) or name.startswith("top-k")
        speed = ""
        if selects:
            by_median = statistics.median(reference) / median
            speed = f" {min(reference) / least:.1f}, {by_median:.1f} |"
        lines.append(
            f"| {name} | {1e3 * least:.1f} | {1e3 * median:.1f} | {least / copy:.1f} |"
            + (speed or " |")
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    if not 0.0 < FLAGS.fraction <= 1.0:
        raise app.UsageError(f"Expected --fraction={FLAGS.fraction} in (0, 1].")
    n = 1 << FLAGS.log2_n
    k = selection.num_kept(n, fraction=FLAGS.fraction, k=None)
    x = jax.random.normal(make_key(0), (n,))
    print(
        f"n = 2**{FLAGS.log2_n} float32, k = {k}; jax {jax.__version__} on "
        f"{jax.default_backend()}"
    )
    runs = contenders(x, k)
    with torch_run(FLAGS.torch_python, np.asarray(x), k) as other:
        if other is None:
            print("PyTorch: not measured (not installed; see --torch_python)")
        else:
            runs[TORCH], facts = other
            least = float(jnp.min(jnp.abs(x[selection.largest_indices(x, k)])))
            print(f"PyTorch: {facts}; the least magnitude that top-k kept: {least}")
        seconds = take_turns(runs, FLAGS.repeats)
    print(table(seconds))
    if jax.default_backend() != "cpu":
        copy = min(seconds[COPY])
        bandwidth = 2 * x.nbytes / copy / 1e9
        print(f"Copy bandwidth {bandwidth:.0f} GB/s; fractions of it, reading x once:")
        for name, values in seconds.items():
            print(f"  {name}: {copy / 2 / min(values):.3f}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
