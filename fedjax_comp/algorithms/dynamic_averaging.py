"""When to average: dynamically, periodically, or never.

Source: Kamp et al. 2018, "Efficient Decentralized Deep Learning by Dynamic Model
Averaging" (arXiv 1807.03210), Algorithms 1 and 2. Learner i, with the model f_i, has
the local condition ||f_i - r||^2 <= Delta. Learners that violate it send their models,
and the coordinator adds further learners until the mean of the members is back in the
safe zone, ||mean - r||^2 <= Delta. The paper leaves open how many it adds at a time.
Both rules of the authors' platform (dlplatform, `DynamicHedgeSync`) are here: the one
that the text beside its class describes ("augment") and the one that its code follows
("triple").

The limit cases are periodic averaging (Delta = 0) and no communication (Delta = inf).
While all local conditions hold, (1/m) sum_i ||f_i - mean||^2 <= Delta.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.model_averaging import Members, Moved, Trigger, mean_of
from fedjax_comp.base import PyTree
from fedjax_comp.tree import widened

Balancing = Literal["augment", "triple", "all"]
"""Who is taken in beside the violators: ever more learners, by the rule that the
authors' platform describes or by the one that it follows, or everyone at once."""

Counter = int | Literal["learners"] | None
"""Local violations that bring a full synchronisation: so many, as many as there are
learners, or none."""


def dynamic(
    delta: float,
    *,
    balancing: Balancing = "augment",
    max_violations: Counter = None,
) -> Trigger:
    """Averages when, and among whom, local conditions call for it.

    With B the members so far, m the learners that can take part, and passes counted
    from 0:

        balancing   taken in by a pass   everyone instead, once
        "augment"   2^pass               |B| >= m / 2
        "triple"    2 |B|                3 |B| >= m / 2, what B would grow to
        "all"                            there is a violation

    Args:
      delta: Delta, at least 0: squared Euclidean distance over all parameters.
      balancing: who is taken in while the mean is outside the safe zone, at random;
        "all" answers any violation with a full synchronisation (the paper's basic
        variant).
      max_violations: once so many local violations have come since the last full
        synchronisation, the next one is full; "learners" for as many as there are,
        which is the counter of the paper's Algorithm 1; None for never.

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
    ...         step=jnp.zeros(1),
    ...     ),
    ... )
    >>> members.violators.tolist(), int(members.members.sum())
    ([False, True, False, False], 2)
    """
    if math.isnan(delta) or delta < 0:
        raise ValueError(f"Expected delta={delta} >= 0.")
    if balancing not in ("all", *_GROWTH):
        raise ValueError(
            f"Expected balancing={balancing!r} to be 'augment', 'triple' or 'all'."
        )
    valid = max_violations is None or max_violations == "learners"
    if isinstance(max_violations, int):
        valid = max_violations >= 1
    if not valid:
        raise ValueError(
            f"Expected max_violations={max_violations!r} >= 1, 'learners' or None."
        )
    grow = _GROWTH.get(balancing, _augmented)

    def trigger(key: jax.Array, moved: Moved) -> Members:
        distance = jax.vmap(_squared_norm)(moved.difference)
        violators = moved.able & (distance > delta)
        at_once = jnp.asarray(balancing == "all")
        if max_violations is not None:
            seen = moved.violations + violators.sum(dtype=jnp.int32)
            most = max_violations if isinstance(max_violations, int) else len(violators)
            at_once |= seen >= most
        start = jnp.where(at_once & violators.any(), moved.able, violators)
        members = _balance(key, start, moved, delta, grow)
        return Members(members, members & ~violators, violators)

    return trigger


def periodic(fraction: float = 1.0) -> Trigger:
    """Averages after every round, all learners or a random fraction of them.

    With a fraction below 1 this is the client sampling of federated averaging, on
    streams: only the members receive the mean. Nobody is polled: the key determines the
    members.

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


Growth = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(members, learners, pass) -> (how many join, whether everyone does)`, int32."""


def _augmented(
    members: jax.Array, learners: jax.Array, done: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return 1 << done, 2 * members >= learners


def _tripled(
    members: jax.Array, learners: jax.Array, done: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del done
    return 2 * members, 2 * (3 * members) >= learners


_GROWTH: dict[str, Growth] = {"augment": _augmented, "triple": _tripled}


class _Taken(NamedTuple):
    members: jax.Array
    done: jax.Array  # passes


def _balance(
    key: jax.Array, start: jax.Array, moved: Moved, delta: float, grow: Growth
) -> jax.Array:
    """Takes learners in, from `start` on, until their mean is in the safe zone."""
    # Whoever is out is taken in by the order of these, the same in every pass.
    draws = jax.random.uniform(key, start.shape)
    learners = moved.able.sum(dtype=jnp.int32)

    def outside(taken: _Taken) -> jax.Array:
        mean = mean_of(moved, taken.members)
        far = _squared_norm(mean) > delta
        return taken.members.any() & jnp.any(moved.able & ~taken.members) & far

    def take_more(taken: _Taken) -> _Taken:
        members, done = taken
        waiting = moved.able & ~members
        joining, everyone = grow(members.sum(dtype=jnp.int32), learners, done)
        chosen = (_places(draws, waiting) < joining) | everyone
        return _Taken(members | (waiting & chosen), done + 1)

    return jax.lax.while_loop(
        outside, take_more, _Taken(start, jnp.zeros((), jnp.int32))
    ).members


def _squared_norm(difference: PyTree) -> jax.Array:
    return optax.tree.norm(widened(difference), squared=True)


def _places(draws: jax.Array, among: jax.Array) -> jax.Array:
    """Each one's place, from 0, when those of `among` are ordered by their draws."""
    order = jnp.argsort(jnp.where(among, draws, 2.0))
    return jnp.argsort(order).astype(jnp.int32)
