"""The device side of a run: many rounds of any algorithm in one compiled program.

    state = init_state(key, algorithm, params, num_clients)
    run_rounds = jax.jit(round_program(algorithm, sample, max_rounds=50))
    state, dispatch = run_rounds(state, data, num_rounds)

A dispatch is one call of this program. Its number of rounds is an argument, so one
program serves any schedule of evaluations and checkpoints, and the result of a run does
not depend on where it was cut into dispatches. The host loop is in `fedjax_comp.run`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import (
    Algorithm,
    Cohort,
    Messages,
    PyTree,
    RoundInfo,
)
from fedjax_comp.by_rows import repeated
from fedjax_comp.data import FederatedData
from fedjax_comp.data.cohort import sample_cohort
from fedjax_comp.data.minibatch import sample_minibatches
from fedjax_comp.evaluation import Evaluation as Evaluation
from fedjax_comp.evaluation import evaluation_program as evaluation_program
from fedjax_comp.keys import check_key
from fedjax_comp.traced import traced_once

Sampler = Callable[[jax.Array, jax.Array, PyTree], Cohort]
"""`(key, round, data) -> Cohort`: who takes part in a round, and with what examples."""


class TrainState(NamedTuple):
    """Everything that a run must not lose.

    Attributes:
      key: the run's key; round `t` uses `fold_in(key, t)`.
      round: rounds done, int32 scalar.
      server: the algorithm's server state.
      clients: one client state a client, leading axis `K`. Where a run keeps them on
        disk: the store's `Index` on the host, `Seated` in a dispatch.
    """

    key: jax.Array
    round: jax.Array
    server: PyTree
    clients: PyTree


class Dispatch(NamedTuple):
    """What one call of the round program returns beside the state.

    Attributes:
      infos: `RoundInfo` without messages, leading axis `max_rounds`; only the first
        `num_rounds` are filled.
      messages: the last round's messages, `{}` unless the algorithm keeps them.
      num_rounds: how many rounds were run, int32 scalar.
    """

    infos: RoundInfo
    messages: dict[str, Messages]
    num_rounds: jax.Array


def init_state(
    key: jax.Array, algorithm: Algorithm, params: PyTree, num_clients: int
) -> TrainState:
    """The state before the first round.

    Args:
      key: the run's key.
      algorithm: what will run.
      params: the initial model.
      num_clients: `K`; each client gets a copy of the algorithm's client template.

    Raises:
      ValueError: for a key that `keys.check_key` refuses, for no client, and for
        parameters that are no floats, which nothing could train.
    """
    return for_everyone(first_state(key, algorithm, params), num_clients)


def first_state(key: jax.Array, algorithm: Algorithm, params: PyTree) -> TrainState:
    """`init_state` with the template of one client as `clients`, without an axis.

    Raises:
      ValueError: as `init_state` does for a key and parameters.
    """
    checks.floats(params)
    init_key, run_key = jax.random.split(check_key(key))
    server, template = algorithm.init(init_key, params)
    # A copy, because the round program donates its state and `params` is the caller's.
    server = jax.tree.map(jnp.copy, server)
    return TrainState(run_key, jnp.zeros((), jnp.int32), server, template)


def for_everyone(state: TrainState, num_clients: int) -> TrainState:
    """A `first_state` with a copy of the template for each of `K` clients, `K >= 1`."""
    checks.integer("num_clients", num_clients, minimum=1)
    clients = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), state.clients
    )
    return state._replace(clients=clients)


def by_rows(state: TrainState, num_clients: int) -> TrainState:
    """`for_everyone` with each array of `clients` a `ByRows`, which takes no memory."""
    clients = jax.tree.map(
        lambda x: repeated(np.asarray(x), num_clients), state.clients
    )
    return state._replace(clients=clients)


def uniform_cohorts(
    *, cohort_size: int, epochs: int, batch_size: int, by_size: bool = False
) -> Sampler:
    """Cohorts drawn without replacement, batches shuffled every epoch.

    Args:
      cohort_size: `C`, at most `K`.
      epochs: local passes.
      batch_size: `B`; 0 is all of a client's examples in one batch.
      by_size: draw clients by `sample_by_size`; all then have the same weight.

    Returns:
      A `Sampler` over `FederatedData`; it raises as `sample_cohort`.
    """

    def sample(key: jax.Array, round_index: jax.Array, data: FederatedData) -> Cohort:
        del round_index
        return sample_cohort(
            key,
            data,
            cohort_size=cohort_size,
            epochs=epochs,
            batch_size=batch_size,
            by_size=by_size,
        )

    return sample


def minibatch_cohorts(
    *, cohort_size: int, steps: int, batch_size: int, by_size: bool = False
) -> Sampler:
    """Cohorts in which all clients take the same number of steps, whatever they hold.

    Args:
      cohort_size: `C`.
      steps: `S`, each on a batch drawn with replacement.
      batch_size: `B`, at least 1.
      by_size: as in `uniform_cohorts`.

    Returns:
      A `Sampler` over `FederatedData`; it raises `ValueError` as `sample_minibatches`.
    """

    def sample(key: jax.Array, round_index: jax.Array, data: FederatedData) -> Cohort:
        del round_index
        return sample_minibatches(
            key,
            data,
            cohort_size=cohort_size,
            batch_size=batch_size,
            steps=steps,
            by_size=by_size,
        )

    return sample


def round_keys(key: jax.Array, round_index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of a round's cohort and of the algorithm's round, from the run's."""
    sample_key, round_key = jax.random.split(jax.random.fold_in(key, round_index))
    return sample_key, round_key


