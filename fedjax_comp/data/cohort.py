"""Cohorts: who takes part in a round, and which examples in which order.

Pure JAX, for use inside a jitted round. Nothing is copied here: a client's work is a
table of indices into the examples that are on the device once.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import ClientBatches, Cohort
from fedjax_comp.data.client_sampling import sample_by_size, weighing_alike
from fedjax_comp.data.federated import FederatedData

# Floyd's loop is quadratic in the cohort, a shuffle a sort of the population: measured
# on a CPU, the loop wins up to about this ratio of the two.
_LOOP_ADVANTAGE = 64

_WORK = 2**32 - 1
"""Beyond all that a client's shuffles fold in: its training draws by another key."""


def sample_clients(key: jax.Array, num_clients: int, cohort_size: int) -> jax.Array:
    """A uniformly random ordered sample of clients without replacement.

    Floyd's algorithm, which draws one number a sampled client and needs no memory of
    the size of the population, then a shuffle of the sample. A cohort that is a large
    part of the population is taken from a shuffle of it all.

    Args:
      key: scalar key array.
      num_clients: `K`.
      cohort_size: `C`.

    Returns:
      int32 `[C]`, distinct numbers in `[0, K)`.

    Raises:
      ValueError: if not `1 <= cohort_size <= num_clients`.

    >>> ids = sample_clients(jax.random.key(0), 100_000, 10)
    >>> len(set(ids.tolist()))
    10

    Source: Bentley, Floyd 1987, "A sample of brilliance", algorithm F2.
    """
    checks.integer("cohort_size", cohort_size, minimum=0)
    if not 1 <= cohort_size <= num_clients:
        raise ValueError(
            f"Expected 1 <= cohort_size={cohort_size} <= num_clients={num_clients}."
        )
    if cohort_size**2 > _LOOP_ADVANTAGE * num_clients:
        everyone = jnp.arange(num_clients, dtype=jnp.int32)
        return jax.random.permutation(key, everyone)[:cohort_size]
    draw_key, shuffle_key = jax.random.split(key)
    upper = jnp.arange(num_clients - cohort_size, num_clients, dtype=jnp.int32)
    drawn = jax.random.randint(draw_key, (cohort_size,), 0, upper + 1, jnp.int32)

    def step(i: jax.Array, chosen: jax.Array) -> jax.Array:
        taken = jnp.any(chosen == drawn[i])
        return chosen.at[i].set(jnp.where(taken, upper[i], drawn[i]))

    nobody = jnp.full((cohort_size,), -1, jnp.int32)
    chosen = jax.lax.fori_loop(0, cohort_size, step, nobody)
    return jax.random.permutation(shuffle_key, chosen)


