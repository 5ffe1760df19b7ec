"""How the host dispatches rounds: a program compiled once, its arguments put in place.

`device_rounds` are for a state that is on the devices, `stored_rounds` for one whose
clients lie in a store (`fedjax_comp.shared_store`). A cohort depends on nothing but
the run's key and the round's number, so the store can read it before its round begins.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import distributed
from fedjax_comp.base import Cohort, PyTree
from fedjax_comp.data import FederatedData
from fedjax_comp.problem import Problem
from fedjax_comp.shared_store import SharedStore
from fedjax_comp.training import (
    WHOLE,
    ClientRows,
    Dispatch,
    Program,
    Sampler,
    Seated,
    TrainState,
    cohort_ids,
    cohort_program,
    first_state,
    for_everyone,
    round_program,
)

SPLIT = ClientRows(distributed.seated_rows, distributed.put_rows)
"""Of states whose rows are split over devices."""

Step = Callable[[TrainState, int], tuple[TrainState, Dispatch]]
"""`(state, num_rounds) -> (state, Dispatch)`; the state is taken."""


def is_eager() -> bool:
    """Whether JAX_DISABLE_JIT asks for no compilation."""
    return bool(jax.config.jax_disable_jit)  # type: ignore[attr-defined]


def check_round(problem: Problem, key: jax.Array) -> None:
    """Traces a round, so that what it refuses is raised before anything is written.

    Args:
      problem: what is to be run.
      key: the run's key.

    Raises:
      ValueError: what the algorithm refuses of its parameters, its cohort or both.
    """
    first = first_state(key, problem.algorithm, problem.params)
    program = round_program(problem.algorithm, problem.sample, max_rounds=1)

    def one_round(first: TrainState, data: PyTree) -> tuple[TrainState, Dispatch]:
        state = for_everyone(first, problem.num_clients)
        return program(state, data, jnp.int32(1))

    jax.eval_shape(one_round, first, problem.data)


def compiled_program(
    program: Program, data: PyTree, state: TrainState
) -> tuple[Step, TrainState]:
    """Compiles a program for arguments of these shapes.

    Args:
      program: of `fedjax_comp.training`.
      data: what its sampler draws from.
      state: of the shapes it will have.

    Returns:
      The step, and the state, placed where the program wants it.
    """
    if is_eager():  # to look into a round, op by op
        return lambda state, n: program(state, data, jnp.int32(n)), state
    compiled, put = compile_placed(program, state, data, jnp.int32(1), donate=0)
    state, data = put(0, state), put(1, data)

    def step(state: TrainState, num_rounds: int) -> tuple[TrainState, Dispatch]:
        return compiled(put(0, state), data, put(2, jnp.int32(num_rounds)))

    return step, state


def compile_placed(
    program: Callable[..., PyTree], *arguments: PyTree, donate: int | None = None
) -> tuple[jax.stages.Compiled, Callable[[int, PyTree], PyTree]]:
    """A compiled program, and a function that places its arguments by their number.

    The function is `(number, argument) -> argument`. With `donate`, the number of an
    argument to give away, the program returns two results; the first is like that
    argument.
    """
    given = () if donate is None else (donate,)
    jitted = functools.partial(jax.jit, program, donate_argnums=given, keep_unused=True)
    place = distributed.everywhere()
    if place is None:
        compiled = jitted().lower(*arguments).compile()
    else:
        shapes = jax.eval_shape(lambda *x: x, *arguments)
        given_places = jax.tree.map(
            lambda x: x.sharding if distributed.is_split(x) else place, arguments
        )
        # What is given away comes back, changed, as the first of two results.
        results = place if donate is None else (given_places[donate], place)
        whole = jitted(in_shardings=given_places, out_shardings=results)
        compiled = whole.lower(*shapes).compile()
    places, _ = compiled.input_shardings

    def put(number: int, argument: PyTree) -> PyTree:
        if place is not None:
            return distributed.to_all(argument)
        return jax.device_put(argument, places[number])

    return compiled, put


def device_rounds(
    problem: Problem, state: TrainState, max_rounds: int
) -> tuple[Step, TrainState]:
    """Compiles dispatches of up to `max_rounds` rounds of a state on the devices."""
    data, sample = _split_examples(problem)
    is_split = any(map(distributed.is_split, jax.tree.leaves(state.clients)))
    program = round_program(
        problem.algorithm,
        sample,
        max_rounds=max_rounds,
        rows=SPLIT if is_split else WHOLE,
    )
    return compiled_program(program, data, state)


def _split_examples(problem: Problem) -> tuple[PyTree, Sampler]:
    """A problem's data, split where there are several processes, and its sampler."""
    data, sample = problem.data, problem.sample
    if distributed.count() > 1 and isinstance(data, FederatedData):
        data = data._replace(examples=distributed.split_rows(data.examples))
        sample = brought_to_all(sample)
    return data, sample


