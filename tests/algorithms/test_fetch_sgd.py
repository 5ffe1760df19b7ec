"""FetchSGD against its recursion with the sketch written out as a matrix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd
from fedjax_comp.base import Task, fold_context, make_context
from fedjax_comp.compress import stochastic_quantize
from fedjax_comp.compress.sketch import sketch
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
PARAMS = TASK.init(jax.random.key(1))
N = sum(x.size for x in jax.tree.leaves(PARAMS))
ROWS, COLUMNS = 3, 5


def vector(params):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def run(cohorts, **options):
    algorithm = fetch_sgd(
        TASK, client_optimizer=optax.sgd(0.5), rows=ROWS, columns=COLUMNS, **options
    )
    server, template = algorithm.init(jax.random.key(0), PARAMS)
    clients = stack_clients(template, cohorts[0].clients.client_id.shape[0])
    step, servers, infos = jax.jit(algorithm.round), [server], []
    for i, cohort in enumerate(cohorts):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        servers.append(server)
        infos.append(info)
    return servers, infos


def test_equals_the_recursion_with_a_matrix_for_the_sketch():
    cohort = make_cohort([7, 3, 12], batch_size=12)
    k, rho, eta = 4, 0.5, 0.75
    servers, _ = run([cohort] * 3, k=k, momentum=rho, learning_rate=eta)
    hash_key = jax.random.key(servers[0].hash_seed)
    key = fold_context(make_context(hash_key, 0), 0).round_key
    columns = jax.vmap(lambda x: sketch(key, x, rows=ROWS, columns=COLUMNS))
    matrix = np.asarray(columns(jnp.eye(N)), np.float64)  # [n, rows, columns]
    dense = fed_avg(TASK, client_optimizer=optax.sgd(0.5))
    dense_round = jax.jit(dense.round)

    momentum = owed = np.zeros((ROWS, COLUMNS))
    for before, after in itertools.pairwise(servers):
        # The mean update, by an algorithm that sends it whole.
        state, template = dense.init(jax.random.key(0), before.params)
        moved, _, _ = dense_round(
            jax.random.key(0), state, stack_clients(template, 3), cohort
        )
        mean = vector(dense.params(moved)) - vector(before.params)
        momentum = rho * momentum + np.tensordot(mean, matrix, axes=1)
        owed = owed + eta * momentum
        inside = np.abs(matrix) > 0
        estimates = (matrix * inside * owed[None]).sum(axis=2)  # [n, rows]
        estimate = np.median(estimates, axis=1)
        applied = np.zeros(N)
        heaviest = np.argsort(-np.abs(estimate), kind="stable")[:k]
        applied[heaviest] = estimate[heaviest]
        owed = owed - np.tensordot(applied, matrix, axes=1)
        step = vector(after.params) - vector(before.params)
        np.testing.assert_allclose(step, applied, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(after.momentum, momentum, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(after.owed, owed, rtol=1e-3, atol=1e-5)


def test_a_message_is_the_sketch_and_nothing_else():
    _, infos = run([make_cohort([7, 0, 12], batch_size=4)], k=3)
    assert totals(infos[0].traffic).uplink_bytes == 2 * 4 * ROWS * COLUMNS
    assert infos[0].traffic["uplink"].spoke.tolist() == [True, False, True]


def test_nobody_active_changes_nothing():
    cohort = make_cohort([8, 8], batch_size=8)
    idle = cohort._replace(clients=cohort.clients._replace(active=jnp.zeros(2, bool)))
    servers, _ = run([cohort, idle], k=6)
    jax.tree.map(np.testing.assert_array_equal, servers[1], servers[2])


def test_it_finds_the_few_coordinates_that_matter():
    target = np.zeros(500, np.float32)
    target[[3, 50, 222, 300, 499]] = [4.0, -3.0, 3.5, -4.5, 3.0]
    task = Task(
        init=lambda key: jnp.zeros(500),
        loss=lambda w, examples, mask, key: jnp.sum((w - target) ** 2) / 2,
        evaluate=TASK.evaluate,
    )
    algorithm = fetch_sgd(
        task, client_optimizer=optax.sgd(0.2), rows=7, columns=40, k=5, momentum=0.5
    )
    cohort = make_cohort([2, 3], batch_size=3)
    server, template = algorithm.init(jax.random.key(0), jnp.zeros(500))
    clients, step = stack_clients(template, 2), jax.jit(algorithm.round)
    for i in range(30):
        server, clients, _ = step(jax.random.key(i), server, clients, cohort)
    # A median of seven rows is off only where four collide among five coordinates.
    np.testing.assert_allclose(algorithm.params(server), target, atol=0.05)


def test_refusals_name_the_value():
    options = {"client_optimizer": optax.sgd(0.1), "rows": 3, "columns": 5, "k": 2}
    with pytest.raises(ValueError, match=r"Expected momentum=1\.0 in \[0, 1\)"):
        fetch_sgd(TASK, **options, momentum=1.0)
    with pytest.raises(ValueError, match="learning_rate=0"):
        fetch_sgd(TASK, **options, learning_rate=0)
    with pytest.raises(ValueError, match="Expected k=0 >= 1"):
        fetch_sgd(TASK, **{**options, "k": 0})
    with pytest.raises(ValueError, match=f"k=19 of the model's n={N}"):
        fetch_sgd(TASK, **{**options, "k": 19}).init(jax.random.key(0), PARAMS)
    with pytest.raises(ValueError, match="below the model's size"):
        fetch_sgd(TASK, **{**options, "columns": 6}).init(jax.random.key(0), PARAMS)
    fetch_sgd(TASK, **options, downlink=stochastic_quantize(levels=4)).init(
        jax.random.key(0), PARAMS
    )