class ClientRows(NamedTuple):
    """How the states of a cohort are taken from those of all clients, and put back.

    Attributes:
      take: `(everyone, ids[C]) -> states[C, ...]`.
      put: `(everyone, ids[C], states[C, ...]) -> everyone`.
    """

    take: Callable[[PyTree, jax.Array], PyTree]
    put: Callable[[PyTree, jax.Array, PyTree], PyTree]


def _take(everyone: PyTree, ids: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: x[ids], everyone)


def _put(everyone: PyTree, ids: jax.Array, states: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, new: x.at[ids].set(new, unique_indices=True), everyone, states
    )


WHOLE = ClientRows(_take, _put)
"""Of states that lie whole where a round is run."""

Program = Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Dispatch]]
"""`(state, data, num_rounds) -> (state, Dispatch)`, as `round_program` makes it."""


def round_program(
    algorithm: Algorithm,
    sample: Sampler,
    *,
    max_rounds: int,
    rows: ClientRows = WHOLE,
) -> Program:
    """The function of one dispatch, ready to be jitted with its state donated.

    Args:
      algorithm: what to run.
      sample: draws each round's cohort on the device.
      max_rounds: the most rounds one dispatch may run (the length of its records).
      rows: how clients' states are reached.

    Returns:
      `(state, data, num_rounds) -> (state, Dispatch)`. Where `num_rounds` is a traced
      int32 scalar above `max_rounds`, only `max_rounds` rounds are run.

    Raises:
      ValueError: for `max_rounds` below one; from the program for a state of another
        number of clients than the data have, and rounds that are no integer.
    """
    checks.integer("max_rounds", max_rounds, minimum=1)

    def one_round(state: TrainState, data: PyTree) -> tuple[TrainState, RoundInfo]:
        sample_key, round_key = round_keys(state.key, state.round)
        cohort = sample(sample_key, state.round, data)
        ids = cohort.clients.client_id
        if rows is WHOLE:
            _check_population(state.clients, data)
        own = rows.take(state.clients, ids)
        server, clients, info = algorithm.round(round_key, state.server, own, cohort)
        everyone = rows.put(state.clients, ids, clients)
        return TrainState(state.key, state.round + 1, server, everyone), info

    return _dispatched(one_round, max_rounds)


