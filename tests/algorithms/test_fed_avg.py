"""FedAvg against its teaching twin, its limit cases and its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.base import Compressor, LinkState
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    sign_sgd,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.execution import vmapped
from fedjax_comp.server.aggregate import majority_vote
from fedjax_comp.wire.traffic import totals
from tests.as_on_tpu import as_on_tpu
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
PARAMS = TASK.init(jax.random.key(1))
MODEL_BYTES = 4 * sum(x.size for x in jax.tree.leaves(PARAMS))


def one_round(cohort, *, key=0, params=PARAMS, clients=None, **options):
    options.setdefault("client_optimizer", optax.sgd(0.5))
    algorithm = fed_avg(TASK, **options)
    server, template = algorithm.init(jax.random.key(0), params)
    if clients is None:
        clients = stack_clients(template, cohort.clients.client_id.shape[0])
    server, clients, info = jax.jit(algorithm.round)(
        jax.random.key(key), server, clients, cohort
    )
    return algorithm.params(server), clients, info


def assert_close(a, b):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b
    )


def test_equals_its_teaching_twin():
    cohort = make_cohort([7, 3, 0, 12], batch_size=4, epochs=2)
    got, _, info = one_round(cohort)
    twin = fed_avg_naive(TASK, PARAMS, cohort, client_optimizer=optax.sgd(0.5))
    assert_close(got, twin)
    assert int(info.client_steps) == 2 * (2 + 1 + 0 + 3)


def test_fed_sgd_is_one_central_gradient_step():
    cohort = make_cohort([5, 11, 2], batch_size=18)
    got, _, _ = one_round(cohort)
    mask = jnp.ones(18, bool)
    grads = jax.grad(TASK.loss)(PARAMS, cohort.examples, mask, jax.random.key(0))
    assert_close(got, jax.tree.map(lambda w, g: w - 0.5 * g, PARAMS, grads))


def test_majority_vote_of_signs_against_numpy():
    """signSGD with majority vote, Bernstein et al. 2018, algorithm 1."""
    sizes = [6, 6, 6]
    cohort = make_cohort(sizes, batch_size=6)
    got, _, _ = one_round(
        cohort,
        client_optimizer=optax.sgd(1.0),
        server_optimizer=optax.sgd(0.01),
        uplink=sign_sgd(),
        aggregation=majority_vote,
    )
    votes = jax.tree.map(np.zeros_like, PARAMS)
    for i in range(3):
        own = jax.tree.map(lambda x, i=i: x[6 * i : 6 * i + 6], cohort.examples)
        grads = jax.grad(TASK.loss)(PARAMS, own, jnp.ones(6, bool), jax.random.key(0))
        votes = jax.tree.map(lambda v, g: v - np.sign(g), votes, grads)
    expected = jax.tree.map(lambda w, v: w + 0.01 * np.sign(v), PARAMS, votes)
    assert_close(got, expected)


def test_dense_links_cost_the_model_each_way():
    cohort = make_cohort([7, 0, 12], batch_size=4)
    _, _, info = one_round(cohort)
    # The empty client neither hears nor speaks.
    assert (
        totals(info.traffic).uplink_bytes
        == totals(info.traffic).downlink_bytes
        == 2 * MODEL_BYTES
    )
    assert info.traffic["uplink"].spoke.tolist() == [True, False, True]


def test_a_broken_client_is_dropped_and_counted():
    cohort = make_cohort([4, 4, 4], batch_size=4)
    bad_x = cohort.examples.x.at[5].set(jnp.inf)
    broken = cohort._replace(examples=cohort.examples._replace(x=bad_x))
    uplink = error_feedback(top_k(0.5))
    got, clients, info = one_round(broken, uplink=uplink)
    without = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    expected, _, _ = one_round(without, uplink=uplink)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert int(info.dropped) == 1
    assert info.traffic["uplink"].spoke.tolist() == [True, False, True]
    assert np.isfinite(info.train_loss)
    for leaf in jax.tree.leaves(clients):
        np.testing.assert_array_equal(leaf[1], np.zeros_like(leaf[1]))


def test_an_update_that_decodes_to_nan_is_left_out():
    def poison(context, payload, receiver):
        return jax.tree.map(lambda x: x * jnp.nan, payload), receiver

    uplink = Compressor(lambda like: LinkState((), ()), lambda c, t, s: (t, s), poison)
    got, _, info = one_round(make_cohort([4, 4], batch_size=4), uplink=uplink)
    jax.tree.map(np.testing.assert_array_equal, got, PARAMS)
    assert int(info.dropped) == 2


def test_nobody_active_changes_nothing():
    cohort = make_cohort([4, 4], batch_size=4)
    idle = cohort._replace(clients=cohort.clients._replace(active=jnp.zeros(2, bool)))
    with jax.numpy_dtype_promotion("standard"):  # optax's adam mixes int and float
        got, _, info = one_round(idle, server_optimizer=optax.adam(0.1))
    jax.tree.map(np.testing.assert_array_equal, got, PARAMS)
    assert totals(info.traffic).uplink_bytes == totals(info.traffic).downlink_bytes == 0


def test_server_optimizers_see_the_negated_mean_update():
    cohort = make_cohort([4, 8], batch_size=4)
    plain, _, _ = one_round(cohort)
    mean = jax.tree.map(jnp.subtract, plain, PARAMS)
    optimizer = optax.yogi(0.1)
    with jax.numpy_dtype_promotion("standard"):  # optax's yogi mixes int and float
        updates, _ = optimizer.update(
            jax.tree.map(jnp.negative, mean), optimizer.init(PARAMS), PARAMS
        )
        got, _, _ = one_round(cohort, server_optimizer=optimizer)
    assert_close(got, optax.apply_updates(PARAMS, updates))


def remembering():
    """An exact compressor whose receiver keeps the last tree: differences travel."""

    def init(like):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return LinkState(zeros, zeros)

    def encode(context, tree, sender):
        return jax.tree.map(jnp.subtract, tree, sender), tree

    def decode(context, payload, receiver):
        tree = jax.tree.map(jnp.add, payload, receiver)
        return tree, tree

    return Compressor(init, encode, decode)


def test_a_downlink_with_memory_is_paid_for_by_everyone():
    cohort = make_cohort([4, 4], batch_size=4)
    with pytest.raises(ValueError, match="population=K"):
        one_round(cohort, downlink=remembering())
    got, _, info = one_round(cohort, downlink=remembering(), population=9)
    assert totals(info.traffic).downlink_bytes == 9 * MODEL_BYTES
    assert totals(info.traffic).uplink_bytes == 2 * MODEL_BYTES
    expected, _, _ = one_round(cohort)
    assert_close(got, expected)


def test_client_memory_makes_up_for_what_was_not_sent():
    # Error feedback: what was decoded plus what is remembered is the whole update.
    cohort = make_cohort([6], batch_size=3)
    dense, _, _ = one_round(cohort, uplink=identity())
    sparse, clients, _ = one_round(cohort, uplink=error_feedback(top_k(0.3)))
    memory = jax.tree.leaves(clients.sender[0])
    rebuilt = [w + m[0] for w, m in zip(jax.tree.leaves(sparse), memory, strict=True)]
    assert_close(rebuilt, jax.tree.leaves(dense))
    assert any(np.any(np.asarray(m) != 0) for m in memory)


def rounds_of(cohorts, **options):
    """The model after some rounds of one population, and what the last one observed."""
    algorithm = fed_avg(TASK, client_optimizer=optax.sgd(0.5), **options)
    server, template = algorithm.init(jax.random.key(0), PARAMS)
    clients = stack_clients(template, cohorts[0].clients.client_id.shape[0])
    step = jax.jit(algorithm.round)
    for t, cohort in enumerate(cohorts):
        server, clients, info = step(jax.random.key(t), server, clients, cohort)
    return algorithm.params(server), info


def test_unicast_of_everything_is_a_broadcast():
    cohorts = [make_cohort([7, 3, 0, 12], batch_size=4)] * 3
    got, info = rounds_of(cohorts, unicast=True)
    expected, same = rounds_of(cohorts)
    assert_close(got, expected)
    assert totals(info.traffic) == totals(same.traffic)


def test_unicast_against_numpy():
    """Who was silent hears all that changed meanwhile, as far as `C` lets it."""
    sizes, active = [6, 6, 6], [(1, 1, 1), (1, 0, 1), (1, 1, 0), (0, 1, 1)]
    cohort = make_cohort(sizes, batch_size=6)
    cohorts = [
        cohort._replace(clients=cohort.clients._replace(active=jnp.array(a) > 0))
        for a in active
    ]
    got, info = rounds_of(cohorts, unicast=True, downlink=top_k(k=2))
    assert totals(info.traffic).downlink_messages == 2
    assert np.asarray(info.traffic["downlink"].spoke).tolist() == [False, True, True]

    def largest_two(x):
        kept = np.argsort(-np.abs(x), axis=None)[:2]
        mask = np.zeros(x.size, bool)
        mask[kept] = True
        return np.where(mask.reshape(x.shape), x, 0)

    model = jax.tree.map(np.asarray, PARAMS)
    heard = [model] * 3
    for present in active:
        updates = []
        for i in np.flatnonzero(present):
            change = jax.tree.map(np.subtract, model, heard[i])
            told = jax.tree.map(largest_two, change)
            heard[i] = jax.tree.map(np.add, heard[i], told)
            rows = slice(6 * i, 6 * i + 6)
            own = jax.tree.map(lambda x, rows=rows: x[rows], cohort.examples)
            grads = jax.grad(TASK.loss)(
                heard[i], own, jnp.ones(6, bool), jax.random.key(0)
            )
            updates.append(jax.tree.map(lambda g: -0.5 * np.asarray(g), grads))
        mean = jax.tree.map(lambda *x: sum(x) / len(x), *updates)
        model = jax.tree.map(np.add, model, mean)
    assert_close(got, model)


@pytest.mark.parametrize(
    "uplink",
    [
        error_feedback(top_k(0.1)),
        chain(stochastic_quantize(levels=16), entropy_coded()),
        flattened(chain(top_k(0.3), sign_sgd(), entropy_coded())),
    ],
)
def test_clients_compressed_in_turn_are_those_compressed_at_once(uplink):
    """As on a TPU: messages, memories and lengths are the same to the bit."""
    cohort = make_cohort([7, 3, 0, 12], batch_size=4)
    algorithm = fed_avg(
        TASK,
        client_optimizer=optax.sgd(0.5),
        uplink=uplink,
        execution=vmapped(),
        population=4,
    )
    server, template = algorithm.init(jax.random.key(0), PARAMS)
    clients = stack_clients(template, 4)
    arguments = jax.random.key(0), server, clients, cohort
    here = jax.jit(algorithm.round)(*arguments)
    there = as_on_tpu(algorithm.round)(*arguments)
    jax.tree.map(np.testing.assert_array_equal, there, here)
