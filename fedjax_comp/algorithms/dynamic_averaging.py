"""When to average: dynamically, periodically, or never.

Source: Kamp et al. 2018, "Efficient Decentralized Deep Learning by Dynamic Model
Averaging" (arXiv 1807.03210), Algorithms 1 and 2, with the rules of the authors'
platform. Learner i has the local condition ||f_i - r||^2 <= Delta. Those that violate
it send their models, and the coordinator takes further learners in until the mean of
the members is back in the safe zone, ||mean - r||^2 <= Delta.

Two limit cases bound it: Delta = 0 is periodic averaging, Delta = inf never speaks.
While all local conditions hold, (1/m) sum_i ||f_i - mean||^2 <= Delta.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.model_averaging import Members, Moved, Trigger, mean_of
from fedjax_comp.base import PyTree
from fedjax_comp.tree import widened

Balancing = Literal["augment", "all"]
"""Who is taken in beside the violators: ever more learners, or everyone at once."""


def dynamic(
    delta: float,
    *,
    balancing: Balancing = "augment",
    max_violations: int | None = None,
) -> Trigger:
    """Averages when, and among whom, local conditions call for it.

    Args:
      delta: Delta, at least 0: squared Euclidean distance over all parameters.
      balancing: "augment" takes in 1, 2, 4, ... more learners at random until the
        mean is in the safe zone, and everyone once half of them are in; "all" answers
        any violation with a full synchronisation (the paper's basic variant).
      max_violations: once so many local violations have come since the last full
        synchronisation, the next one is full; None for never.

    Returns:
      A `Trigger`. A violator sends its model unasked; whoever is taken in is polled.

    Raises:
      ValueError: for a Delta that is negative or NaN, another word for `balancing`, or
        a violation limit below 1.

    >>> members = dynamic(1.0)(
    ...     jax.random.key(0),
    ...     Moved(
    ...         difference=jnp.array([[0.5], [1.5], [-0.5], [-0.1]]),
    ...         able=jnp.ones(4, bool),
    ...         weights=jnp.ones(4),
    ...         violations=jnp.array(0),
    ...     ),
    ... )
    >>> members.violators.tolist(), int(members.members.sum())
    ([False, True, False, False], 2)
    """
    if math.isnan(delta) or delta < 0:
        raise ValueError(f"Expected delta={delta} >= 0.")
    if balancing not in ("augment", "all"):
        raise ValueError(f"Expected balancing={balancing!r} to be 'augment' or 'all'.")
    if max_violations is not None and max_violations < 1:
        raise ValueError(f"Expected max_violations={max_violations} >= 1 or None.")

    def trigger(key: jax.Array, moved: Moved) -> Members:
        distance = jax.vmap(_squared_norm)(moved.difference)
        violators = moved.able & (distance > delta)
        at_once = jnp.asarray(balancing == "all")
        if max_violations is not None:
            seen = moved.violations + violators.sum(dtype=jnp.int32)
            at_once |= seen >= max_violations
        start = jnp.where(at_once & violators.any(), moved.able, violators)
        members = _balance(key, start, moved, delta)
        return Members(members, members & ~violators, violators)

    return trigger


def periodic(fraction: float = 1.0) -> Trigger:
    """Averages after every round, all learners or a random fraction of them.

    With a fraction below 1 it is federated averaging's sampling on streams: only the
    members receive the mean. Nobody is polled: whose turn it is follows from the key.

    Args:
      fraction: share of the learners in each average, in (0, 1]; at least one.

    Returns:
      A `Trigger`.

    Raises:
      ValueError: for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected fraction={fraction} in (0, 1].")

    def trigger(key: jax.Array, moved: Moved) -> Members:
        nobody = jnp.zeros_like(moved.able)
        if fraction == 1:
            return Members(moved.able, nobody, nobody)
        num_learners = moved.able.shape[0]
        draws = jax.random.uniform(key, (num_learners,))
        place = _places(draws, moved.able)
        members = moved.able & (place < max(1, round(fraction * num_learners)))
        return Members(members, nobody, nobody)

    return trigger


def never() -> Trigger:
    """Never averages: learners on their own.

    Returns:
      A `Trigger`.
    """

    def trigger(key: jax.Array, moved: Moved) -> Members:
        del key
        nobody = jnp.zeros_like(moved.able)
        return Members(nobody, nobody, nobody)

    return trigger


class _Taken(NamedTuple):
    members: jax.Array
    joining: jax.Array


def _balance(key: jax.Array, start: jax.Array, moved: Moved, delta: float) -> jax.Array:
    """Takes learners in, from `start` on, until their mean is in the safe zone."""
    # Whoever is out is taken in by the order of these, the same in every pass.
    draws = jax.random.uniform(key, start.shape)

    def outside(taken: _Taken) -> jax.Array:
        mean = mean_of(moved, taken.members)
        far = _squared_norm(mean) > delta
        return taken.members.any() & jnp.any(moved.able & ~taken.members) & far

    def take_more(taken: _Taken) -> _Taken:
        members, joining = taken
        waiting = moved.able & ~members
        in_half = 2 * members.sum(dtype=jnp.int32) >= moved.able.sum(dtype=jnp.int32)
        chosen = (_places(draws, waiting) < joining) | in_half
        return _Taken(members | (waiting & chosen), 2 * joining)

    return jax.lax.while_loop(
        outside, take_more, _Taken(start, jnp.ones((), jnp.int32))
    ).members


def _squared_norm(difference: PyTree) -> jax.Array:
    return optax.tree.norm(widened(difference), squared=True)


def _places(draws: jax.Array, among: jax.Array) -> jax.Array:
    """Each one's place, from 0, when those of `among` are ordered by their draws."""
    return jnp.argsort(jnp.argsort(jnp.where(among, draws, 2.0)))
