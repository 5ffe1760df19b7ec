"""Bytes and work at the sizes of the published tables, computed from shapes alone.

Vepakomma et al. 2018, "Split learning for health", tables 1 and 2: gigabytes a client
on CIFAR-100 with ResNet-50, and client TFLOPs on CIFAR-10 with VGG. Their models, cuts
and numbers of rounds are not given in full, so these here are a reconstruction: a
50-layer residual network for small images of 22.8 million parameters, cut before its
first block; 16 epochs; 71 steps of large-batch SGD. The point where the curves cross
depends on examples, activations and parameters, not on these numbers of rounds:

    K* = N d / (n - n_client).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.split_learning.work import KEY, flops, part_flops
from fedjax_comp import models
from fedjax_comp import tree as trees
from fedjax_comp.base import Examples
from fedjax_comp.keys import make_key
from fedjax_comp.models.convolution import conv_lax
from fedjax_comp.models.split import SplitTask, params_of, split_classification
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bytes
from fedjax_comp.wire.fields import Symbols

GIGABYTES = {
    100: {"sgd": 13.0, "fedavg": 3.0, "split": 6.0},
    500: {"sgd": 14.0, "fedavg": 2.4, "split": 1.2},
}
"""Published, for a client, by number of clients."""

TFLOPS = {
    100: {"fedavg": 29.4, "split": 0.1548},
    500: {"fedavg": 5.89, "split": 0.03},
}
"""Published, of a client, by number of clients."""

NUM_TRAIN = 50_000
EPOCHS, SGD_STEPS, BATCH_SIZE = 16, 71, 100
IMAGE = (32, 32, 3)


class Sizes(NamedTuple):
    """What travels.

    Attributes:
      parameters: `n`, of the whole model.
      client_parameters: of the client's part.
      activations: `d`, that cross the cut for one example.
      batch_bytes: both ways for a batch of `BATCH_SIZE`, labels included.
    """

    parameters: int
    client_parameters: int
    activations: int
    batch_bytes: int


@functools.cache
def resnet_sizes() -> Sizes:
    """Sizes of the residual network and its cut.

    >>> resnet_sizes().activations
    90112
    """
    task = _split(
        models.resnet(50, width=88, convolve=conv_lax)(100), "Block_0", num_classes=100
    )
    params = jax.eval_shape(task.task.init, make_key(0))
    own = params_of(task.parts[0].names, params)
    x = jax.ShapeDtypeStruct((BATCH_SIZE, *IMAGE), jnp.float32)
    hidden = jax.eval_shape(task.parts[0].apply, own, x)
    labels = Symbols(
        jnp.zeros(BATCH_SIZE, jnp.uint32), task.num_classes, jnp.uint32(BATCH_SIZE)
    )
    up = message_bytes((hidden, labels))
    return Sizes(
        trees.size(params),
        trees.size(own),
        trees.size(hidden) // BATCH_SIZE,
        up + message_bytes(hidden),
    )


def gigabytes(sizes: Sizes, num_clients: int) -> dict[str, float]:
    """Sent and received by one client, by method."""
    model = 2 * 4 * sizes.parameters
    batches = NUM_TRAIN / num_clients / BATCH_SIZE
    handover = 2 * 4 * sizes.client_parameters
    return {
        "sgd": SGD_STEPS * model / 1e9,
        "fedavg": EPOCHS * model / 1e9,
        "split": EPOCHS * (batches * sizes.batch_bytes + handover) / 1e9,
    }


def crossover(sizes: Sizes) -> float:
    """The number of clients from which on split learning sends less."""
    per_example = sizes.batch_bytes / BATCH_SIZE
    kept = sizes.parameters - sizes.client_parameters
    return NUM_TRAIN * per_example / (8 * kept)


@functools.cache
def vgg_work_ratio() -> float:
    """Work of a client with the whole model over that of one with the first layer."""
    task = _split(
        models.vgg((64, 128, 256, 512, 512), hidden=512, convolve=conv_lax)(10),
        "Conv_1",
        num_classes=10,
    )
    params = jax.eval_shape(task.task.init, make_key(0))
    x = jax.ShapeDtypeStruct((BATCH_SIZE, *IMAGE), jnp.float32)
    y = jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.int32)
    mask = jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.bool_)
    whole = flops(jax.value_and_grad(task.task.loss), params, Examples(x, y), mask, KEY)
    _, own = part_flops(task.parts[0], params, x, of_inputs=False)
    return whole / own


def published_table() -> list[Json]:
    """Ours beside theirs."""
    sizes = resnet_sizes()
    return [
        {
            "num_clients": count,
            "method": method,
            "gigabytes": gigabytes(sizes, count)[method],
            "published": theirs,
        }
        for count, row in GIGABYTES.items()
        for method, theirs in row.items()
    ]


def _split(module: nn.Module, cut: str, *, num_classes: int) -> SplitTask:
    return split_classification(
        module, [cut], num_classes=num_classes, input_shape=IMAGE
    )
