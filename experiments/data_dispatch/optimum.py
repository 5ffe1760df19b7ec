"""The exact cheapest balanced assignment, and how far the greedy one is from it.

Assigning examples to clusters of bounded sizes is a flow problem of convex cost.
Examples are added one by one, each along the cheapest path of moves that makes room for
it; after each the assignment is the cheapest of that many examples (successive shortest
paths: Busacker, Gowen 1961; Ahuja, Magnanti, Orlin 1993, chapter 9). It suits small
instances: the cost is `O(N (N k + k^3))` for `N` examples and `k` clusters.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_comp.data.clusters import (
    SizeBounds,
    balanced_assignment,
    balanced_clusters,
    size_bounds,
    squared_distances,
)
from fedjax_comp.run_directory import Json

EXAMPLES, INSTANCES = 160, 5
"""Of each instance, and how many of them."""


def optimal_assignment(
    distances: np.ndarray, bounds: SizeBounds, *, replication: int = 1
) -> np.ndarray:
    """The assignment of least cost within the bounds.

    Args:
      distances: `[N, k]`, cost of having an example in a cluster.
      bounds: of every cluster's size; some assignment must keep them.
      replication: `p`, clusters of each example.

    Returns:
      bool `[N, k]`, each row with `p` True.

    >>> near = np.array([[0.0, 9], [1, 9], [2, 5], [3, 4]])
    >>> optimal_assignment(near, SizeBounds(2, 2)).argmax(1)
    array([0, 0, 1, 1])
    """
    costs = np.asarray(distances, np.float64)
    count, clusters = costs.shape
    chosen = np.zeros(costs.shape, bool)
    # More than any path of moves can save: lower bounds are filled first.
    reward = 2.0 * clusters * (np.abs(costs).max() + 1)
    for row in np.repeat(np.arange(count), replication):
        sizes = chosen.sum(0)
        ends = np.where(sizes < bounds.lower, -reward, 0.0)
        ends[sizes >= bounds.upper] = np.inf
        cheapest, mover = _moves(costs, chosen)
        least = np.where(chosen[row], np.inf, costs[row])
        before = np.full(clusters, -1)
        for _ in range(clusters):
            through = least[:, None] + cheapest
            nearer = through.min(0) < least - 1e-9
            if not nearer.any():
                break
            before[nearer] = through.argmin(0)[nearer]
            least = np.where(nearer, through.min(0), least)
        cluster = int((least + ends).argmin())
        while before[cluster] >= 0:
            source = int(before[cluster])
            moved = mover[source, cluster]
            chosen[moved, source], chosen[moved, cluster] = False, True
            cluster = source
        chosen[row, cluster] = True
    return chosen


def _moves(costs: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest example to move from each cluster to each other, and which."""
    clusters = costs.shape[1]
    cheapest = np.full((clusters, clusters), np.inf)
    mover = np.zeros((clusters, clusters), np.int64)
    for source in range(clusters):
        rows = np.flatnonzero(chosen[:, source])
        if len(rows):
            extra = costs[rows] - costs[rows, source][:, None]
            extra = np.where(chosen[rows], np.inf, extra)
            cheapest[source] = extra.min(0)
            mover[source] = rows[extra.argmin(0)]
    return cheapest, mover


def greedy_gaps(
    x: np.ndarray, machines: Sequence[int], replications: Sequence[int], seed: int
) -> list[Json]:
    """How much more the greedy assignment costs than the optimum, on parts of `x`.

    Args:
      x: `[N, d]`, inputs.
      machines: numbers of clusters; those that are too many for `EXAMPLES` are left
        out.
      replications: copies; those that exceed the machines are left out.
      seed: of the parts and the centres.

    Returns:
      A row for each, under the usual bounds and with all sizes equal: the mean and the
      `largest_gap`, each a part of the optimum's cost.
    """
    rows: list[Json] = []
    for clusters in machines:
        count = min(EXAMPLES, len(x)) // clusters * clusters
        for copies in replications:
            if copies > clusters or count < 2 * clusters:
                continue
            share = copies / clusters
            for bounds, limits in (("usual", None), ("equal", share)):
                gaps = []
                for instance in range(INSTANCES):
                    rng = np.random.default_rng((seed, instance))
                    part = x[rng.permutation(len(x))[:count]]
                    centres, _ = balanced_clusters(
                        part,
                        clusters,
                        rng,
                        replication=copies,
                        smallest=limits,
                        largest=limits,
                    )
                    sizes = size_bounds(
                        count,
                        clusters,
                        replication=copies,
                        smallest=limits,
                        largest=limits,
                    )
                    distances = squared_distances(part, centres)
                    gaps.append(gap(distances, sizes, replication=copies))
                rows.append(
                    {
                        "num_clients": clusters,
                        "copies": copies,
                        "sizes": bounds,
                        "examples": count,
                        "mean_gap": round(float(np.mean(gaps)), 5),
                        "largest_gap": round(max(gaps), 5),
                    }
                )
    return rows


def gap(distances: np.ndarray, bounds: SizeBounds, *, replication: int = 1) -> float:
    """The greedy assignment's cost over the optimum's, less one."""
    greedy = balanced_assignment(distances, bounds, replication=replication)
    best = optimal_assignment(distances, bounds, replication=replication)
    exact = distances.astype(np.float64)
    return float(exact[greedy].sum() / max(exact[best].sum(), 1e-30) - 1)
