"""Figures: accuracy against uplink bytes, and where data cost less than gradients."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import models
from fedjax_comp.algorithms.data_advice import examples_bits, fixed_bits_of
from fedjax_comp.base import Bits, PyTree, make_context
from fedjax_comp.compress import (
    chain,
    eden_fixed_rate,
    entropy_coded,
    flattened,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.data import DataSpec
from fedjax_comp.keys import make_key
from fedjax_comp.models import ModelFn
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bits, num_bits

BATCHES = tuple(2**i for i in range(11))
STEPS = tuple(2**i for i in range(15))
MNIST = DataSpec("mnist", 10, (28, 28, 1), 1 / 255, None, 8, 7500, 60000, 10000)
CIFAR = DataSpec("cifar10", 10, (32, 32, 3), 1 / 255, None, 8, 6250, 50000, 10000)


class Model(NamedTuple):
    """A model whose gradients are held against a data set's batches."""

    name: str
    shapes: PyTree
    spec: DataSpec


def shapes_of(model: ModelFn, spec: DataSpec) -> PyTree:
    """The parameters' shapes, of which nothing is computed."""
    x = jnp.zeros((1, *spec.input_shape))
    init = model(spec.num_classes).init
    return jax.eval_shape(init, make_key(0), x)["params"]


def all_models() -> list[Model]:
    """The models of the crossover, small ones first."""
    return [
        Model("2NN", shapes_of(models.mlp(200, 200), MNIST), MNIST),
        Model("CNN", shapes_of(models.cnn(), MNIST), MNIST),
        Model("ResNet-20", shapes_of(models.resnet(20), CIFAR), CIFAR),
        Model("ResNet-18", shapes_of(models.resnet18(), CIFAR), CIFAR),
    ]


def sparse_bits(shapes: PyTree) -> int:
    """Bits of the largest 0.1 % in four bits each and coded, of a Gaussian gradient.

    As `ef-top-k-01-4bit` sends them: places and levels have no fixed length, and of a
    gradient they take about as many.
    """
    return _sparse_bits(sum(leaf.size for leaf in jax.tree.leaves(shapes)))


@functools.cache
def _sparse_bits(size: int) -> int:
    levels = stochastic_quantize(16, rounding="nearest")
    compressor = flattened(chain(top_k(0.001), levels, entropy_coded()))

    @jax.jit
    def length(key: jax.Array) -> Bits:
        x = jax.random.normal(key, (size,))
        sender = compressor.init(x).sender
        return num_bits(compressor.encode(make_context(key, 0), x, sender)[0])

    return message_bits(length(make_key(0)))


def crossover_rows() -> list[Json]:
    """Exact bits of one message: a gradient of each model, a batch of each size."""
    rows: list[Json] = []
    for name, shapes, spec in all_models():
        row: Json = {
            "model": name,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
            "gradient_1bit_bits": fixed_bits_of(eden_fixed_rate(1), shapes),
            "gradient_top_k_0.1%_bits": sparse_bits(shapes),
        }
        for bits in (1, 4):
            each = [examples_bits(uniform_lattice(bits), spec, b) for b in BATCHES]
            row[f"data_{bits}bit_bits_batch_32"] = each[BATCHES.index(32)]
            for kind in ("1bit", "top_k_0.1%"):
                wins = [
                    batch
                    for batch, cost in zip(BATCHES, each, strict=True)
                    if cost < row[f"gradient_{kind}_bits"]
                ]
                row[f"largest_batch_{bits}bit_below_{kind}"] = max(wins, default=0)
        rows.append(row)
    return rows


def crossover(path: Path) -> Figure:
    """Bytes of a batch against its size, with the gradients' bytes as level lines."""

    def line(name: str, bits: list[int]) -> Run:
        costs = zip(BATCHES, bits, strict=True)
        return Run(name, [{"batch": b, "bytes": cost / 8} for b, cost in costs])

    drawn: list[Run] = []
    for spec, bits in ((MNIST, 1), (MNIST, 4), (CIFAR, 4)):
        costs = [examples_bits(uniform_lattice(bits), spec, b) for b in BATCHES]
        drawn.append(line(f"data: {bits} bit {spec.name}", costs))
    for name, shapes, _ in all_models():
        cost = fixed_bits_of(eden_fixed_rate(1), shapes)
        drawn.append(line(f"gradient: {name}, 1 bit", [cost] * len(BATCHES)))
        if name == "CNN":
            cost = sparse_bits(shapes)
            drawn.append(line(f"gradient: {name}, top 0.1 %", [cost] * len(BATCHES)))
    line_figure(
        drawn,
        x="batch",
        y="bytes",
        xlabel="Local batch B (examples, logarithmic)",
        ylabel="Bytes of one client's message (logarithmic)",
        path=path,
        log_x=True,
        log_y=True,
    )
    return Figure("Data cost less where their line is below a model's level", path)


def totals(batch_size: int, cohort_size: int, path: Path) -> Figure:
    """All uplink bytes of a run of the CNN on MNIST against its number of steps."""
    shapes = shapes_of(models.cnn(), MNIST)
    messages = {
        "gradient, 1 bit": fixed_bits_of(eden_fixed_rate(1), shapes),
        "gradient, top 0.1 %": sparse_bits(shapes),
        f"data, 1 bit, B={batch_size}": examples_bits(
            uniform_lattice(1), MNIST, batch_size
        ),
    }
    drawn = [
        Run(
            name,
            [{"steps": t, "bytes": t * cohort_size * bits / 8} for t in STEPS],
        )
        for name, bits in messages.items()
    ]
    whole = MNIST.num_clients * examples_bits(
        uniform_lattice(1), MNIST, MNIST.num_train // MNIST.num_clients
    )
    once = [{"steps": t, "bytes": whole / 8} for t in STEPS]
    line_figure(
        drawn,
        x="steps",
        y="bytes",
        xlabel="Steps (logarithmic)",
        ylabel="Bytes of all clients in all (logarithmic)",
        path=path,
        log_x=True,
        log_y=True,
        reference=Run("the set shipped once, 1 bit", once),
    )
    return Figure(
        f"The set shipped once costs less after an epoch (CNN, C={cohort_size})", path
    )


def curves(runs: Sequence[Run], path: Path) -> Figure:
    """Test accuracy against uplink bytes, all pipelines."""
    line_figure(
        runs,
        x="uplink_bytes",
        y="test_accuracy",
        xlabel="Data sent by clients so far (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=path,
        log_x=True,
        x_format=format_bytes,
        size_inches=(7.2, max(4.4, 0.3 * (len(runs) + 1))),
    )
    return Figure("Test accuracy against bytes sent by clients", path)
