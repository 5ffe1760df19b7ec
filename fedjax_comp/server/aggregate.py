"""Weighted means of client updates, as sums that an `Execution` can carry.

Source: McMahan et al. 2017, Algorithm 1: weights are the clients' numbers of examples
over the sum of those of the *sampled* clients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree


class WeightedSum(NamedTuple):
    """A sum of weighted trees: `total = sum_i weight_i * tree_i`, `weight` a scalar."""

    total: PyTree
    weight: jax.Array


def weighted(tree: PyTree, weight: jax.Array, counts: jax.Array) -> WeightedSum:
    """One client's summand; a client that does not count adds exactly nothing.

    Args:
      tree: the decoded update.
      weight: its weight, float32 scalar.
      counts: bool scalar, False to leave it out whatever it holds (NaN included).

    Returns:
      The summand, all zeros where `counts` is False.
    """
    return WeightedSum(
        total=jax.tree.map(
            lambda x: jnp.where(counts, weight.astype(x.dtype) * x, 0), tree
        ),
        weight=jnp.where(counts, weight, 0),
    )


def weighted_mean(summed: WeightedSum) -> PyTree:
    """`total / weight`, and zeros when nobody counted."""
    nobody = summed.weight == 0
    divisor = jnp.where(nobody, 1, summed.weight)
    return jax.tree.map(lambda x: x / divisor.astype(x.dtype), summed.total)


def majority_vote(summed: WeightedSum) -> PyTree:
    """The sign of every sum: what most clients, by weight, want to do; 0 for a tie.

        sign(sum_i w_i sign(g_i))

    of clients that send signs (`fedjax_comp.compress.sign_sgd`). With equal weights the
    downlink costs a bit a coordinate, too, where there is no tie.

    Source: Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: compressed
    optimisation for non-convex problems", 2018, algorithm 1.

    >>> majority_vote(WeightedSum(jnp.array([3.0, -1.0, 0.0]), jnp.array(3.0)))
    Array([ 1., -1.,  0.], dtype=float32)
    """
    return jax.tree.map(jnp.sign, summed.total)
