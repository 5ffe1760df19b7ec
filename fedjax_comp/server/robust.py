"""Aggregators that some bad clients cannot steer at will.

A mean follows whoever sends the largest numbers. Here are replacements:

    norm_bound         each update shortened to a norm, then the weighted mean
    median             of every coordinate
    trimmed_mean       of every coordinate, without its largest and smallest
    krum               the update (or some) that most others are close to
    geometric_median   the point of least weighted distance to all updates

`norm_bound` maps one update at a time, so that nothing is held but a sum. All others
hold a cohort's decoded updates side by side: `C n` float32, and as much again while
they are sorted (`median`, `trimmed_mean`), twice as much with their weights beside them
(`geometric_median`), whatever the `Execution`. They use only clients that counted, so
that a client that sends NaN is left out before. All clients weigh alike, except in
`norm_bound` and `geometric_median`, which weigh them by numbers of examples.

Sources: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning:
towards optimal statistical rates", 2018, definitions 1 and 2; Blanchard, El Mhamdi,
Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient
descent", 2017, section 4; Sun, Kairouz, Suresh and McMahan, "Can you really backdoor
federated learning?", 2019, section 3; Pillutla, Kakade and Harchaoui, "Robust
aggregation for federated learning", 2019 (arXiv 1912.13445), algorithm 2.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import PyTree
from fedjax_comp.compress.magnitude import clip_by_l2
from fedjax_comp.server.robust_statistics import (
    coordinate_median,
    coordinate_trimmed_mean,
    krum_scores,
    mean_of,
    squared_distances,
    weiszfeld,
)

Together = Callable[[PyTree, jax.Array], PyTree]
"""`(updates[C, ...], weights[C]) -> update`. Where a client did not count its weight is
0, and its update zeros."""


class Aggregator(NamedTuple):
    """How a server combines a cohort's updates.

    Attributes:
      each: `(update) -> update`, of one client's decoded update in float32; None where
        it stays as it is.
      together: combines all updates side by side; None for their weighted mean, of
        which only the sum is held.
      min_clients: the smallest cohort that it is defined for.
    """

    each: Callable[[PyTree], PyTree] | None = None
    together: Together | None = None
    min_clients: int = 1


def require_clients(aggregator: Aggregator, cohort_size: int) -> None:
    """Raises `ValueError` for a cohort that is too small for an aggregator.

    >>> require_clients(krum(2), 6)
    Traceback (most recent call last):
    ...
    ValueError: Expected a cohort of at least 7 clients for this aggregator, got 6.
    """
    if cohort_size < aggregator.min_clients:
        raise ValueError(
            f"Expected a cohort of at least {aggregator.min_clients} clients for this "
            f"aggregator, got {cohort_size}."
        )


def norm_bound(norm: float) -> Aggregator:
    """The weighted mean of updates that are each shortened to a norm.

        sum_i w_i x_i min(1, norm / ||x_i||) / sum_i w_i

    A bad client counts as an update of norm `norm` at most, in any direction.

    Args:
      norm: the largest Euclidean norm of an update, all leaves together.

    Raises:
      ValueError: when `norm` is not positive and finite.

    >>> norm_bound(2.0).each(jnp.array([8.0])).tolist()
    [2.0]

    Source: Sun et al. 2019, section 3 (norm thresholding).
    """
    norm = checks.between("norm", norm, above=0, at_most=1e30)
    return Aggregator(each=lambda update: clip_by_l2(update, norm))


def median() -> Aggregator:
    """The median of every coordinate; it holds while fewer than half are bad.

    >>> median().together(jnp.array([[1.0], [2.0], [1e38]]), jnp.ones(3)).tolist()
    [2.0]

    Source: Yin et al. 2018, definition 1.
    """

    def together(updates: PyTree, weights: jax.Array) -> PyTree:
        counts = weights > 0
        return jax.tree.map(lambda x: coordinate_median(x, counts), updates)

    return Aggregator(together=together)


def trimmed_mean(fraction: float) -> Aggregator:
    """The mean of every coordinate without a fraction of its values at either end.

    Of `m` clients that counted `floor(fraction m)` are left out at either end, and all
    others count alike: 0 is the unweighted mean.

    Args:
      fraction: in [0, 1/2); at least the share of bad clients.

    Raises:
      ValueError: when `fraction` is not as above.

    >>> updates = jnp.array([[1.0], [2.0], [3.0], [1e38]])
    >>> trimmed_mean(0.25).together(updates, jnp.ones(4)).tolist()
    [2.5]

    Source: Yin et al. 2018, definition 2.
    """
    fraction = checks.number("fraction", fraction, minimum=0.0, below=0.5)

    def together(updates: PyTree, weights: jax.Array) -> PyTree:
        counts = weights > 0
        # On the host, by number that counted: 0.29 * 100 is 28.999999 in float32.
        by_number = [
            min(math.floor(fraction * m + 1e-9), max(m - 1, 0) // 2)
            for m in range(counts.shape[0] + 1)
        ]
        trimmed = jnp.asarray(by_number, jnp.int32)[counts.sum(dtype=jnp.int32)]
        return jax.tree.map(
            lambda x: coordinate_trimmed_mean(x, counts, trimmed), updates
        )

    return Aggregator(together=together)


def krum(bad_clients: int, *, kept: int = 1) -> Aggregator:
    """The update that most others are close to, or the mean of some such (multi-Krum).

    The updates with the `kept` smallest scores by `krum_scores` are averaged, with
    equal weights. Where some clients did not count, the others are scored as if they
    were the whole cohort, and the guarantee is that of a cohort of their number.

    Args:
      bad_clients: `f`, how many may be bad, at least 0.
      kept: how many updates are averaged; 1 is Krum.

    Returns:
      An `Aggregator` of cohorts of at least `2 f + 3` clients, and `kept + f`.

    Raises:
      ValueError: when an argument is not as above.

    >>> updates = jnp.array([[0.0], [1.0], [1.5], [3.0], [1e38]])
    >>> krum(1).together(updates, jnp.ones(5)).tolist()
    [1.0]
    >>> krum(1, kept=2).together(updates, jnp.ones(5)).tolist()
    [1.25]

    Source: Blanchard et al. 2017, section 4.
    """
    bad_clients = checks.integer("bad_clients", bad_clients, minimum=0)
    kept = checks.integer("kept", kept, minimum=1)

    def together(updates: PyTree, weights: jax.Array) -> PyTree:
        counts = weights > 0
        scores = krum_scores(squared_distances(updates), counts, bad_clients)
        # Scores may be infinite: who counted comes before who did not.
        order = jnp.lexsort((scores, ~counts))
        place = jnp.argsort(order)
        chosen = counts & (place < kept)
        return jax.tree.map(lambda x: mean_of(x, chosen), updates)

    return Aggregator(
        together=together, min_clients=max(2 * bad_clients + 3, kept + bad_clients)
    )


def geometric_median(*, iterations: int = 8, smoothing: float = 1e-6) -> Aggregator:
    """The point of least distance to all updates, weighted by examples.

        argmin_v sum_i w_i ||x_i - v||

    by `weiszfeld`; it holds while the bad weigh less than half.

    Args:
      iterations: at least 1.
      smoothing: the distance below which an update pulls no harder, positive.

    Raises:
      ValueError: when an argument is not as above.

    >>> updates = jnp.array([[0.0], [1.0], [1e38]])
    >>> geometric_median().together(updates, jnp.ones(3)).round(3).tolist()
    [1.0]

    Source: Pillutla et al. 2019, algorithm 2 (RFA).
    """
    iterations = checks.integer("iterations", iterations, minimum=1)
    smoothing = checks.between("smoothing", smoothing, above=0, at_most=1e30)

    def together(updates: PyTree, weights: jax.Array) -> PyTree:
        share = weights / jnp.maximum(weights.max(), 1e-30)
        return weiszfeld(updates, share, iterations=iterations, smoothing=smoothing)

    return Aggregator(together=together)
