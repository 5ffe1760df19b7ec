"""Random batches of a client: the draws of distributed SGD."""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import ClientBatches, Cohort
from fedjax_comp.data.client_sampling import weighing_alike
from fedjax_comp.data.cohort import chosen_clients
from fedjax_comp.data.federated import FederatedData


def sample_minibatches(
    key: jax.Array,
    data: FederatedData,
    *,
    cohort_size: int,
    batch_size: int,
    steps: int = 1,
    by_size: bool = False,
) -> Cohort:
    """A cohort of which every client draws `S B` of its own examples, with replacement.

    Args:
      key: scalar key array, one a round.
      data: the population.
      cohort_size: `C`; all clients in order when it is `K`.
      batch_size: `B`, at least 1.
      steps: `S`, batches of one client, at least 1.
      by_size: draw clients by `sample_by_size`, who then count alike.

    Returns:
      The cohort. A client without examples is inactive.

    Raises:
      ValueError: if not `1 <= cohort_size <= K` or `batch_size < 1` or
        `steps < 1`; with `by_size` as `sample_by_size`.

    >>> from fedjax_comp.data import federated_data, load
    >>> data = federated_data(load("digits"), [[0, 5, 9], [], [3]])
    >>> cohort = sample_minibatches(
    ...     jax.random.key(0), data, cohort_size=3, batch_size=2)
    >>> cohort.clients.active.tolist(), cohort.clients.rows[2].tolist()
    ([True, False, True], [[3, 3]])
    """
    checks.integer("batch_size", batch_size, minimum=1)
    checks.integer("steps", steps, minimum=1)
    client_key, batch_key = jax.random.split(key)
    checks.integer("cohort_size", cohort_size, minimum=0)
    if cohort_size == data.spec.num_clients and not by_size:
        ids = jnp.arange(cohort_size, dtype=jnp.int32)
    else:
        ids = chosen_clients(client_key, data, cohort_size, by_size=by_size)

    def one_client(client_id: jax.Array) -> ClientBatches:
        begin = data.offsets[client_id]
        size = data.offsets[client_id + 1] - begin
        own_key = jax.random.fold_in(batch_key, client_id)
        drawn = jax.random.randint(
            own_key, (steps, batch_size), 0, jnp.maximum(size, 1), jnp.int32
        )
        rows = jnp.take(data.order, begin + drawn, mode="clip")
        active = size > 0
        return ClientBatches(
            client_id=client_id,
            rows=jnp.where(active, rows, 0),
            mask=jnp.broadcast_to(active, (steps, batch_size)),
            num_examples=size,
            active=active,
            key=jax.random.fold_in(own_key, 1),
        )

    clients = jax.vmap(one_client)(ids)
    return Cohort(data.examples, weighing_alike(clients) if by_size else clients)
