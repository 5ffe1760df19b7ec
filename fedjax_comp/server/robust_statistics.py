"""Statistics of a cohort's updates side by side, over the clients that counted.

Leaves are `[C, ...]`, finite, in float32; shapes are static, and those that did not
count are masked. What servers make of them is in `robust`, with the sources.
"""

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree
from fedjax_comp.tree import along


def mean_of(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """The unweighted mean of the chosen rows, which does not overflow.

    Args:
      values: `[C, ...]`.
      chosen: bool `[C]`.

    Returns:
      `[...]`; zeros when none is chosen.

    >>> mean_of(jnp.array([3e38, 3e38, jnp.nan]), jnp.array([True, True, False])) > 2e38
    Array(True, dtype=bool)
    """
    number = jnp.maximum(chosen.sum(dtype=jnp.float32), 1)
    return jnp.sum(jnp.where(along(chosen, values), values / number, 0), axis=0)


def coordinate_median(values: jax.Array, counts: jax.Array) -> jax.Array:
    """The median of every coordinate over the clients that counted.

    Args:
      values: `[C, ...]`, finite.
      counts: bool `[C]`.

    Returns:
      `[...]`, the mean of the middle two for an even number; zeros when nobody counted.

    >>> updates = jnp.array([[1.0, 5.0], [2.0, 9.0], [9e9, -1.0], [7.0, 7.0]])
    >>> coordinate_median(updates, jnp.array([True, True, True, False])).tolist()
    [2.0, 5.0]
    """
    ordered = _sorted(values, counts)
    number = counts.sum(dtype=jnp.int32)
    low, high = jnp.maximum(number - 1, 0) // 2, number // 2
    middle = ordered[low] / 2 + ordered[high] / 2
    middle = jnp.where(low == high, ordered[low], middle)
    return jnp.where(number > 0, middle, 0)


def weighted_coordinate_median(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted median of every coordinate: half of the weight on either side.

    Args:
      values: `[C, ...]`, finite.
      weights: float32 `[C]`, 0 for a client that did not count.

    Returns:
      `[...]`, the mean of the middle two where the weight below is half exactly; zeros
      when nobody counted.

    >>> updates = jnp.array([[1.0], [2.0], [9.0], [9.0]])
    >>> weighted_coordinate_median(updates, jnp.array([3.0, 2.0, 1.0, 1.0])).tolist()
    [2.0]
    """
    counts = weights > 0
    placed = jnp.where(along(counts, values), values, jnp.inf)
    each = jnp.broadcast_to(along(weights, values), values.shape)
    ordered, own = jax.lax.sort((placed, each), dimension=0, num_keys=1)
    below = jnp.cumsum(own, axis=0)
    half = below[-1:] / 2
    # Nobody who weighs nothing is met: those come last.
    low, high = (
        jnp.take_along_axis(ordered, jnp.argmax(reached, axis=0)[None], axis=0)[0]
        for reached in (below >= half, below > half)
    )
    middle = jnp.where(low == high, low, low / 2 + high / 2)
    return jnp.where(counts.any(), middle, 0)


def coordinate_trimmed_mean(
    values: jax.Array, counts: jax.Array, trimmed: jax.Array
) -> jax.Array:
    """The mean of every coordinate without its largest and smallest values.

    Args:
      values: `[C, ...]`, finite.
      counts: bool `[C]`.
      trimmed: how many to leave out at either end, int32 scalar below half of those
        that counted.

    Returns:
      `[...]`; zeros when nobody counted.

    >>> updates = jnp.array([[1.0], [2.0], [4.0], [9e9]])
    >>> coordinate_trimmed_mean(updates, jnp.ones(4, bool), jnp.int32(1)).tolist()
    [3.0]
    """
    number = counts.sum(dtype=jnp.int32)
    place = jnp.arange(counts.shape[0], dtype=jnp.int32)
    kept = (place >= trimmed) & (place < number - trimmed)
    return mean_of(_sorted(values, counts), kept)


def squared_distances(updates: PyTree) -> jax.Array:
    """`||x_i - x_j||^2` of all pairs, float32 `[C, C]`; infinite where it overflows.

    Differences are squared, rather than inner products added up, so that the distance
    of equal updates is exactly 0.

    >>> squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 25.0], [25.0, 0.0]]
    """
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(updates)]

    def from_one(own: list[jax.Array]) -> jax.Array:
        return sum(
            (
                jnp.sum((x - y[None]) ** 2, axis=1)
                for x, y in zip(flat, own, strict=True)
            ),
            start=jnp.zeros(flat[0].shape[0], jnp.float32),
        )

    return jax.lax.map(from_one, flat)


def krum_scores(distances: jax.Array, counts: jax.Array, bad_clients: int) -> jax.Array:
    """How far each client is from those closest to it, float32 `[C]`.

        s(i) = sum_{j -> i} ||x_i - x_j||^2

    over the `m - f - 2` others that are closest, of `m` that counted (at least one).

    Args:
      distances: `[C, C]`, squared.
      counts: bool `[C]`.
      bad_clients: `f`.

    >>> apart = squared_distances(jnp.array([[0.0], [1.0], [2.0], [3.0], [9.0]]))
    >>> krum_scores(apart, jnp.ones(5, bool), 1).tolist()
    [5.0, 2.0, 2.0, 5.0, 85.0]
    """
    clients = counts.shape[0]
    others = counts[None, :] & ~jnp.eye(clients, dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    closest = jnp.maximum(counts.sum(dtype=jnp.int32) - bad_clients - 2, 1)
    added = jnp.arange(clients, dtype=jnp.int32) < closest
    return jnp.where(added[None, :], nearest, 0).sum(axis=1)


def weiszfeld(
    updates: PyTree, weights: jax.Array, *, iterations: int, smoothing: float
) -> PyTree:
    """The smoothed Weiszfeld iteration towards the geometric median.

        v <- sum_i b_i x_i / sum_i b_i,   b_i = w_i / max(smoothing, ||x_i - v||)

    starting from the coordinates' weighted median. (The paper starts at the mean, from
    which an update of 1e38 is no farther than any other. An unweighted median could be
    moved to such an update by many clients of little weight, and the iteration would
    begin, and end, there.)

    Args:
      updates: leaves `[C, ...]`, finite.
      weights: float32 `[C]`, 0 where a client did not count.
      iterations: how many.
      smoothing: positive.

    >>> updates = jnp.array([[0.0, 0.0], [1.0, 0.0], [9e9, 0.0]])
    >>> weiszfeld(updates, jnp.ones(3), iterations=9, smoothing=1e-6).round(3).tolist()
    [1.0, 0.0]
    """

    def step(_: int, point: PyTree) -> PyTree:
        both = jax.tree.map(lambda x, v: x - v[None], updates, point)
        squares = sum(
            jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)
            for x in jax.tree.leaves(both)
        )
        pull = weights / jnp.maximum(jnp.sqrt(squares), smoothing)
        total = pull.sum()
        pull = pull / jnp.where(total > 0, total, 1)

        def mean(x: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(total > 0, jnp.sum(along(pull, x) * x, axis=0), v)

        return jax.tree.map(mean, updates, point)

    start = jax.tree.map(lambda x: weighted_coordinate_median(x, weights), updates)
    return jax.lax.fori_loop(0, iterations, step, start)


def _sorted(values: jax.Array, counts: jax.Array) -> jax.Array:
    """Every coordinate's values in order; those that do not count come last."""
    return jnp.sort(jnp.where(along(counts, values), values, jnp.inf), axis=0)