def brought_to_all(sample: Sampler) -> Sampler:
    """A sampler for a population whose examples are split over devices.

    It brings a cohort's rows of examples to every device, one after another, or all
    examples of the population where these are fewer.

    Args:
      sample: draws cohorts. Those with the population's arrays as examples are changed
        in this way, any others stay as they are.
    """

    def brought(key: jax.Array, round_index: jax.Array, data: FederatedData) -> Cohort:
        cohort = sample(key, round_index, data)
        if cohort.examples is not data.examples:
            return cohort
        rows, population = cohort.clients.rows, data.examples.y.shape[0]
        if rows.size >= population:  # several epochs of all of them
            everything = jnp.arange(population, dtype=rows.dtype)
            whole = distributed.rows_of(data.examples, everything)
            return cohort._replace(examples=whole)
        examples = distributed.rows_of(data.examples, rows.reshape(-1))
        numbered = jnp.arange(rows.size, dtype=rows.dtype).reshape(rows.shape)
        return cohort._replace(
            examples=examples, clients=cohort.clients._replace(rows=numbered)
        )

    return brought


def stored_rounds(
    problem: Problem, state: TrainState, store: SharedStore
) -> tuple[Step, TrainState]:
    """Compiles the rounds of a run whose clients lie in a store.

    Args:
      problem: what is run.
      state: the run's; its `clients` are the store's index and stay what they are.
      store: the clients' states.

    Returns:
      A step of one round, however many are asked for, and the state.
    """
    draw = cohort_ids(problem.sample)
    draw = draw if is_eager() else jax.jit(draw)
    index = distributed.to_all(state.clients)
    # By value: the state moves between devices, and each place would be compiled.
    words = jnp.asarray(np.asarray(jax.random.key_data(state.key)))
    key = jax.random.wrap_key_data(words, impl=jax.random.key_impl(state.key))

    @functools.lru_cache(maxsize=2)  # this round's and the next one's
    def drawn(round_index: int) -> np.ndarray:
        return np.asarray(draw(key, jnp.int32(round_index), problem.data))

    def seated(ids: np.ndarray) -> Seated:
        states = store.take(ids)
        if is_eager():  # compiled programs take NumPy's arrays where they want them
            states = jax.tree.map(jnp.asarray, states)
        return Seated(jnp.asarray(ids), states)

    data, sample = _split_examples(problem)
    program = cohort_program(problem.algorithm, sample)
    begun = state._replace(clients=seated(drawn(int(state.round))))
    run_one, begun = compiled_program(program, data, begun)

    def step(state: TrainState, num_rounds: int) -> tuple[TrainState, Dispatch]:
        del num_rounds
        round_index = int(state.round)
        ids = drawn(round_index)
        state = state._replace(clients=seated(ids))
        store.ask(drawn(round_index + 1), ids)
        after, dispatch = run_one(state, 1)
        del state  # NumPy's copy of the cohort
        store.give(ids, after.clients.states)
        if not np.array_equal(distributed.to_here(after.clients.ids), ids):
            raise RuntimeError(
                f"The sampler drew other clients for round {round_index} within the "
                "round than before it: it depends on more than its arguments."
            )
        return after._replace(clients=index), dispatch

    return step, begun._replace(clients=index)
