"""Differential privacy at a server that is trusted to add the noise.

McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language
models", 2018, algorithm 1: every update of a cohort is clipped to `S` and weighted
alike, the sum is divided by the cohort's size whoever answered, and noise of standard
deviation `z S / C` is added to that mean.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.base import Cohort, PyTree, has_statistics
from fedjax_comp.server.aggregate import UNIT, WeightedSum

Sampler = Callable[[jax.Array, jax.Array, PyTree], Cohort]
"""`(key, round_index, data) -> Cohort`, as in `fedjax_comp.training`."""


class NoiseState(NamedTuple):
    """The next step's key."""

    key: jax.Array


def gaussian_noise(key: jax.Array, *, stddev: float) -> optax.GradientTransformation:
    """Adds independent Gaussian noise to every number of an update.

    Put it first: `optax.chain(gaussian_noise(key, stddev=z * clip / cohort_size),
    optax.sgd(1.0))` is DP-FedAvg's server. The optimizer that follows costs no further
    privacy, since it only sees what is private already.

    The noise is drawn by JAX, whose counter-based generator is not cryptographic, in
    floats whose low bits may reveal what they were added to (Mironov, "On significance
    of the least significant bits for differential privacy", 2012). That is enough to
    study what privacy costs, but no protection against an adversary who learns the key,
    which is as secret as the run's seed. `fedjax_comp.privacy.discrete` has neither
    weakness.

    Args:
      key: scalar key array.
      stddev: of the noise, at least 0.

    Returns:
      An optax transform.

    Raises:
      ValueError: when `stddev` is not as above; from `init` for a model with running
        statistics, which no optimizer steps along.

    >>> noisy = gaussian_noise(jax.random.key(0), stddev=0.0)
    >>> noisy.update(jnp.ones(2), noisy.init(jnp.ones(2)))[0]
    Array([1., 1.], dtype=float32)
    """
    stddev = checks.number("stddev", stddev, minimum=0.0, below=float("inf"))

    def init(params: PyTree) -> NoiseState:
        if has_statistics(params):
            raise ValueError(
                "Expected a model without running statistics for gaussian_noise(): "
                "they are averaged beside the optimizer and would be published without "
                "noise. Use GroupNorm in place of BatchNorm."
            )
        return NoiseState(key)

    def update(
        updates: PyTree, state: NoiseState, params: PyTree | None = None
    ) -> tuple[PyTree, NoiseState]:
        del params
        next_key, noise_key = jax.random.split(state.key)
        leaves, structure = jax.tree.flatten(updates)
        noisy = [
            leaf + (stddev * jax.random.normal(leaf_key, leaf.shape)).astype(leaf.dtype)
            for leaf, leaf_key in zip(
                leaves, jax.random.split(noise_key, len(leaves)), strict=True
            )
        ]
        return jax.tree.unflatten(structure, noisy), NoiseState(next_key)

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class MeanOver:
    """An aggregation, `(sum) -> mean`, from `mean_over`.

    `fed_avg` steps along it, noise included, even where nobody answered: a model
    without noise would reveal that, and so whether a client is one that answers.
    """

    cohort_size: int

    def __call__(self, summed: WeightedSum) -> PyTree:
        """The mean."""
        return jax.tree.map(lambda x: x / (UNIT * self.cohort_size), summed.total)


def mean_over(cohort_size: int) -> MeanOver:
    """The sum divided by a number that does not depend on who answered.

        total / (UNIT C)

    where every client weighs one example (`equally_weighted`). `weighted_mean` divides
    by the weights that arrived instead: there one client changes how much all others
    count, and the noise would have to be larger.

    Args:
      cohort_size: `C`.

    Returns:
      An aggregation for `fed_avg`.

    Raises:
      ValueError: when `cohort_size` is not a positive integer.

    >>> mean_over(4)(WeightedSum(UNIT * jnp.array([2.0]), UNIT * jnp.array(3.0)))
    Array([0.5], dtype=float32)
    """
    return MeanOver(checks.integer("cohort_size", cohort_size, minimum=1))


def equally_weighted(sample: Sampler) -> Sampler:
    """Cohorts in which every client has the weight 1, however much it holds.

    Weights by examples would let the largest client move the mean by more than
    `clip / C`; and how much a client holds is private, too.

    Args:
      sample: the sampler.

    Returns:
      A sampler of the same cohorts.
    """

    def sample_equally(key: jax.Array, round_index: jax.Array, data: PyTree) -> Cohort:
        cohort = sample(key, round_index, data)
        ones = jnp.ones_like(cohort.clients.num_examples)
        return cohort._replace(clients=cohort.clients._replace(num_examples=ones))

    return sample_equally
