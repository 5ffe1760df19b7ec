"""Schedules over rounds for the clients' learning rates.

A client's optimizer begins anew every round, and a schedule in it would, too. Instead,
a round's work comes with a factor for every step, `ClientBatches.rate`. It is traced,
and any algorithm whose clients train by `fedjax_comp.client.sgd` applies it.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.base import Cohort
from fedjax_comp.data import FederatedData
from fedjax_comp.training import Sampler


def scheduled_rates(sample: Sampler, schedule: optax.Schedule) -> Sampler:
    """The same cohorts, with local steps scaled by a schedule over the rounds.

    Args:
      sample: draws the cohorts.
      schedule: `(round) -> factor`, in optax's manner; round 0 is the first.

    Returns:
      A `Sampler` that sets `ClientBatches.rate`.

    Raises:
      ValueError: for a sampler or a schedule that is not a function with the arguments
        it needs, such as a number.

    >>> from fedjax_comp.data import federate, iid, load
    >>> from fedjax_comp.training import uniform_cohorts
    >>> data = federate(load("digits"), iid(), num_clients=9, seed=0)
    >>> plain = uniform_cohorts(cohort_size=2, epochs=1, batch_size=10)
    >>> halved = scheduled_rates(plain, optax.exponential_decay(1.0, 1, 0.5))
    >>> halved(jax.random.key(0), jnp.int32(2), data).clients.rate.tolist()
    [0.25, 0.25]
    """
    checks.takes("sample", sample, 3)
    checks.takes("schedule", schedule, 1)

    def scheduled(
        key: jax.Array, round_index: jax.Array, data: FederatedData
    ) -> Cohort:
        cohort = sample(key, round_index, data)
        with jax.numpy_dtype_promotion("standard"):  # which optax's schedules rely on
            rate = jnp.asarray(schedule(round_index), jnp.float32)
        rates = jnp.broadcast_to(rate, cohort.clients.active.shape)
        return cohort._replace(clients=cohort.clients._replace(rate=rates))

    return scheduled
