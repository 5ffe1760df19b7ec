"""The chips, networks and topologies for which rounds are compiled."""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from fedjax_comp import execution, models
from fedjax_comp.base import Task
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.models.convolution import conv_lax

HERE = "here"


class Peak(NamedTuple):
    """Of one chip, as its maker publishes it.

    Attributes:
      flops: a second, of bfloat16 products added up in float32.
      num_bytes: a second, of main memory.
    """

    flops: float
    num_bytes: float


PEAKS = {
    "v4": Peak(275e12, 1228e9),
    "v5e": Peak(197e12, 819e9),
    "v5p": Peak(459e12, 2765e9),
    "v6e": Peak(918e12, 1640e9),
}
"""From the pages "TPU v4", "v5e", "v5p" and "v6e" of Google Cloud's documentation."""


class Work(NamedTuple):
    """What clients train.

    Attributes:
      task: the model, its convolutions as an accelerator has them.
      shape: of one example's input.
      dtype: of it.
      labels: shape of one example's labels.
    """

    task: Callable[[], Task]
    shape: tuple[int, ...]
    dtype: type
    labels: tuple[int, ...] = ()


def _images(model: models.ModelFn, shape: tuple[int, ...]) -> Work:
    def task() -> Task:
        return models.classification(
            model(num_classes=10), input_shape=shape, scale=1 / 255
        )

    return Work(task, shape, np.uint8)


def _characters(length: int = 80, alphabet: int = 86) -> Work:
    def task() -> Task:
        return models.classification(
            models.char_transformer()(num_classes=alphabet),
            input_shape=(length,),
            input_dtype=jnp.int32,
        )

    return Work(task, (length,), np.uint8, (length,))


WORKS = {
    "2nn": _images(models.mlp(200, 200), (28, 28, 1)),
    "cnn": _images(models.cnn(convolve=conv_lax), (28, 28, 1)),
    "resnet20": _images(models.resnet(20, convolve=conv_lax), (32, 32, 3)),
    "transformer": _characters(),
}


class Target(NamedTuple):
    """What a program is compiled for.

    Attributes:
      name: as the flag says it.
      mesh: its devices, one axis named `clients`.
      peak: of each; None where it is not known.
    """

    name: str
    mesh: Mesh
    peak: Peak | None


@functools.cache
def target_of(name: str) -> Target:
    """A target by its name.

    Raises:
      UsageError: for a name of another form.
      RuntimeError: when its compiler is not installed or does not know it.
    """
    if name == HERE:
        return Target(name, execution.device_mesh(), None)
    parts = name.split(":")
    if len(parts) != 3 or parts[0] != "tpu":
        raise UsageError(
            f"--compile_for={name}: expected 'tpu:CHIP:TOPOLOGY', e.g. tpu:v5e:2x2, or "
            "'here'."
        )
    # Without these the compiler asks the network for a machine that is not there, and
    # lets one process at a time ask.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=":".join(parts[1:])
        )
    except Exception as error:
        raise RuntimeError(
            f"no TPU compiler for {name} ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); it comes with: pip install "
            "'fedjax_comp[tpu]'"
        ) from error
    devices: np.ndarray = np.array(found.devices)
    return Target(name, Mesh(devices, (execution.CLIENTS_AXIS,)), PEAKS.get(parts[1]))
