"""Partitions: which client holds which examples, as index lists.

A partition is a function `(labels, groups, num_clients, rng) -> Assignment`. It runs
once, on the host, in NumPy; nothing of it is inside a jitted round.

* `iid`, `shards`: McMahan et al. 2017, arXiv 1602.05629, section 3 (600 shuffled
  examples a client; or sort by label, cut into shards, two shards a client).
* `dirichlet`: Hsu, Qi, Brown 2019, arXiv 1909.06335, in the per-class form of Yurochkin
  et al. 2019, arXiv 1905.12022: class `c` is divided among the clients in proportions
  `p_c ~ Dirichlet(alpha, ..., alpha)`, so that sizes differ as well as labels.
* `natural`: one client for each writer, speaker, ... that the data set names.

Partitions by what the inputs look like are in `fedjax_comp.data.input_partition`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedjax_comp import checks


class Assignment(NamedTuple):
    """Index lists, joined: client `i` has `order[offsets[i]:offsets[i + 1]]`.

    Attributes:
      order: int32 `[M]`, indices of examples, client after client.
      offsets: int32 `[K + 1]`, where each client's list begins; the last is `M`.
    """

    order: np.ndarray
    offsets: np.ndarray


Partition = Callable[
    [np.ndarray, np.ndarray | None, int, np.random.Generator], Assignment
]
"""`(labels[N, ...], groups[N] or None, num_clients, rng) -> Assignment`."""


def from_lists(lists: Sequence[np.ndarray | Sequence[int]]) -> Assignment:
    """Joins one index list a client into an `Assignment`.

    Args:
      lists: `K` lists of indices; a list may be empty.

    Returns:
      The same lists, concatenated.

    Raises:
      ValueError: when a list holds anything but integers in one row, or one beyond
        int32.

    >>> from_lists([[3, 1], [], [2]]).offsets
    array([0, 2, 2, 3], dtype=int32)
    """
    arrays = [_indices(client, indices) for client, indices in enumerate(lists)]
    sizes = [len(indices) for indices in arrays]
    order = np.concatenate([np.zeros(0, np.int32), *arrays])
    return Assignment(order, _offsets(sizes))


def iid(*, sigma: float = 0.0, size: int | None = None) -> Partition:
    """Shuffled examples: every client's labels follow the whole data set's.

    Without `size` the data set is dealt out once and every example has one owner: in
    equal parts (to within one example), or in parts proportional to `exp(sigma * z)`
    with standard normal `z`. With `size` every client gets exactly that many distinct
    examples and clients share them once the data set is used up, so that the number of
    clients is not bounded by the number of examples.

    Args:
      sigma: spread of the log-normal sizes; 0 makes them equal.
      size: examples of each client, or None to deal the data set out once.

    Returns:
      A partition.

    Raises:
      ValueError: if `sigma` is negative or not finite, if `size < 1`, or if both are
        given; on use, if `num_clients < 1` or `size` exceeds the data set.

    >>> labels = np.zeros(10, np.int32)
    >>> iid()(labels, None, 3, np.random.default_rng(0)).offsets
    array([ 0,  3,  6, 10], dtype=int32)

    Source: McMahan et al. 2017, section 3.
    """
    if not (checks.is_finite(sigma) and sigma >= 0):
        raise ValueError(f"Expected sigma={sigma!r} >= 0 and finite; 0 is equal sizes.")
    if size is not None:
        checks.integer("size", size, minimum=1)
    if size is not None and sigma > 0:
        raise ValueError(
            f"Expected size={size} or sigma={sigma}, not both: a size has no spread."
        )

    def partition(
        labels: np.ndarray,
        groups: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> Assignment:
        del groups
        check_num_clients(num_clients)
        num_examples = len(labels)
        if size is not None:
            return _shared(num_examples, size, num_clients, rng)
        order = rng.permutation(num_examples).astype(np.int32)
        if sigma == 0:
            bounds = np.arange(num_clients + 1, dtype=np.int64) * num_examples
            return Assignment(order, (bounds // num_clients).astype(np.int32))
        weights = np.exp(sigma * rng.standard_normal(num_clients))
        bounds = _bounds(weights, num_examples)
        return Assignment(order, np.concatenate([[0], bounds]).astype(np.int32))

    return partition


def shards(per_client: int = 2) -> Partition:
    """Pathological labels: examples sorted by label, `per_client` shards a client.

    The sorted examples are cut into `num_clients * per_client` shards of equal size (to
    within one example) and dealt out at random, so that most clients hold about
    `per_client` labels.

    Args:
      per_client: shards of each client.

    Returns:
      A partition.

    Raises:
      ValueError: if `per_client < 1`; on use, if there are fewer examples than shards,
        `num_clients < 1`, or labels are not one integer an example.

    >>> labels = np.arange(12) // 3
    >>> order, offsets = shards(2)(labels, None, 2, np.random.default_rng(0))
    >>> [len(set(labels[order[a:b]])) for a, b in zip(offsets, offsets[1:])]
    [2, 2]

    Source: McMahan et al. 2017, section 3.
    """
    checks.integer("per_client", per_client, minimum=1)

    def partition(
        labels: np.ndarray,
        groups: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> Assignment:
        del groups
        check_num_clients(num_clients)
        _check_labels(labels, "shards")
        num_shards = num_clients * per_client
        if num_shards > len(labels):
            raise ValueError(
                f"Expected num_clients={num_clients} * per_client={per_client} <= "
                f"{len(labels)} examples; use fewer clients or shards."
            )
        # Shuffled first, so that the examples of one label fall into its shards at
        # random whatever order the data set was stored in.
        shuffled = rng.permutation(len(labels))
        in_order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        bounds = np.arange(num_shards + 1, dtype=np.int64) * len(labels) // num_shards
        owner_of_shard = rng.permutation(num_shards) // per_client
        owner = np.empty(len(labels), np.int64)
        owner[in_order] = np.repeat(owner_of_shard, np.diff(bounds))
        return _from_owners(owner, num_clients)

    return partition


def dirichlet(alpha: float, *, minimum: int = 0) -> Partition:
    """Label skew of any degree: class `c` is divided by `p_c ~ Dirichlet(alpha)`.

    `alpha -> inf` gives every client every label in equal parts; `alpha -> 0` gives
    each label to one client. Sizes are unequal and, without `minimum`, can be 0.

    Args:
      alpha: concentration, the same for every client.
      minimum: examples that every client is to have. Clients that got fewer are filled
        up with examples taken at random from what the others have above `minimum`.

    Returns:
      A partition.

    Raises:
      ValueError: if `alpha` is not positive and finite or `minimum < 0`; on use, if
        there are fewer than `num_clients * minimum` examples, `num_clients < 1`, or
        labels are not one integer an example.

    >>> labels = np.arange(1000) % 10
    >>> order, offsets = dirichlet(0.3)(labels, None, 20, np.random.default_rng(0))
    >>> bool((np.sort(order) == np.arange(1000)).all())
    True

    Source: Yurochkin et al. 2019, section 4; Hsu, Qi, Brown 2019, section 3.1.
    """
    if not (checks.is_finite(alpha) and alpha > 0):
        raise ValueError(
            f"Expected alpha={alpha!r} > 0 and finite; use iid() for equal."
        )
    checks.integer("minimum", minimum, minimum=0)

    def partition(
        labels: np.ndarray,
        groups: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> Assignment:
        del groups
        check_num_clients(num_clients)
        _check_labels(labels, "dirichlet")
        if minimum * num_clients > len(labels):
            raise ValueError(
                f"Expected minimum={minimum} * num_clients={num_clients} <= "
                f"{len(labels)} examples."
            )
        owner = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            proportions = rng.dirichlet(np.full(num_clients, alpha))
            bounds = _bounds(proportions, len(members))
            owner[members] = np.searchsorted(
                bounds, np.arange(len(members)), side="right"
            )
        if minimum:
            owner = _fill_up(owner, minimum, num_clients, rng)
        return _from_owners(owner, num_clients)

    return partition


def natural() -> Partition:
    """One client for each group (writer, role, ...) that has training examples.

    `num_clients = 0` takes every group; a smaller number takes that many at random.

    Returns:
      A partition.

    Raises:
      ValueError: on use, if the data set names no groups or has fewer of them than
        `num_clients`, or if `num_clients < 0`.

    >>> groups = np.array([7, 7, 9, 4])
    >>> natural()(np.zeros(4), groups, 0, np.random.default_rng(0)).offsets
    array([0, 1, 3, 4], dtype=int32)

    Source: Caldas et al. 2018, arXiv 1812.01097 (LEAF).
    """

    def partition(
        labels: np.ndarray,
        groups: np.ndarray | None,
        num_clients: int,
        rng: np.random.Generator,
    ) -> Assignment:
        if groups is None:
            raise ValueError(
                "Expected a data set with natural groups for natural(); femnist and "
                "shakespeare have them. Use iid(), shards(2) or dirichlet(0.3) here."
            )
        if len(groups) != len(labels):
            raise ValueError(
                f"Expected as many groups as labels, got {len(groups)} and "
                f"{len(labels)}."
            )
        checks.integer("num_clients", num_clients, minimum=0)
        names, owner = np.unique(groups, return_inverse=True)
        if num_clients > len(names):
            raise ValueError(
                f"Expected 0 <= num_clients={num_clients} <= {len(names)} natural "
                "groups; 0 takes them all."
            )
        everyone = _from_owners(owner, len(names))
        if num_clients in (0, len(names)):
            return everyone
        chosen = np.sort(rng.choice(len(names), num_clients, replace=False))
        order, offsets = everyone
        return from_lists([order[offsets[i] : offsets[i + 1]] for i in chosen])

    return partition


def check_num_clients(num_clients: int) -> None:
    """`ValueError` where a partition needs to be told how many clients there are."""
    if checks.integer("num_clients", num_clients, minimum=0) == 0:
        raise ValueError("Expected num_clients=0 >= 1; only natural() takes 0 (all).")


def _check_labels(labels: np.ndarray, name: str) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Expected one integer label an example for {name}, got "
            f"{labels.dtype}{list(labels.shape)}; use iid() or natural()."
        )


def _indices(client: int, indices: np.ndarray | Sequence[int]) -> np.ndarray:
    array = np.asarray(indices)
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"Expected integers in one row in the index list of client {client}, got "
            f"{array.dtype}{list(array.shape)}; np.flatnonzero turns a mask into them."
        )
    # A conversion to int32 would wrap silently.
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        wrong = array.min() if array.min() < limits.min else array.max()
        raise ValueError(
            f"Expected index={wrong} of client {client} to be an int32: it is outside "
            "every data set."
        )
    return array.astype(np.int32)


def _offsets(sizes: np.ndarray | Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int32)


def _bounds(weights: np.ndarray, total: int) -> np.ndarray:
    """Ends of consecutive parts of `total`, proportional to `weights`, int64 `[K]`."""
    cumulative = np.cumsum(weights)
    bounds = np.round(cumulative / cumulative[-1] * total).astype(np.int64)
    bounds[-1] = total
    return bounds


def _from_owners(owner: np.ndarray, num_clients: int) -> Assignment:
    """The assignment in which example `j` belongs to client `owner[j]`."""
    order = np.argsort(owner, kind="stable").astype(np.int32)
    return Assignment(order, _offsets(np.bincount(owner, minlength=num_clients)))


def _shared(
    num_examples: int, size: int, num_clients: int, rng: np.random.Generator
) -> Assignment:
    """`size` distinct examples a client, from as many shuffles as that takes."""
    if size > num_examples:
        raise ValueError(f"Expected size={size} <= {num_examples} examples.")
    per_shuffle = num_examples // size
    num_shuffles = -(-num_clients // per_shuffle)
    shuffles = np.tile(np.arange(num_examples, dtype=np.int32), (num_shuffles, 1))
    rng.permuted(shuffles, axis=1, out=shuffles)
    order = shuffles[:, : per_shuffle * size].reshape(-1)[: num_clients * size]
    return Assignment(
        np.ascontiguousarray(order), _offsets(np.full(num_clients, size, np.int64))
    )


def _fill_up(
    owner: np.ndarray, minimum: int, num_clients: int, rng: np.random.Generator
) -> np.ndarray:
    """Moves examples at random until every client has at least `minimum`."""
    sizes = np.bincount(owner, minlength=num_clients)
    takers = np.repeat(np.arange(num_clients), np.maximum(minimum - sizes, 0))
    shuffled = rng.permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    rank = np.arange(len(owner)) - _offsets(sizes)[owner[grouped]]
    spare = rng.permutation(grouped[rank >= minimum])[: len(takers)]
    filled = owner.copy()
    filled[spare] = takers
    return filled
