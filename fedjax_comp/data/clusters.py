"""Balanced clusters with replication: which machine holds which examples, by content.

Every example goes to `p` of `k` clusters, no cluster has fewer than `l N` or more than
`L N` examples, and the sum of squared distances to the centres is to be small. Centres
come from a sample: k-means++ seeds, then Lloyd's steps in which every assignment is
balanced; the whole data set is assigned under the same bounds. All of it is NumPy on
the host.

Source: Dick, Li, Pillutla, White, Balcan, Smola 2017, "Data Driven Resource Allocation
for Distributed Learning" (arXiv 1512.04848); seeding by Arthur, Vassilvitskii 2007,
"k-means++". How clusters are balanced is ours: the cheapest moves, greedily, where the
paper rounds a linear program.
"""

import math
from typing import NamedTuple

import numpy as np

from fedjax_comp import checks


class SizeBounds(NamedTuple):
    """Examples that a cluster must and may have, both inclusive."""

    lower: int
    upper: int


def size_bounds(
    num_examples: int,
    num_clusters: int,
    *,
    replication: int = 1,
    smallest: float | None = None,
    largest: float | None = None,
) -> SizeBounds:
    """The bounds `[l N, L N]` in examples.

    Args:
      num_examples: `N`.
      num_clusters: `k`.
      replication: `p`, clusters of each example.
      smallest: `l`, a part of `N`; half of the fair share `p / k` when None.
      largest: `L`, a part of `N`; twice the fair share, at most all, when None.

    Returns:
      The bounds, rounded inwards.

    Raises:
      ValueError: for no cluster or example, for `p` outside `[1, k]`, and for bounds
        that no assignment can keep.

    >>> size_bounds(100, 4, replication=2, smallest=0.25, largest=0.75)
    SizeBounds(lower=25, upper=75)
    """
    if num_clusters < 1 or num_examples < 1:
        raise ValueError(
            f"Expected num_clusters={num_clusters} and num_examples={num_examples} >= "
            "1."
        )
    if not 1 <= replication <= num_clusters:
        raise ValueError(
            f"Expected 1 <= replication={replication} <= {num_clusters} machines: "
            "copies of an example are on different machines."
        )
    share = replication / num_clusters
    high = min(1.0, max(2 * share, smallest or 0)) if largest is None else largest
    low = min(share / 2, high) if smallest is None else smallest
    if not 0 <= low <= high <= 1:
        raise ValueError(f"Expected 0 <= smallest={low} <= largest={high} <= 1.")
    # A hair of tolerance: 0.1 * 30 is not to be rounded up to 4 or down to 2.
    lower = math.ceil(low * num_examples - 1e-9)
    upper = math.floor(high * num_examples + 1e-9)
    if smallest is None:
        lower = min(lower, replication * num_examples // num_clusters)
    if largest is None:
        upper = max(
            upper, min(num_examples, -(-replication * num_examples // num_clusters))
        )
    total = replication * num_examples
    if not num_clusters * lower <= total <= num_clusters * upper:
        raise ValueError(
            f"Expected sizes in [{lower}, {upper}] to hold {total} examples in "
            f"{num_clusters} clusters: lower smallest={low:g} or raise "
            f"largest={high:g} past the fair share {share:g}."
        )
    return SizeBounds(lower, upper)


def squared_distances(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`||x_i - c_j||^2`, float32 `[N, k]`, for `x` `[N, d]` and centres `[k, d]`.

    >>> squared_distances(np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32))
    array([[1.],
           [1.]], dtype=float32)
    """
    x, centres = _floats(x), _floats(centres)
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(centres * centres, axis=1)
    return np.maximum(squares - 2 * (x @ centres.T), 0)


def k_means_plus_plus(
    x: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Seeds of which each is drawn with odds by the distance to those before it.

    Args:
      x: `[N, d]`.
      count: `k`.
      rng: of the draws.

    Returns:
      `[k, d]`, rows of `x`; a row may repeat when there are fewer distinct ones.

    Source: Arthur, Vassilvitskii 2007, algorithm 1.
    """
    chosen = [int(rng.integers(len(x)))]
    nearest = squared_distances(x, x[chosen])[:, 0].astype(np.float64)
    for _ in range(count - 1):
        total = nearest.sum()
        odds = nearest / total if total > 0 else None
        chosen.append(int(rng.choice(len(x), p=odds)))
        newest = squared_distances(x, x[chosen[-1:]])[:, 0]
        nearest = np.minimum(nearest, newest)
    return x[chosen]


def balanced_assignment(
    distances: np.ndarray, bounds: SizeBounds, *, replication: int = 1
) -> np.ndarray:
    """The nearest `p` centres of each example, then the cheapest moves into the bounds.

    A cluster that is too large gives examples to others that have room, cheapest
    first; then one that is too small takes them from others that can spare some. Since
    a larger cluster always has an example that a smaller one has not, each round moves
    some, and bounds that `size_bounds` allows are always met.

    Args:
      distances: `[N, k]`, cost of having an example in a cluster.
      bounds: of every cluster's size.
      replication: `p`.

    Returns:
      bool `[N, k]`, each row with `p` True.

    Raises:
      ValueError: for distances that are not finite, of which none is the cheapest.

    >>> near = np.array([[0.0, 9], [1, 9], [2, 5], [3, 4]])
    >>> balanced_assignment(near, SizeBounds(2, 2)).argmax(1)
    array([0, 0, 1, 1])
    """
    if not np.isfinite(distances).all():
        raise ValueError(
            "Expected finite distances to the centres: inputs so large have squares "
            "beyond float32; scale them."
        )
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :replication]
    chosen = np.zeros(distances.shape, bool)
    np.put_along_axis(chosen, nearest, True, axis=1)
    sizes = chosen.sum(0)
    while sizes.max() > bounds.upper:
        source = int(sizes.argmax())
        rows = np.flatnonzero(chosen[:, source])
        room = np.maximum(bounds.upper - sizes, 0)
        closed = chosen[rows] | (room == 0)
        costs = np.where(closed, np.inf, distances[rows])
        target = costs.argmin(1)
        extra = costs.min(1) - distances[rows, source]
        moved = _cheapest(extra, target, room, sizes[source] - bounds.upper)
        chosen[rows[moved], source] = False
        chosen[rows[moved], target[moved]] = True
        sizes = chosen.sum(0)
    while sizes.min() < bounds.lower:
        target_cluster = int(sizes.argmin())
        rows = np.flatnonzero(~chosen[:, target_cluster])
        spare = np.maximum(sizes - bounds.lower, 0)
        open_ = chosen[rows] & (spare > 0)
        gains = np.where(open_, distances[rows], -np.inf)
        donor = gains.argmax(1)
        extra = distances[rows, target_cluster] - gains.max(1)
        moved = _cheapest(extra, donor, spare, bounds.lower - sizes[target_cluster])
        chosen[rows[moved], donor[moved]] = False
        chosen[rows[moved], target_cluster] = True
        sizes = chosen.sum(0)
    return chosen


def balanced_centres(
    sample: np.ndarray,
    num_clusters: int,
    rng: np.random.Generator,
    *,
    replication: int = 1,
    smallest: float | None = None,
    largest: float | None = None,
    steps: int = 10,
) -> np.ndarray:
    """Centres of balanced clusters of a sample.

    Args:
      sample: `[M, d]`, floats.
      num_clusters: `k`.
      rng: of the seeds.
      replication: `p`.
      smallest: as for `size_bounds`.
      largest: as for `size_bounds`.
      steps: Lloyd's steps at most; fewer when nothing moves.

    Returns:
      `[k, d]`, means of the clusters.

    Raises:
      ValueError: as `size_bounds`, and for fewer rows than clusters.
    """
    if len(sample) < num_clusters:
        raise ValueError(
            f"Expected a sample of {len(sample)} examples >= {num_clusters} clusters."
        )
    bounds = size_bounds(
        len(sample),
        num_clusters,
        replication=replication,
        smallest=smallest,
        largest=largest,
    )
    sample = _floats(sample)
    centres = k_means_plus_plus(sample, num_clusters, rng)
    before = None
    for _ in range(steps):
        distances = squared_distances(sample, centres)
        chosen = balanced_assignment(distances, bounds, replication=replication)
        if before is not None and np.array_equal(chosen, before):
            break
        before = chosen
        counts = chosen.sum(0)
        means = (chosen.T.astype(sample.dtype) @ sample) / np.maximum(counts, 1)[
            :, None
        ]
        # A cluster that may be empty, and is, keeps its centre.
        centres = np.where(counts[:, None] > 0, means, centres).astype(sample.dtype)
    return centres


class Clustering(NamedTuple):
    """Balanced clusters of a data set.

    Attributes:
      centres: `[k, d]`.
      chosen: bool `[N, k]`, the clusters of each example.
    """

    centres: np.ndarray
    chosen: np.ndarray


def balanced_clusters(
    x: np.ndarray,
    num_clusters: int,
    rng: np.random.Generator,
    *,
    replication: int = 1,
    smallest: float | None = None,
    largest: float | None = None,
    sample_size: int = 4000,
) -> Clustering:
    """Centres from a sample, and all examples assigned to them within the bounds.

    Args:
      x: `[N, d]`, floats or the integers that they are stored as.
      num_clusters: `k`.
      rng: of the sample and the seeds.
      replication: `p`, clusters of each example.
      smallest: as for `size_bounds`.
      largest: as for `size_bounds`.
      sample_size: examples that the centres are made from.

    Returns:
      The clusters, whose sizes keep the bounds on all `N` examples.

    Raises:
      ValueError: as `size_bounds`; for `sample_size < 1` and fewer examples than
        clusters.

    >>> x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    >>> balanced_clusters(x, 3, np.random.default_rng(0)).chosen.sum(0).tolist()
    [4, 4, 4]
    """
    checks.integer("sample_size", sample_size, minimum=1)
    bounds = size_bounds(
        len(x),
        num_clusters,
        replication=replication,
        smallest=smallest,
        largest=largest,
    )
    drawn = rng.permutation(len(x))[: max(sample_size, num_clusters)]
    centres = balanced_centres(
        x[drawn],
        num_clusters,
        rng,
        replication=replication,
        smallest=smallest,
        largest=largest,
    )
    chosen = balanced_assignment(
        squared_distances(x, centres), bounds, replication=replication
    )
    return Clustering(centres, chosen)


def _floats(x: np.ndarray) -> np.ndarray:
    """Floats as they are, and stored bytes as floats: their squares would wrap."""
    return np.asarray(x, np.result_type(x, np.float32))


def _cheapest(
    extra: np.ndarray, other: np.ndarray, room: np.ndarray, most: int
) -> np.ndarray:
    """The moves to make: cheapest first, no more than there is room, `most` in all."""
    order = np.argsort(extra, kind="stable")
    order = order[np.isfinite(extra[order])]
    grouped = np.argsort(other[order], kind="stable")
    groups = other[order][grouped]
    rank = np.empty(len(order), np.int64)
    rank[grouped] = np.arange(len(order)) - np.searchsorted(groups, groups)
    return order[rank < room[other[order]]][:most]
