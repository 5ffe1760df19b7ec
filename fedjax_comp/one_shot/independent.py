"""Models that are each trained on separate data, without any communication.

This is the baseline of every collaboration, and how data-dependent dispatch and data
collaboration train once their data have been placed. One machine alone is the
centralised case.
"""

from collections.abc import Callable

import jax
import optax

from fedjax_comp.algorithms.links.given import given_execution
from fedjax_comp.base import ClientBatches, Examples, Execution, PyTree, Task
from fedjax_comp.client.sgd import local_sgd

MakeBatches = Callable[[jax.Array, PyTree], ClientBatches]
"""`(key, data) -> ClientBatches[K, ...]`: every machine's work."""


def independent_models(
    task: Task,
    optimizer: optax.GradientTransformation,
    make_batches: MakeBatches,
    *,
    execution: Execution | None = None,
) -> Callable[[jax.Array, PyTree, Examples, PyTree], PyTree]:
    """Trains one model per machine, all from the same start.

    Args:
      task: the model and its loss.
      optimizer: of every machine.
      make_batches: every machine's batches, for example
        `fedjax_comp.data.make_batches` with its settings given.
      execution: how the machines are run; `scanned()` when None, under which empty
        batches cost nothing.

    Returns:
      `(key, params, examples, data) -> params`, leaves `[K, ...]`: a machine without
      examples keeps the start.

    >>> import jax.numpy as jnp, optax
    >>> from fedjax_comp.base import Task
    >>> fit = Task(None, lambda w, e, mask, key: jnp.mean((w - e.y) ** 2), None)
    >>> rows = jnp.array([[[0]], [[1]]])
    >>> def batches(key, data):
    ...     ones = jnp.ones(2, jnp.int32)
    ...     keys = jax.random.split(key, 2)
    ...     return ClientBatches(jnp.arange(2), rows, rows >= 0, ones, ones > 0, keys)
    >>> train = independent_models(fit, optax.sgd(0.5), batches)
    >>> examples = Examples(jnp.zeros(2), jnp.array([1.0, 3.0]))
    >>> train(jax.random.key(0), jnp.array(0.0), examples, ()).tolist()
    [1.0, 3.0]
    """
    run_machines = given_execution(execution)
    train_locally = local_sgd(task, optimizer)

    def train(
        key: jax.Array, params: PyTree, examples: Examples, data: PyTree
    ) -> PyTree:
        def machine(
            shared: tuple[PyTree, Examples], batches: ClientBatches
        ) -> tuple[jax.Array, PyTree]:
            trained, info = train_locally(*shared, batches)
            return info.steps, trained

        _, models = run_machines(machine)((params, examples), make_batches(key, data))
        return models

    return train
