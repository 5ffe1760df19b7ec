"""A population of clients: examples once on the device, clients as index lists.

Memory is that of the data set plus four bytes for every example a client holds and
every client: it does not grow with the length of the longest list, because nothing is
padded until a round gathers its batches by index.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Examples
from fedjax_comp.data.input_partition import InputPartition
from fedjax_comp.data.partition import (
    Assignment,
    Partition,
    from_lists,
)
from fedjax_comp.data.sources.checked import check_dataset
from fedjax_comp.data.sources.contract import Dataset


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What is known of a population before any array is looked at.

    It is a pytree without leaves: inside jit it is static, and another one recompiles.

    Attributes:
      name: name of the data set.
      num_classes: labels are in `[0, num_classes)`; 0 where they are numbers.
      input_shape: shape of one input, without the examples' axis.
      scale: what turns stored inputs into numbers of order one, `x * scale`.
      ignore_label: a label that is padding and not to be scored, or None.
      num_clients: `K`.
      max_client_size: examples of the largest client.
      num_train: examples stored on the device, `N`.
      num_test: test examples.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    scale: float
    ignore_label: int | None
    num_clients: int
    max_client_size: int
    num_train: int
    num_test: int


class FederatedData(NamedTuple):
    """Every client's examples. It may be passed through jit as it is.

    Attributes:
      examples: training examples, each once, `[N, ...]`, in their stored dtype.
      order: int32 `[M]`, indices into `examples`, client after client.
      offsets: int32 `[K + 1]`; client `i` has `order[offsets[i]:offsets[i + 1]]`.
      test: test examples, `[N_test, ...]`.
      spec: static facts.
    """

    examples: Examples
    order: jax.Array
    offsets: jax.Array
    test: Examples
    spec: DataSpec


def federated_data(
    dataset: Dataset, clients: Assignment | Sequence[np.ndarray | Sequence[int]]
) -> FederatedData:
    """Puts a data set on the device and gives it to clients.

    With several processes the training examples stay on the host until a run begins.
    A client's list may be empty: it is then inactive when sampled. Clients may share
    examples, but no client may hold one twice.

    Args:
      dataset: NumPy examples.
      clients: an `Assignment`, or one index list a client.

    Returns:
      The population.

    Raises:
      InvalidData: as `check_dataset`.
      ValueError: if there is no client, no client has an example,
        or an index is not an integer, outside the data set or twice in one client's
        list.

    >>> from fedjax_comp.data.sources import load
    >>> data = federated_data(load("digits"), [[0, 5, 9], [], [3]])
    >>> data.spec.num_clients, data.spec.max_client_size, data.examples.x.shape
    (3, 3, (1437, 8, 8, 1))
    """
    check_dataset(dataset)
    assignment = clients if isinstance(clients, Assignment) else from_lists(clients)
    return _on_device(dataset, assignment)


def _on_device(dataset: Dataset, assignment: Assignment) -> FederatedData:
    num_train = len(dataset.train.y)
    order, offsets = _check_assignment(assignment, num_train)
    spec = DataSpec(
        name=dataset.name,
        num_classes=dataset.num_classes,
        input_shape=tuple(dataset.train.x.shape[1:]),
        scale=dataset.scale,
        ignore_label=dataset.ignore_label,
        num_clients=len(offsets) - 1,
        max_client_size=int(np.diff(offsets).max()),
        num_train=num_train,
        num_test=len(dataset.test.y),
    )
    # Several processes: a run gives each device a share of them.
    place = jnp.asarray if jax.process_count() == 1 else np.asarray
    return FederatedData(
        examples=jax.tree.map(place, dataset.train),
        order=jnp.asarray(order),
        offsets=jnp.asarray(offsets),
        test=jax.tree.map(jnp.asarray, dataset.test),
        spec=spec,
    )


def federate(
    dataset: Dataset,
    partition: Partition | InputPartition,
    *,
    num_clients: int,
    seed: int,
) -> FederatedData:
    """Divides a data set among clients.

    Args:
      dataset: NumPy examples.
      partition: `iid()`, `shards(2)`, `dirichlet(0.3)`, `natural()`, `clusters()` or
        your own.
      num_clients: `K`; 0 is every natural group, for `natural()` only.
      seed: of the partition's own generator.

    Returns:
      The population.

    Raises:
      ValueError: as `federated_data` and the partition.

    >>> from fedjax_comp.data import iid, load
    >>> federate(load("digits"), iid(), num_clients=10, seed=0).offsets[-1].item()
    1437
    """
    checks.integer("seed", seed, minimum=0)
    check_dataset(dataset)  # before the partition, which looks at labels and groups
    rng = np.random.default_rng(seed)
    if isinstance(partition, InputPartition):
        inputs = np.asarray(dataset.train.x)
        return _on_device(dataset, partition.assign(inputs, num_clients, rng))
    checks.takes("partition", partition, 4)
    labels = np.asarray(dataset.train.y)
    assignment = partition(labels, dataset.train_groups, num_clients, rng)
    if not isinstance(assignment, Assignment):
        raise ValueError(
            f"Expected an Assignment from the partition, got "
            f"{type(assignment).__name__}; from_lists(...) makes one of index lists."
        )
    found = len(assignment.offsets) - 1
    if num_clients and found != num_clients:
        raise ValueError(
            f"Expected num_clients={num_clients} lists from the partition, got {found}."
        )
    return _on_device(dataset, assignment)


def _check_assignment(
    assignment: Assignment, num_train: int
) -> tuple[np.ndarray, np.ndarray]:
    order = np.asarray(assignment.order)
    offsets = np.asarray(assignment.offsets)
    for name, array in (("order", order), ("offsets", offsets)):
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"Expected {name} of an Assignment as integers in one row, got "
                f"{array.dtype}{list(array.shape)}."
            )
    sizes = np.diff(offsets)
    if len(offsets) < 2:
        raise ValueError("Expected num_clients=0 >= 1: there is no client.")
    if offsets[0] != 0 or offsets[-1] != len(order) or (sizes < 0).any():
        raise ValueError(
            f"Expected offsets that rise from 0 to {len(order)}, got {offsets[0]} to "
            f"{offsets[-1]}."
        )
    if len(order) == 0:
        raise ValueError(f"Expected an example: all {len(sizes)} clients are empty.")
    if order.min() < 0 or order.max() >= num_train:
        wrong = order.min() if order.min() < 0 else order.max()
        raise ValueError(f"Expected index={wrong} in [0, {num_train}).")
    owner = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    pairs = np.sort(owner * num_train + order)
    twice = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(twice):
        client, index = divmod(int(pairs[twice[0]]), num_train)
        raise ValueError(f"Expected client {client} to hold example {index} once.")
    return order.astype(np.int32), offsets.astype(np.int32)
