"""One measurement: dispatches, trains machines, routes predictions, counts bytes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp import data
from fedjax_comp import tree as trees
from fedjax_comp.base import ClientBatches, Examples, PyTree, Sums, Task
from fedjax_comp.evaluation import means
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.keys import make_key
from fedjax_comp.metrics import as_written
from fedjax_comp.models import classification
from fedjax_comp.one_shot.data_dispatch import (
    Dispatcher,
    routed_evaluation,
    shipment,
)
from fedjax_comp.one_shot.independent import independent_models
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bytes


class Machines(NamedTuple):
    """The data and the programs that all measurements share.

    Attributes:
      dataset: as it was loaded.
      task: of each machine.
      train: `(num_machines, largest) -> program` of `independent_models`.
      evaluate: of `routed_evaluation`.
    """

    dataset: data.Dataset
    task: Task
    train: Callable[[int, int], Callable[..., PyTree]]
    evaluate: Callable[..., Sums]


def make_machines(
    values: flags.FlagValues, model: str | None = None, optimizer: str | None = None
) -> Machines:
    """Loads the data and makes the programs; raises `ValueError`.

    Args:
      values: the command's flags.
      model: instead of `--model`.
      optimizer: instead of `--client_optimizer`.
    """
    update = build("client_optimizer", optimizer or values.client_optimizer)
    module = build("model", model or values.model)
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    if dataset.train.y.ndim > 1:
        raise UsageError(f"--dataset={values.dataset} has sequences, not examples.")
    most = min(values.num_train, len(dataset.train.y))
    if max(values.num_clients) > most:
        raise UsageError(
            f"--num_clients={max(values.num_clients)} is more than the {most} "
            "training examples."
        )
    task = classification(
        module(dataset.num_classes),
        input_shape=dataset.train.x.shape[1:],
        scale=dataset.scale,
    )

    @functools.cache
    def train(num_machines: int, largest: int) -> Callable[..., PyTree]:
        def batches(
            key: jax.Array, lists: tuple[jax.Array, jax.Array]
        ) -> ClientBatches:
            return data.make_batches(
                key,
                *lists,
                jnp.arange(num_machines, dtype=jnp.int32),
                max_client_size=largest,
                epochs=values.epochs,
                batch_size=values.batch_size,
            )

        return jax.jit(independent_models(task, update, batches))

    return Machines(dataset, task, train, jax.jit(routed_evaluation(task)))


def equal_width(machines: Machines, num_machines: int) -> int:
    """Units of a hidden layer with which one model has as many parameters as so many.

    Args:
      machines: the data and each machine's model.
      num_machines: `k`; `(d + 1) h + (h + 1) C` is `k` models' parameters.
    """
    own = trees.size(jax.eval_shape(machines.task.init, make_key(0)))
    inputs = int(np.prod(machines.dataset.train.x.shape[1:]))
    classes = machines.dataset.num_classes
    return max(1, round((num_machines * own - classes) / (inputs + 1 + classes)))


def measure(
    machines: Machines,
    dispatcher: Dispatcher,
    num_machines: int,
    values: flags.FlagValues,
    trial: int,
) -> Json:
    """Dispatches, trains and scores once.

    Args:
      machines: data and programs.
      dispatcher: who gets what.
      num_machines: `k`.
      values: the command's flags.
      trial: which examples and seeds.

    Returns:
      Accuracy, bytes and sizes. `uplink_bytes` is what travels to the machines, every
      copy of an example; models do not travel. `steps` is how long the largest machine
      trains, in batches.
    """
    dataset = machines.dataset
    rng = np.random.default_rng((values.seed, trial))
    rows = rng.permutation(len(dataset.train.y))[: values.num_train]
    stored = Examples(dataset.train.x[rows], dataset.train.y[rows])
    test = Examples(
        dataset.test.x[: values.num_test], dataset.test.y[: values.num_test]
    )
    sent = dispatcher(flat(stored.x, dataset.scale), num_machines, rng)
    order, offsets = sent.assignment
    sizes = np.diff(offsets)
    # Rounded up, so that trials with other sizes are the same program.
    largest = -(-int(sizes.max()) // 512) * 512
    key, init_key = jax.random.split(jax.random.fold_in(make_key(values.seed), trial))
    models = machines.train(num_machines, largest)(
        key,
        machines.task.init(init_key),
        jax.tree.map(jnp.asarray, stored),
        (_padded(order, num_machines * largest), jnp.asarray(offsets)),
    )
    machine = sent.route(flat(test.x, dataset.scale)).astype(np.int32)
    sums = machines.evaluate(
        models, jax.tree.map(jnp.asarray, test), jnp.asarray(machine)
    )
    scored = means(sums)
    sent_bytes = sum(
        _shipment_bytes(stored, int(size), dataset.num_classes) for size in sizes
    )
    return {
        "num_clients": num_machines,
        "trial": trial,
        "test_accuracy": as_written(scored.accuracy),
        "test_loss": float(scored.loss),
        "uplink_bytes": sent_bytes,
        "model_bytes": message_bytes(machines.task.init(init_key)),
        "parameters": num_machines * trees.size(machines.task.init(init_key)),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "copies": len(order) / len(stored.y),
        "steps": values.epochs * -(-int(sizes.max()) // values.batch_size),
    }


def _shipment_bytes(examples: Examples, size: int, num_classes: int) -> int:
    """Bytes of a shipment of `size` examples, whichever they are."""
    first: Examples = jax.tree.map(lambda x: x[:1].repeat(size, 0), examples)
    return message_bytes(jax.eval_shape(lambda: shipment(first, num_classes)))


def _padded(order: np.ndarray, length: int) -> jax.Array:
    return jnp.asarray(np.pad(order, (0, max(length - len(order), 0))))


def flat(x: np.ndarray, scale: float) -> np.ndarray:
    """Inputs as rows of floats, `[N, ...] -> [N, d]`."""
    return (x.reshape(len(x), -1) * scale).astype(np.float32)