def make_batches(
    key: jax.Array,
    order: jax.Array,
    offsets: jax.Array,
    client_ids: jax.Array,
    *,
    max_client_size: int,
    epochs: int,
    batch_size: int,
) -> ClientBatches:
    """A cohort's local batches: in every epoch a fresh shuffle of each client's own.

    Each of the `epochs` blocks of `ceil(max_client_size / B)` steps goes once through
    the client's examples, each exactly once. A short last batch, and every step after
    it, is masked. A client's batches depend on `key` and its number, not on who else
    is in the cohort.

    Args:
      key: scalar key array, one a round.
      order: int32 `[M]`, clients' index lists, concatenated.
      offsets: int32 `[K + 1]`, where each list begins.
      client_ids: int32 `[C]`.
      max_client_size: length of the longest list, or any bound on it.
      epochs: passes over a client's examples.
      batch_size: `B`, at most `max_client_size`, which is what a larger one and 0 mean.

    Returns:
      `ClientBatches` with a leading axis `C` and `S = epochs * ceil(max_client_size /
      B)`. A client without examples is inactive.

    Raises:
      ValueError: if `max_client_size < 1`, `epochs < 1` or `batch_size < 0`, or one is
        no integer.

    >>> order = jnp.array([4, 2, 7], jnp.int32)
    >>> batches = make_batches(
    ...     jax.random.key(0), order, jnp.array([0, 0, 3]), jnp.array([0, 1]),
    ...     max_client_size=3, epochs=1, batch_size=2)
    >>> batches.mask.astype(jnp.int32).tolist()
    [[[0, 0], [0, 0]], [[1, 1], [1, 0]]]
    >>> sorted(batches.rows[1][batches.mask[1]].tolist())
    [2, 4, 7]

    Source: McMahan et al. 2017, arXiv 1602.05629, algorithm 1 (ClientUpdate).
    """
    checks.integer("max_client_size", max_client_size, minimum=1)
    checks.integer("epochs", epochs, minimum=1)
    checks.integer("batch_size", batch_size, minimum=0)
    batch = min(batch_size, max_client_size) or max_client_size
    steps = -(-max_client_size // batch)
    slots = jnp.arange(steps * batch, dtype=jnp.int32)

    def one_client(client_id: jax.Array) -> ClientBatches:
        begin = offsets[client_id]
        size = offsets[client_id + 1] - begin
        client_key = jax.random.fold_in(key, client_id)
        shuffled = _shuffle(client_key, size, epochs=epochs, length=max_client_size)
        shuffled = jnp.pad(shuffled, ((0, 0), (0, steps * batch - max_client_size)))
        mask = jnp.broadcast_to((slots < size)[None], shuffled.shape)
        # Masked slots point at row 0 of the examples: a valid address, never used.
        rows = jnp.take(order, begin + jnp.where(mask, shuffled, 0), mode="clip")
        return ClientBatches(
            client_id=client_id,
            rows=jnp.where(mask, rows, 0).reshape(epochs * steps, batch),
            mask=mask.reshape(epochs * steps, batch),
            num_examples=size,
            active=size > 0,
            key=jax.random.fold_in(client_key, _WORK),
        )

    return jax.vmap(one_client)(client_ids)


def sample_cohort(
    key: jax.Array,
    data: FederatedData,
    *,
    cohort_size: int,
    epochs: int,
    batch_size: int,
    by_size: bool = False,
) -> Cohort:
    """One round's cohort: `sample_clients`, then `make_batches` for them.

    Args:
      key: scalar key array, one a round.
      data: the population.
      cohort_size: `C`.
      epochs: passes over a client's examples.
      batch_size: `B`; 0 is all of a client's examples.
      by_size: draw clients by `sample_by_size`, who then count alike.

    Returns:
      The cohort; its examples are the population's own arrays.

    Raises:
      ValueError: as `sample_clients` or `sample_by_size`, and `make_batches`.
    """
    client_key, batch_key = jax.random.split(key)
    client_ids = chosen_clients(client_key, data, cohort_size, by_size=by_size)
    clients = make_batches(
        batch_key,
        data.order,
        data.offsets,
        client_ids,
        max_client_size=data.spec.max_client_size,
        epochs=epochs,
        batch_size=batch_size,
    )
    if by_size:
        clients = weighing_alike(clients)
    return Cohort(examples=data.examples, clients=clients)


def chosen_clients(
    key: jax.Array, data: FederatedData, cohort_size: int, *, by_size: bool
) -> jax.Array:
    """Who is in a cohort, int32 `[C]`: by `sample_by_size` or `sample_clients`."""
    if not by_size:
        return sample_clients(key, data.spec.num_clients, cohort_size)
    return sample_by_size(
        key,
        data.offsets,
        cohort_size,
        total=data.order.shape[0],
        largest=data.spec.max_client_size,
    )


def _shuffle(key: jax.Array, size: jax.Array, *, epochs: int, length: int) -> jax.Array:
    """Shuffles of `0 .. size - 1`, padded to `length`, int32 `[epochs, length]`.

    Slots are sorted by random bits. Bits and slot share one word, since XLA sorts one
    array several times faster on a CPU than a pair; where that leaves fewer than three
    times as many random bits as slot bits, further rounds supply them (a tie then
    keeps the order of the round before, which is random itself).
    """
    slot_bits = max(1, (length - 1).bit_length())
    rounds = -(-3 * slot_bits // (32 - slot_bits))
    slot = jax.lax.broadcasted_iota(jnp.uint32, (epochs, length), 1)
    slot_mask = jnp.asarray((1 << slot_bits) - 1, jnp.uint32)
    shuffled = slot.astype(jnp.int32)
    for round_key in jax.random.split(key, rounds):
        bits = jax.random.bits(round_key, (epochs, length), jnp.uint32)
        # Padding has all bits set, and behind an example with all bits set it stays
        # because its slot is higher.
        bits = jnp.where(slot < size.astype(jnp.uint32), bits, ~slot_mask)
        rank = jnp.sort((bits & ~slot_mask) | slot, axis=-1)
        source = (rank & slot_mask).astype(jnp.int32)
        shuffled = jnp.take_along_axis(shuffled, source, axis=-1, mode="clip")
    return shuffled
