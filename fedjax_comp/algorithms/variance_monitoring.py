"""Averaging of all learners once their models vary too much: FDA.

Source: Theologitis, Frangias, Anestis, Samoladas and Deligiannakis 2025, "Communication
-Efficient Distributed Deep Learning via Federated Dynamic Averaging" (arXiv
2405.20988), the linear variant. With u_i = f_i - r and weights s_i that sum to 1, the
variance of the models is

    Var = sum_i s_i ||u_i||^2 - ||sum_i s_i u_i||^2.

After every round each learner reports two numbers, ||u_i||^2 and <xi, u_i>, of which

    H = sum_i s_i ||u_i||^2 - (sum_i s_i <xi, u_i>)^2 >= Var

for any unit vector xi. All models are averaged when H > Theta; when they are not, Var
<= H <= Theta. xi is the direction in which the last synchronisation moved r, which all
learners know: the mean is expected to continue along it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.model_averaging import Members, Moved, Trigger
from fedjax_comp.base import PyTree
from fedjax_comp.tree import widened


class Report(NamedTuple):
    """What each learner tells after every round.

    Attributes:
      squared_norm: ||u_i||^2, float32 `[m]`.
      along: <xi, u_i>, float32 `[m]`.
    """

    squared_norm: jax.Array
    along: jax.Array


def variance_monitoring(theta: float) -> Trigger:
    """Averages all learners when the variance of their models may exceed a bound.

    The coordinator decides from two numbers a learner, eight bytes up after every
    round, and polls everyone when it is time.

    Args:
      theta: Theta, at least 0: squared Euclidean distance over all parameters.

    Returns:
      A `Trigger`.

    Raises:
      ValueError: for a Theta that is negative or NaN.

    >>> apart = jnp.array([[1.0, 0.5], [1.0, -0.5]])  # Var = 0.25
    >>> moved = Moved(
    ...     difference=apart,
    ...     able=jnp.ones(2, bool),
    ...     weights=jnp.ones(2),
    ...     violations=jnp.array(0),
    ...     step=jnp.array([3.0, 0.0]),
    ... )
    >>> key = jax.random.key(0)
    >>> [int(variance_monitoring(t)(key, moved).members.sum()) for t in (0.2, 0.3)]
    [2, 0]
    """
    if math.isnan(theta) or theta < 0:
        raise ValueError(f"Expected theta={theta} >= 0.")

    def trigger(key: jax.Array, moved: Moved) -> Members:
        del key
        report = reports_of(moved.difference, moved.step)
        weights = jnp.where(moved.able, moved.weights, 0)
        bound = variance_bound(report, weights)
        members = moved.able & (bound > theta)
        return Members(members, members, jnp.zeros_like(members), report)

    return trigger


def reports_of(difference: PyTree, step: PyTree) -> Report:
    """What the learners report: of differences `[m, ...]`, along a step of r."""
    wide, step = widened(difference), widened(step)
    length = optax.tree.norm(step)
    unit = optax.tree.scale(jnp.where(length > 0, 1 / length, 0), step)
    return Report(
        jax.vmap(lambda u: optax.tree.norm(u, squared=True))(wide),
        jax.vmap(lambda u: optax.tree.vdot(unit, u))(wide),
    )


def variance_bound(report: Report, weights: jax.Array) -> jax.Array:
    """H of the module's text; learners of weight 0 are left out."""
    total = weights.sum()
    shares = weights / jnp.where(total == 0, 1, total)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.where(weights > 0, shares * x, 0).sum()

    return mean(report.squared_norm) - mean(report.along) ** 2
