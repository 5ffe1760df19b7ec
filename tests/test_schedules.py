"""Rates over rounds: what a schedule says is what every local step is scaled by."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import scaffold
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.data import federate, iid, load
from fedjax_comp.models import classification, linear
from fedjax_comp.schedules import scheduled_rates
from fedjax_comp.training import init_state, round_program, uniform_cohorts
from tests.problems import make_cohort, softmax_task
from tests.traced_once import traced_once

TASK, KEY = softmax_task(), jax.random.key(0)
PARAMS = TASK.init(KEY)


@pytest.mark.parametrize("make", [optax.sgd, optax.adam], ids=["sgd", "adam"])
def test_a_factor_is_one_of_the_optimizers_rate(make):
    cohort = make_cohort([5], batch_size=2, epochs=2)
    one = jax.tree.map(lambda x: x[0], cohort.clients)
    with jax.numpy_dtype_promotion("standard"):
        scaled, _ = local_sgd(TASK, make(0.2))(
            PARAMS, cohort.examples, one._replace(rate=jnp.float32(0.5))
        )
        plain, _ = local_sgd(TASK, make(0.1))(PARAMS, cohort.examples, one)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        scaled,
        plain,
    )


@pytest.mark.thorough
def test_a_run_follows_the_schedule():
    data = federate(load("digits"), iid(size=20), num_clients=6, seed=0)
    task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    sample = uniform_cohorts(cohort_size=3, epochs=1, batch_size=5)
    schedule = optax.piecewise_constant_schedule(1.0, {2: 0.5, 3: 0.0})
    made = scaffold(task, client_optimizer=optax.sgd(0.1), population=6)
    program = round_program(made, scheduled_rates(sample, schedule), max_rounds=4)
    step = traced_once(program)
    state = init_state(KEY, made, task.init(KEY), 6)
    fixed = scaffold(task, client_optimizer=optax.sgd(0.05), population=6)
    halved = jax.jit(round_program(fixed, sample, max_rounds=1))
    state, _ = step(state, data, jnp.int32(2))
    expected, _ = halved(state, data, jnp.int32(1))
    third, _ = step(state, data, jnp.int32(1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        third.server,
        expected.server,
    )
    fourth, _ = step(third, data, jnp.int32(1))
    jax.tree.map(np.testing.assert_array_equal, fourth.server.model, third.server.model)


def test_a_number_is_no_schedule_and_a_factory_no_sampler():
    plain = uniform_cohorts(cohort_size=2, epochs=1, batch_size=2)
    with pytest.raises(ValueError, match=r"schedule as a function .* not 0\.1"):
        scheduled_rates(plain, 0.1)
    with pytest.raises(ValueError, match=r"call: uniform_cohorts\(\.\.\.\)"):
        scheduled_rates(uniform_cohorts, optax.constant_schedule(0.1))
