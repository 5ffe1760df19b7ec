"""Accuracy of one model on every client's own examples, and who is served worst.

A mean over a test set hides who pays for it. Here a model is evaluated on each client's
own examples, inside jit: the clients' index lists are cut into blocks of `B` examples,
none of which mixes two clients, the blocks are mapped as cohorts are, and their sums
are added up by owner. Padding is less than one block a client.

    blocks = held_out_blocks(dataset, population, batch_size=20)   # once, on the host
    evaluate = jax.jit(client_evaluation_program(task, auto()))
    facts = accuracy_facts(evaluate(params, blocks))

The mean of the worst tenth of clients is that of Li, Sanjabi, Beirami and Smith, "Fair
Resource Allocation in Federated Learning", 2020 (arXiv 1905.10497), table 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Examples, Execution, PyTree, Sums, Task
from fedjax_comp.data import Dataset, FederatedData
from fedjax_comp.evaluation import means

QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
"""Of the clients' accuracies, in `accuracy_facts`."""


class ClientBlocks(NamedTuple):
    """Clients' examples in `T` blocks of one client each. It may go through jit.

    Attributes:
      examples: `[N, ...]`.
      owner: int32 `[T]`, whose block it is, in `[0, K)`.
      rows: int32 `[T, B]`, rows of `examples`.
      mask: bool `[T, B]`, False where a client's last block is short.
      num_examples: int32 `[K]`; 0 for a client that is in no block.
    """

    examples: Examples
    owner: jax.Array
    rows: jax.Array
    mask: jax.Array
    num_examples: jax.Array


class ClientAccuracy(NamedTuple):
    """A model's accuracy and loss on every client; NaN for one without examples.

    Attributes:
      accuracy: float32 `[K]`, share of the client's predictions that are right.
      loss: float32 `[K]`, their mean loss.
      num_predictions: float32 `[K]`; one an example, or one a token that counts.
      num_examples: int32 `[K]`.
    """

    accuracy: jax.Array
    loss: jax.Array
    num_predictions: jax.Array
    num_examples: jax.Array


