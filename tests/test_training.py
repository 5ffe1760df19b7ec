"""The round program: one compilation, any cut into dispatches, same result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import Examples
from fedjax_comp.compress import error_feedback, top_k
from fedjax_comp.data import Dataset, federated_data
from fedjax_comp.execution import scanned, sharded
from fedjax_comp.invited import next_cohort
from fedjax_comp.training import (
    evaluation_program,
    init_state,
    round_program,
    uniform_cohorts,
)
from fedjax_comp.wire.traffic import totals
from tests.problems import NUM_CLASSES, make_examples, softmax_task

TASK = softmax_task()
NUM_CLIENTS = 6


def population(num_examples=60):
    examples = jax.tree.map(np.asarray, make_examples(num_examples))
    dataset = Dataset(
        name="synthetic",
        train=examples,
        test=examples,
        train_groups=None,
        test_groups=None,
        num_classes=NUM_CLASSES,
        scale=1.0,
    )
    lists = np.array_split(np.arange(num_examples), NUM_CLIENTS)
    return federated_data(dataset, lists)


def make(keep_messages=False, execution=None):
    algorithm = fed_avg(
        TASK,
        client_optimizer=optax.sgd(0.2),
        uplink=error_feedback(top_k(0.2)),
        execution=execution or scanned(),
        keep_messages=keep_messages,
    )
    params = TASK.init(jax.random.key(3))
    state = init_state(jax.random.key(4), algorithm, params, NUM_CLIENTS)
    sample = uniform_cohorts(cohort_size=3, epochs=1, batch_size=4)
    return state, round_program(algorithm, sample, max_rounds=8), params


@functools.cache
def compiled(keep_messages=False):
    """`make`, its program under jit, and a list with one entry for each trace of it."""
    traces = []
    state, program, _ = make(keep_messages)

    def counted(*arguments):
        traces.append(1)
        return program(*arguments)

    return state, jax.jit(counted), traces


def host(tree):
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for x in jax.tree.leaves(tree)
    ]


def test_any_cut_into_dispatches_gives_the_same_bits_with_one_compilation():
    data = population()
    state, step, traces = compiled()
    whole, dispatch = step(state, data, jnp.int32(7))
    cut, losses = state, []
    for num_rounds in (1, 4, 2):
        cut, part = step(cut, data, jnp.int32(num_rounds))
        losses += part.infos.train_loss[:num_rounds].tolist()
    assert len(traces) == 1
    for a, b in zip(host(whole), host(cut), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses == dispatch.infos.train_loss[:7].tolist()
    assert int(whole.round) == 7
    assert totals(dispatch.infos.traffic).uplink_messages == 3 * 7


def test_a_client_not_sampled_keeps_its_memory():
    state, step, _ = compiled()
    after, _ = step(state, population(), jnp.int32(1))
    touched = np.array(
        [
            np.any(np.asarray(x) != 0, axis=tuple(range(1, x.ndim)))
            for x in jax.tree.leaves(after.clients)
            if x.ndim > 1
        ]
    ).any(axis=0)
    assert touched.sum() == 3


@pytest.mark.thorough
def test_the_last_rounds_messages_come_out():
    state, step, _ = compiled(keep_messages=True)
    _, dispatch = step(state, population(), jnp.int32(3))
    last = state
    for _ in range(3):
        last, single = step(last, population(), jnp.int32(1))
    for a, b in zip(host(dispatch.messages), host(single.messages), strict=True):
        np.testing.assert_array_equal(a, b)
    assert dispatch.messages["uplink"].spoke.shape == (3,)


@pytest.mark.thorough
def test_who_is_next_is_known_before_the_round():
    state, step, _ = compiled(keep_messages=True)
    data = population()
    sample = uniform_cohorts(cohort_size=3, epochs=2, batch_size=4)
    invited = next_cohort(sample)(state.key, state.round, data)
    _, dispatch = step(state, data, jnp.int32(1))
    spoke = dispatch.messages["uplink"].ends.sender
    np.testing.assert_array_equal(invited.client_id, spoke)
    share = 60 // NUM_CLIENTS
    np.testing.assert_array_equal(invited.num_examples, [share] * 3)
    np.testing.assert_array_equal(invited.examples, [2 * share] * 3)
    assert invited.active.all()


@pytest.mark.thorough
def test_the_callers_parameters_survive_donation():
    state, program, params = make()
    jax.jit(program, donate_argnums=0)(state, population(), jnp.int32(1))
    assert np.isfinite(params["kernel"]).all()


def test_evaluation_ignores_the_padding_of_its_last_batch():
    examples = make_examples(23)
    params = TASK.init(jax.random.key(0))
    sums = TASK.evaluate(params, examples, jnp.ones(23, bool))
    for execution in (scanned(), sharded()):
        program = evaluation_program(TASK, execution, batch_size=5)
        got = jax.jit(program)(params, examples)
        np.testing.assert_allclose(got.loss, sums["loss"] / 23, rtol=1e-6)
        np.testing.assert_allclose(got.accuracy, sums["accuracy"] / 23, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [0, -5, 2.5])
def test_a_batch_of_no_examples_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        evaluation_program(TASK, scanned(), batch_size=batch_size)


def test_a_run_of_no_clients_is_refused():
    algorithm = fed_avg(TASK, client_optimizer=optax.sgd(0.2))
    params = TASK.init(jax.random.key(3))
    with pytest.raises(ValueError, match="num_clients=0 >= 1"):
        init_state(jax.random.key(4), algorithm, params, 0)


@pytest.mark.thorough
def test_memory_for_many_clients_differs_by_index_lists_only():
    def argument_bytes(num_clients):
        rows = np.arange(10 * num_clients, dtype=np.int64) % 60
        examples = jax.tree.map(np.asarray, make_examples(60))
        dataset = Dataset(
            name="synthetic",
            train=examples,
            test=Examples(examples.x[:1], examples.y[:1]),
            train_groups=None,
            test_groups=None,
            num_classes=NUM_CLASSES,
            scale=1.0,
        )
        data = federated_data(dataset, list(rows.reshape(num_clients, 10)))
        algorithm = fed_avg(TASK, client_optimizer=optax.sgd(0.2))
        params = TASK.init(jax.random.key(3))
        state = init_state(jax.random.key(4), algorithm, params, num_clients)
        sample = uniform_cohorts(cohort_size=3, epochs=1, batch_size=4)
        program = round_program(algorithm, sample, max_rounds=8)
        compiled = jax.jit(program).lower(state, data, jnp.int32(1)).compile()
        memory = compiled.memory_analysis()
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes, (
            data.order.nbytes + data.offsets.nbytes
        )

    few, few_lists = argument_bytes(1_000)
    many, many_lists = argument_bytes(100_000)
    # Sampling without replacement may hold a few words a cohort member, none a client.
    assert abs((many - few) - (many_lists - few_lists)) <= 4_096