def _check_population(clients: PyTree, data: PyTree) -> None:
    """Refuses states of fewer or more clients than the data have.

    The rows of those who are missing would be those of the last.
    """
    if not isinstance(data, FederatedData):
        return
    for state in jax.tree.leaves(clients):
        if state.shape[0] != data.spec.num_clients:
            raise ValueError(
                f"Expected a state of num_clients={data.spec.num_clients}, as many as "
                f"the data have, got {state.shape[0]}."
            )


class Seated(NamedTuple):
    """The clients of one round alone, in the order of its cohort.

    Attributes:
      ids: int32 `[C]`.
      states: their states, `[C, ...]`.
    """

    ids: jax.Array
    states: PyTree


def cohort_program(algorithm: Algorithm, sample: Sampler) -> Program:
    """`round_program` for one round, of a state that holds its cohort's clients only.

    Args:
      algorithm: what to run.
      sample: draws the cohort; `cohort_ids` says beforehand whom it will draw.

    Returns:
      `(state, data, num_rounds) -> (state, Dispatch)`, with `state.clients` a `Seated`.
      The caller has to bring the states of the clients that the sampler will draw; the
      `ids` that come back are those it drew. Only one round is run, even if more are
      asked for. All else is as in `round_program`, to the bit.
    """

    def one_round(state: TrainState, data: PyTree) -> tuple[TrainState, RoundInfo]:
        sample_key, round_key = round_keys(state.key, state.round)
        cohort = sample(sample_key, state.round, data)
        server, clients, info = algorithm.round(
            round_key, state.server, state.clients.states, cohort
        )
        seated = Seated(cohort.clients.client_id, clients)
        return TrainState(state.key, state.round + 1, server, seated), info

    return _dispatched(one_round, max_rounds=1)


def cohort_ids(
    sample: Sampler,
) -> Callable[[jax.Array, jax.Array, PyTree], jax.Array]:
    """Who is in a round, int32 `[C]`, and nothing else of it; to be jitted.

    Args:
      sample: the sampler of the run.

    Returns:
      `(key, round, data) -> ids`, of `TrainState.key` and `TrainState.round`.
    """

    def ids(key: jax.Array, round_index: jax.Array, data: PyTree) -> jax.Array:
        sample_key, _ = round_keys(key, round_index)
        return sample(sample_key, round_index, data).clients.client_id

    return ids


def _dispatched(
    one_round: Callable[[TrainState, PyTree], tuple[TrainState, RoundInfo]],
    max_rounds: int,
) -> Program:
    """Up to so many rounds one after another, and what is observed of each."""

    def run(
        state: TrainState, data: PyTree, num_rounds: jax.Array
    ) -> tuple[TrainState, Dispatch]:
        if not jnp.issubdtype(jnp.result_type(num_rounds), jnp.integer):
            raise ValueError(f"Expected num_rounds={num_rounds} as an integer.")
        count = jnp.clip(jnp.int32(num_rounds), 0, max_rounds)
        run_round, (_, shapes) = traced_once(one_round, state, data)
        records = jax.tree.map(
            lambda s: jnp.zeros((max_rounds, *s.shape), s.dtype),
            shapes._replace(messages={}),
        )
        messages = jax.tree.map(lambda s: _blank(s, state.key), shapes.messages)

        def body(
            i: jax.Array, carry: tuple[TrainState, RoundInfo, dict[str, Messages]]
        ) -> tuple[TrainState, RoundInfo, dict[str, Messages]]:
            state, records, _ = carry
            state, info = run_round(state, data)
            new = info._replace(messages={})
            records = jax.tree.map(lambda x, own: x.at[i].set(own), records, new)
            return state, records, info.messages

        state, records, messages = jax.lax.fori_loop(
            0, count, body, (state, records, messages)
        )
        return state, Dispatch(records, messages, count)

    return run


def _blank(shape: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(key, shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)