def in_blocks(
    examples: Examples, order: np.ndarray, offsets: np.ndarray, *, batch_size: int
) -> ClientBlocks:
    """Cuts index lists into blocks; on the host, once.

    Args:
      examples: `[N, ...]`.
      order: integers `[M]`, the clients' lists one after another.
      offsets: integers `[K + 1]`; client `i` has `order[offsets[i]:offsets[i + 1]]`.
      batch_size: `B`; one above the length of the longest list means that length.

    Returns:
      The blocks, in the order of the clients; a client with an empty list has none.

    Raises:
      ValueError: if `batch_size < 1` or every list is empty.

    >>> x = np.arange(4.0)
    >>> cut = in_blocks(
    ...     Examples(x, x), np.array([3, 1, 2]), np.array([0, 3, 3]), batch_size=2)
    >>> cut.owner.tolist(), cut.rows.tolist(), cut.num_examples.tolist()
    ([0, 0], [[3, 1], [2, 0]], [3, 0])
    """
    checks.integer("batch_size", batch_size, minimum=1)
    sizes = np.diff(offsets)
    if not sizes.any():
        raise ValueError(f"Expected an example: all {len(sizes)} clients have none.")
    width = min(batch_size, int(sizes.max()))
    counts = -(-sizes // width)
    owner = np.repeat(np.arange(len(sizes)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot = (offsets[owner] + place * width)[:, None] + np.arange(width)
    mask = slot < offsets[owner + 1][:, None]
    rows = np.where(mask, order[np.where(mask, slot, 0)], 0)
    return ClientBlocks(
        examples,
        jnp.asarray(owner, jnp.int32),
        jnp.asarray(rows, jnp.int32),
        jnp.asarray(mask),
        jnp.asarray(sizes, jnp.int32),
    )


def training_blocks(data: FederatedData, *, batch_size: int) -> ClientBlocks:
    """Every client's own training examples: how well the model fits each of them.

    Args:
      data: the population.
      batch_size: `B`.

    Raises:
      ValueError: as `in_blocks`.
    """
    order, offsets = np.asarray(data.order), np.asarray(data.offsets)
    return in_blocks(data.examples, order, offsets, batch_size=batch_size)


def class_blocks(
    examples: Examples, num_classes: int, *, batch_size: int
) -> ClientBlocks:
    """Blocks by label, with classes in place of clients: which is served worst.

    Args:
      examples: with integer labels `[N]`.
      num_classes: labels are in `[0, num_classes)`.
      batch_size: `B`.

    Returns:
      Blocks whose owner is the class.

    Raises:
      ValueError: for labels that are sequences or none of the classes; as `in_blocks`.

    >>> cut = class_blocks(
    ...     Examples(np.zeros(3), np.array([2, 0, 2])), 3, batch_size=2)
    >>> cut.owner.tolist(), cut.num_examples.tolist()
    ([0, 2], [1, 0, 2])
    """
    labels = np.asarray(examples.y)
    if labels.ndim != 1 or not np.all((labels >= 0) & (labels < num_classes)):
        raise ValueError(
            f"Expected one label in [0, {num_classes}) an example, got labels of shape "
            f"{labels.shape}."
        )
    counts = np.bincount(labels, minlength=num_classes)
    return in_blocks(
        examples,
        np.argsort(labels, kind="stable"),
        np.concatenate([[0], np.cumsum(counts)]),
        batch_size=batch_size,
    )


def held_out_blocks(
    dataset: Dataset, data: FederatedData, *, batch_size: int
) -> ClientBlocks:
    """Test examples of each client's natural group (writer, role, ...), as in LEAF.

    Args:
      dataset: a data set that names the groups.
      data: the same, partitioned by `natural()`: every client holds examples of one
        group, and no two clients share a group. Groups of no client are left out.
      batch_size: `B`.

    Raises:
      ValueError: where the test set names no groups or clients are not groups; as
        `in_blocks`.

    Source: Caldas et al. 2018, arXiv 1812.01097 (LEAF).
    """
    names, tested = dataset.train_groups, dataset.test_groups
    advice = "partition by natural(), or evaluate on training_blocks."
    if names is None or tested is None:
        raise ValueError(
            f"Expected test examples of each client: {dataset.name} names no groups; "
            f"{advice}"
        )
    order, offsets = np.asarray(data.order), np.asarray(data.offsets)
    sizes = np.diff(offsets)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    group = names[order]
    pairs = np.unique(np.stack([group, owner]), axis=1)
    if len(np.unique(pairs[0])) < pairs.shape[1] or (np.bincount(pairs[1]) > 1).any():
        raise ValueError(
            f"Expected clients that are the groups of {dataset.name}: {advice}"
        )
    found = np.minimum(np.searchsorted(pairs[0], tested), pairs.shape[1] - 1)
    client = np.where(pairs[0][found] == tested, pairs[1][found], len(sizes))
    counts = np.bincount(client, minlength=len(sizes) + 1)[: len(sizes)]
    return in_blocks(
        data.test,
        np.argsort(client, kind="stable"),
        np.concatenate([[0], np.cumsum(counts)]),
        batch_size=batch_size,
    )


def client_evaluation_program(
    task: Task,
    execution: Execution,
    *,
    personal: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> Callable[[PyTree, ClientBlocks], ClientAccuracy]:
    """The function that evaluates a model on every client, ready to be jitted.

    Args:
      task: the model and its metrics.
      execution: how the blocks are run: they are mapped as clients are.
      personal: `Algorithm.personal`, where every client has a model of its own.

    Returns:
      `(params, blocks) -> ClientAccuracy`; with `personal` it takes
      `(server_state, client_states[K])` in place of the parameters.
    """

    def evaluate_block(
        shared: tuple[PyTree, Examples],
        block: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[tuple[()], Sums]:
        params, examples = shared
        owner, index, mask = block
        if personal is not None:
            server, clients = params
            params = personal(server, jax.tree.map(lambda x: x[owner], clients))
        rows = jax.tree.map(lambda x: x[index], examples)
        return (), task.evaluate(params, rows, mask)

    def evaluate(params: PyTree, blocks: ClientBlocks) -> ClientAccuracy:
        _, sums = execution(evaluate_block)(
            (params, blocks.examples), (blocks.owner, blocks.rows, blocks.mask)
        )
        num_clients = blocks.num_examples.shape[0]
        own = {
            name: jax.ops.segment_sum(x, blocks.owner, num_clients)
            for name, x in sums.items()
        }
        mean = means(own, task.derived)
        return ClientAccuracy(
            mean.accuracy, mean.loss, own["count"], blocks.num_examples
        )

    return evaluate


def worst_tenth(accuracy: np.ndarray) -> float:
    """The mean of the lowest tenth, rounded up to whole clients; NaN are left out.

    >>> worst_tenth(np.array([0.5, np.nan, *[1.0] * 10]))
    0.75
    """
    known = np.sort(accuracy[np.isfinite(accuracy)])
    return float(known[: max(1, -(-len(known) // 10))].mean())


def accuracy_facts(clients: ClientAccuracy) -> dict[str, float | int]:
    """The distribution of the clients' accuracies in a few numbers.

    Args:
      clients: of one model; those without a prediction are left out, and counted.

    Returns:
      `evaluated` and `without_examples`, numbers of clients; `mean`, in which each
      client counts once; `weighted_mean`, in which each prediction does; `spread`,
      their standard deviation; `worst`; `worst_tenth`; and the `QUANTILES`, linear
      between clients.

    >>> clients = ClientAccuracy(
    ...     np.array([1.0, 0.5, np.nan]), np.zeros(3), np.array([1.0, 3.0, 0.0]),
    ...     np.array([1, 3, 0]))
    >>> facts = accuracy_facts(clients)
    >>> facts["mean"], facts["weighted_mean"], facts["without_examples"]
    (0.75, 0.625, 1)
    """
    accuracy = np.asarray(clients.accuracy, np.float64)
    weights = np.asarray(clients.num_predictions, np.float64)
    known = weights > 0
    own, weights = accuracy[known], weights[known]
    return {
        "evaluated": int(known.sum()),
        "without_examples": int((~known).sum()),
        "mean": float(own.mean()),
        "weighted_mean": float(np.average(own, weights=weights)),
        "spread": float(own.std()),
        "worst": float(own.min()),
        "worst_tenth": worst_tenth(own),
        **{name: float(np.quantile(own, q)) for name, q in QUANTILES.items()},
    }
