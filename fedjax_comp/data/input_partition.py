"""Partitions by what the examples are rather than by their labels.

`clusters`: Dick et al. 2017, arXiv 1512.04848: balanced clusters of the inputs, each
example in several of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedjax_comp import checks
from fedjax_comp.data.clusters import balanced_clusters
from fedjax_comp.data.partition import Assignment, check_num_clients, from_lists


class InputPartition(NamedTuple):
    """A partition by what the examples are rather than by their labels.

    Attributes:
      assign: `(inputs[N, ...], num_clients, rng) -> Assignment`.
    """

    assign: Callable[[np.ndarray, int, np.random.Generator], Assignment]


def clusters(
    replication: int = 1,
    *,
    smallest: float | None = None,
    largest: float | None = None,
    sample_size: int = 4000,
) -> InputPartition:
    """One client for each cluster of the inputs: skew in what examples look like.

    Every example goes to its nearest `replication` clients, as far as the bounds on
    sizes allow (`fedjax_comp.data.clusters.balanced_clusters`).

    Args:
      replication: clients that hold each example, at most `num_clients`.
      smallest: examples of every client at least, as a part of the data set; half of
        the fair share `replication / num_clients` when None.
      largest: at most; twice the fair share when None.
      sample_size: examples that the centres are made from.

    Returns:
      An `InputPartition`.

    Raises:
      ValueError: for `replication < 1` or `sample_size < 1`; on use, as `size_bounds`,
        and for fewer examples than clients.

    >>> x = np.arange(12, dtype=np.float32)[:, None]
    >>> order, offsets = clusters().assign(x, 3, np.random.default_rng(0))
    >>> sorted(order.tolist()) == list(range(12)), int(np.diff(offsets).min()) >= 2
    (True, True)

    Source: Dick et al. 2017, as `fedjax_comp.data.clusters`.
    """
    checks.integer("replication", replication, minimum=1)
    checks.integer("sample_size", sample_size, minimum=1)

    def assign(
        inputs: np.ndarray, num_clients: int, rng: np.random.Generator
    ) -> Assignment:
        check_num_clients(num_clients)
        x = inputs.reshape(len(inputs), -1).astype(np.float32)
        made = balanced_clusters(
            x,
            num_clients,
            rng,
            replication=replication,
            smallest=smallest,
            largest=largest,
            sample_size=sample_size,
        )
        return from_lists([np.flatnonzero(column) for column in made.chosen.T])

    return InputPartition(assign)
