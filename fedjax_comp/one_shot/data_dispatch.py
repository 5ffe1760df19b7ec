"""Data-dependent dispatch: examples that look alike share a machine, and a model.

A dispatcher is made from a sample of the data; it sends every training example to `p`
machines and a test example to one. Each machine trains by itself on what it was sent,
and predicts for the test examples that are routed to it. Examples are sent once, models
never.

Source: Dick, Li, Pillutla, White, Balcan, Smola 2017, "Data Driven Resource Allocation
for Distributed Learning" (arXiv 1512.04848), section 6. The baselines are in
`dispatch_baselines`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.algorithms.links.given import given_execution
from fedjax_comp.base import Examples, Execution, PyTree, Sums, Task
from fedjax_comp.data.clusters import balanced_clusters, squared_distances
from fedjax_comp.data.partition import Assignment, from_lists
from fedjax_comp.wire.fields import Raw, Symbols


class Dispatched(NamedTuple):
    """Which machine has which training examples, and which predicts for an input.

    Attributes:
      assignment: each machine's training examples.
      route: `(x[M, d]) -> int32 [M]`, the machine that predicts for each input.
    """

    assignment: Assignment
    route: Callable[[np.ndarray], np.ndarray]


Dispatcher = Callable[[np.ndarray, int, np.random.Generator], Dispatched]
"""`(x[N, d], num_machines, rng) -> Dispatched`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shipment:
    """One machine's examples, as they are sent to it.

    Attributes:
      x: inputs in the dtype they are stored in.
      y: labels, `ceil(log2(classes))` bits each.
    """

    x: Raw
    y: Symbols


def shipment(examples: Examples, num_classes: int) -> Shipment:
    """The message with which a machine gets its examples.

    Args:
      examples: `[N, ...]`, inputs as stored.
      num_classes: labels are in `[0, num_classes)`.

    Returns:
      The payload.

    >>> from fedjax_comp.wire.accounting import num_bits
    >>> images = jnp.zeros((5, 28, 28), jnp.uint8)
    >>> num_bits(shipment(Examples(images, jnp.zeros(5, jnp.int32)), 10)).fixed
    31380
    """
    labels = jnp.asarray(examples.y).astype(jnp.uint32)
    return Shipment(Raw(jnp.asarray(examples.x)), Symbols(labels, num_classes))


def clustered(
    replication: int = 1,
    *,
    smallest: float | None = None,
    largest: float | None = None,
    sample_size: int = 4000,
) -> Dispatcher:
    """Balanced clusters of a sample; the machine of the nearest centre predicts.

    Args:
      replication: `p`, machines that hold each training example.
      smallest: the least number of examples of a machine, as a part of all; half of the
        fair share when None.
      largest: the most, likewise; twice the fair share when None.
      sample_size: examples that the centres are made from.

    Returns:
      A `Dispatcher`; it raises `ValueError` as `size_bounds`, for instance for more
      copies than machines.

    Raises:
      ValueError: for `replication < 1` or `sample_size < 1`.

    >>> x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    >>> sent = clustered()(x, 3, np.random.default_rng(0))
    >>> len(set(sent.route(np.eye(3, dtype=np.float32)).tolist()))
    3

    Source: Dick et al. 2017, section 6.
    """
    checks.integer("replication", replication, minimum=1)
    checks.integer("sample_size", sample_size, minimum=1)

    def dispatch(
        x: np.ndarray, num_machines: int, rng: np.random.Generator
    ) -> Dispatched:
        centres, chosen = balanced_clusters(
            x,
            num_machines,
            rng,
            replication=replication,
            smallest=smallest,
            largest=largest,
            sample_size=sample_size,
        )
        return Dispatched(
            from_lists([np.flatnonzero(column) for column in chosen.T]),
            lambda unseen: (
                squared_distances(unseen, centres).argmin(1).astype(np.int32)
            ),
        )

    return dispatch


def routed_evaluation(
    task: Task, *, execution: Execution | None = None
) -> Callable[[PyTree, Examples, jax.Array], Sums]:
    """Scores models, each on the examples that are routed to it.

    Args:
      task: the model and its metrics.
      execution: how the machines are run; `scanned()` when None.

    Returns:
      `(models, examples, machine) -> Sums` with models `[K, ...]`, examples `[M, ...]`
      and `machine` int32 `[M]`.
    """
    run_machines = given_execution(execution)

    def evaluate(models: PyTree, examples: Examples, machine: jax.Array) -> Sums:
        def one_machine(
            shared: tuple[Examples, jax.Array], own: tuple[PyTree, jax.Array]
        ) -> tuple[Sums, tuple[()]]:
            params, number = own
            return task.evaluate(params, shared[0], shared[1] == number), ()

        count = jax.tree.leaves(models)[0].shape[0]
        numbers = jnp.arange(count, dtype=machine.dtype)
        sums, _ = run_machines(one_machine)((examples, machine), (models, numbers))
        return sums

    return evaluate
