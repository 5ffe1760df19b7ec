"""Ditto: against what is written down, its two limits, and whom it helps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import ditto, fed_avg
from fedjax_comp.compress import error_feedback, qsgd
from tests.problems import make_cohort, softmax_task, stack_clients

TASK, KEY, RATE = softmax_task(), jax.random.key(0), 0.3
PARAMS = TASK.init(KEY)
COHORT = make_cohort([4, 2, 6], batch_size=2)


def run(algorithm, rounds=1, cohort=COHORT):
    server, client = algorithm.init(KEY, PARAMS)
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step, info = jax.jit(algorithm.round), None
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    return server, clients, info


def make(pull, **options):
    return ditto(TASK, client_optimizer=optax.sgd(RATE), pull=pull, **options)


def close(a, b, **tolerance):
    tolerance = {"rtol": 1e-5, "atol": 1e-6, **tolerance}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.thorough
def test_own_models_are_what_is_written_down_and_the_common_one_is_fed_avg():
    plain = fed_avg(TASK, client_optimizer=optax.sgd(RATE))
    own = [PARAMS] * 3
    for rounds in range(2):
        before, _, _ = run(plain, rounds=rounds)
        common = plain.params(before)
        for i in range(3):
            client = jax.tree.map(lambda x, i=i: x[i], COHORT.clients)
            for rows, mask in zip(client.rows, client.mask, strict=True):
                if mask.any():
                    batch = jax.tree.map(lambda x, r=rows: x[r], COHORT.examples)
                    grads = jax.grad(TASK.loss)(own[i], batch, mask, KEY)
                    own[i] = jax.tree.map(
                        lambda v, g, w: v - RATE * (g + 0.5 * (v - w)),
                        own[i],
                        grads,
                        common,
                    )
    server, clients, info = run(make(0.5), rounds=2)
    expected, _, theirs = run(plain, rounds=2)
    close(server.model.params, plain.params(expected))
    for i in range(3):
        close(jax.tree.map(lambda x, i=i: x[i], clients.own), own[i])
    assert int(info.client_steps) == 2 * int(theirs.client_steps)


def test_without_a_pull_a_client_trains_alone():
    _, clients, _ = run(make(0.0), rounds=3)
    alone = COHORT._replace(clients=jax.tree.map(lambda x: x[:1], COHORT.clients))
    server, _, _ = run(fed_avg(TASK, client_optimizer=optax.sgd(RATE)), 3, alone)
    close(jax.tree.map(lambda x: x[0], clients.own), server.model.params)


@pytest.mark.thorough
def test_a_strong_pull_is_the_common_model():
    # A step of rate a and pull 1 / a lands on w - a g: one gradient away from it.
    one = make_cohort([2, 2, 2], batch_size=2)
    server, clients, _ = run(make(1 / RATE), 1, one)
    for i in range(3):
        client = jax.tree.map(lambda x, i=i: x[i], one.clients)
        batch = jax.tree.map(lambda x, r=client.rows[0]: x[r], one.examples)
        grads = jax.grad(TASK.loss)(PARAMS, batch, client.mask[0], KEY)
        close(
            jax.tree.map(lambda x, i=i: x[i], clients.own),
            jax.tree.map(lambda w, g: w - RATE * g, PARAMS, grads),
        )
    assert bool(jnp.isfinite(server.model.params["kernel"]).all())


@pytest.mark.thorough
def test_who_differs_is_served_by_a_model_of_its_own():
    # The last client has other labels than the rest.
    y = COHORT.examples.y.at[6:].set((COHORT.examples.y[6:] + 1) % 3)
    cohort = COHORT._replace(examples=COHORT.examples._replace(y=y))
    algorithm = make(0.1, uplink=error_feedback(qsgd(16)))
    server, clients, _ = run(algorithm, 30, cohort)
    part = jax.tree.map(lambda x: x[6:], cohort.examples)
    everyone = jnp.ones(6, bool)
    own = algorithm.personal(server, jax.tree.map(lambda x: x[2], clients))
    common = TASK.evaluate(server.model.params, part, everyone)["loss"]
    assert TASK.evaluate(own, part, everyone)["loss"] < 0.7 * common


@pytest.mark.parametrize("pull", [-0.1, float("nan"), float("inf")])
def test_a_pull_that_is_none_is_refused(pull):
    with pytest.raises(ValueError, match=f"pull={pull}"):
        make(pull)
