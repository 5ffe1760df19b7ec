"""Evaluation of a model on a test set: means of a task's sums over batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Examples, Execution, PyTree, Sums, Task


class Evaluation(NamedTuple):
    """Means over the predictions of a test set, float32 scalars.

    Attributes:
      loss: mean loss.
      accuracy: share of predictions that are right.
      others: means of the task's own sums, by name.
    """

    loss: jax.Array
    accuracy: jax.Array
    others: dict[str, jax.Array]


def means(sums: Sums, derived: Callable[[Sums], Sums] | None = None) -> Evaluation:
    """The evaluation that a task's sums amount to.

    >>> sums = {"count": jnp.float32(4), "loss": jnp.float32(2),
    ...         "accuracy": jnp.float32(3), "top_5_accuracy": jnp.float32(4)}
    >>> float(means(sums).accuracy), float(means(sums).others["top_5_accuracy"])
    (0.75, 1.0)
    """
    each = {name: x / sums["count"] for name, x in sums.items() if name != "count"}
    others = None if derived is None else derived(each)
    loss, accuracy = each.pop("loss"), each.pop("accuracy")
    return Evaluation(loss, accuracy, each if others is None else others)


def evaluation_program(
    task: Task, execution: Execution, *, batch_size: int
) -> Callable[[PyTree, Examples], Evaluation]:
    """The function that evaluates a model, ready to be jitted.

    Args:
      task: the model and its metrics.
      execution: how the batches are run: they are mapped as clients are.
      batch_size: test examples in one batch; `ValueError` below one.

    Returns:
      `(params, examples) -> Evaluation`.
    """
    checks.integer("batch_size", batch_size, minimum=1)

    def evaluate_batch(
        shared: tuple[PyTree, Examples], batch: tuple[jax.Array, jax.Array]
    ) -> tuple[Sums, tuple[()]]:
        params, examples = shared
        index, mask = batch
        rows = jax.tree.map(lambda x: x[index], examples)
        return task.evaluate(params, rows, mask), ()

    def evaluate(params: PyTree, examples: Examples) -> Evaluation:
        count = jax.tree.leaves(examples)[0].shape[0]
        num_batches = -(-count // batch_size)
        rows = jnp.arange(num_batches * batch_size).reshape(num_batches, batch_size)
        batches = (jnp.minimum(rows, count - 1), rows < count)
        sums, _ = execution(evaluate_batch)((params, examples), batches)
        return means(sums, task.derived)

    return evaluate
