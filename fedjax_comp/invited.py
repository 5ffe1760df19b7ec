"""Who will be in a round's cohort, told before the round is run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree
from fedjax_comp.training import Sampler, round_keys


class Invited(NamedTuple):
    """Who will be in a round's cohort, and how much they will train.

    Attributes:
      client_id: int32 `[C]`.
      num_examples: int32 `[C]`, as in `ClientBatches`.
      examples: int32 `[C]`, those trained on, counting epochs.
      active: bool `[C]`, as in `ClientBatches`.
    """

    client_id: jax.Array
    num_examples: jax.Array
    examples: jax.Array
    active: jax.Array


def next_cohort(
    sample: Sampler,
) -> Callable[[jax.Array, jax.Array, PyTree], Invited]:
    """Who is in a round, before it is run; to be jitted.

    Args:
      sample: the sampler of the run.

    Returns:
      `(key, round, data) -> Invited`, of `TrainState.key` and `TrainState.round`: those
      that `round_program` will draw.
    """

    def invited(key: jax.Array, round_index: jax.Array, data: PyTree) -> Invited:
        sample_key, _ = round_keys(key, round_index)
        clients = sample(sample_key, round_index, data).clients
        examples = jnp.sum(clients.mask, axis=(1, 2), dtype=jnp.int32)
        return Invited(
            clients.client_id, clients.num_examples, examples, clients.active
        )

    return invited
