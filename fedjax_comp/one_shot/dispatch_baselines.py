"""Dispatch that does not look at similarity, or looks at it cheaply: the baselines.

Source: named in section 6 of Dick et al. 2017 (arXiv 1512.04848) as random dispatch,
balanced partition trees and locality-sensitive hashing; how each is built is our
reading.
"""

import numpy as np

from fedjax_comp.data.clusters import size_bounds
from fedjax_comp.data.partition import from_lists
from fedjax_comp.one_shot.data_dispatch import Dispatched, Dispatcher


def randomly(replication: int = 1) -> Dispatcher:
    """Every example to `p` machines at random, in equal parts; any machine predicts.

    Args:
      replication: `p`.

    Returns:
      A `Dispatcher`; it raises `ValueError` for more copies than machines.
    """

    def dispatch(
        x: np.ndarray, num_machines: int, rng: np.random.Generator
    ) -> Dispatched:
        size_bounds(len(x), num_machines, replication=replication)
        order = rng.permutation(len(x))
        # Neighbours on a circle of machines: distinct ones, and equal parts.
        first = np.arange(len(x)) % num_machines
        lists = [
            np.concatenate(
                [
                    order[first == (machine - copy) % num_machines]
                    for copy in range(replication)
                ]
            )
            for machine in range(num_machines)
        ]
        route_seed = int(rng.integers(2**32))

        def route(unseen: np.ndarray) -> np.ndarray:
            own = np.random.default_rng(route_seed)
            drawn = own.integers(num_machines, size=len(unseen))
            return drawn.astype(np.int32)

        return Dispatched(from_lists(lists), route)

    return dispatch


def partition_tree() -> Dispatcher:
    """A balanced k-d tree: each node cuts its widest coordinate in proportion.

    A node of `k` machines gives `k // 2` of them the examples below the quantile
    `(k // 2) / k` of the coordinate of largest variance, and the rest the others.

    Returns:
      A `Dispatcher` without replication; sizes are within one example of equal for as
      long as coordinates differ, ties going where there is room.
    """

    def dispatch(
        x: np.ndarray, num_machines: int, rng: np.random.Generator
    ) -> Dispatched:
        del rng
        size_bounds(len(x), num_machines)
        owner = np.zeros(len(x), np.int64)
        cuts: dict[tuple[int, int], tuple[int, float]] = {}

        def split(rows: np.ndarray, first: int, count: int) -> None:
            if count == 1:
                owner[rows] = first
                return
            axis = int(x[rows].var(0).argmax())
            along = rows[np.argsort(x[rows, axis], kind="stable")]
            left = count // 2
            middle = len(rows) * left // count
            threshold = float(x[along[min(middle, len(rows) - 1)], axis])
            cuts[first, count] = (axis, threshold)
            split(along[:middle], first, left)
            split(along[middle:], first + left, count - left)

        split(np.arange(len(x)), 0, num_machines)

        def route(unseen: np.ndarray) -> np.ndarray:
            found = np.zeros(len(unseen), np.int32)

            def descend(rows: np.ndarray, first: int, count: int) -> None:
                if count == 1:
                    found[rows] = first
                    return
                axis, threshold = cuts[first, count]
                below = unseen[rows, axis] < threshold
                left = count // 2
                descend(rows[below], first, left)
                descend(rows[~below], first + left, count - left)

            descend(np.arange(len(unseen)), 0, num_machines)
            return found

        lists = [np.flatnonzero(owner == j) for j in range(num_machines)]
        return Dispatched(from_lists(lists), route)

    return dispatch


def hashed(bits: int | None = None) -> Dispatcher:
    """Locality-sensitive hashing: sides of random planes through the mean.

    The `b` sides of an example are a number; its machine is that number modulo `k`.
    Sizes are not controlled, and a machine may get no examples.

    Args:
      bits: `b`; twice `log2 k`, rounded up, when None.

    Returns:
      A `Dispatcher` without replication.

    Raises:
      ValueError: for `bits` outside `[1, 30]`.

    Source: Charikar 2002, "Similarity estimation techniques from rounding algorithms".
    """
    if bits is not None and not 1 <= bits <= 30:
        raise ValueError(f"Expected 1 <= bits={bits} <= 30.")

    def dispatch(
        x: np.ndarray, num_machines: int, rng: np.random.Generator
    ) -> Dispatched:
        size_bounds(len(x), num_machines)
        width = bits or max(1, 2 * (num_machines - 1).bit_length())
        mean = x.mean(0)
        planes = rng.standard_normal((x.shape[1], width)).astype(mean.dtype)

        def route(points: np.ndarray) -> np.ndarray:
            sides = ((points - mean) @ planes > 0).astype(np.int64)
            numbers = sides @ (1 << np.arange(width)) % num_machines
            return numbers.astype(np.int32)

        owner = route(x)
        lists = [np.flatnonzero(owner == j) for j in range(num_machines)]
        return Dispatched(from_lists(lists), route)

    return dispatch
