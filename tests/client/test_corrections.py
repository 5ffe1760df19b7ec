"""Gradients added up: in half precision as in single."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import mime_lite, scaffold
from fedjax_comp.base import Task
from fedjax_comp.client.corrections import mean_gradient, summed
from tests.problems import make_cohort, stack_clients

HALVES = [jnp.bfloat16, jnp.float16]
STEPS = 600  # bfloat16 counts to 256


@pytest.mark.parametrize("dtype", HALVES)
def test_a_sum_is_carried_in_float32(dtype):
    watch, one = summed(), jnp.ones((), dtype)

    def step(total, _):
        updates, total = watch.update(one, total)
        return total, updates

    total, seen = jax.lax.scan(step, watch.init(one), length=STEPS)
    assert float(total) == STEPS
    assert seen.dtype == dtype
    mean = mean_gradient(total, jnp.int32(STEPS), one)
    assert (float(mean), mean.dtype) == (1.0, dtype)


def test_without_a_step_there_is_no_gradient():
    nothing = mean_gradient(jnp.zeros(2), jnp.int32(0), jnp.zeros(2))
    np.testing.assert_array_equal(nothing, 0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("make", "options", "found"),
    [
        (scaffold, {"population": 1}, lambda server: server.control),
        (mime_lite, {"momentum": 0.5}, lambda server: 2 * server.momentum),
    ],
)
def test_the_mean_of_equal_gradients_is_the_gradient(make, options, found, dtype):
    task = Task(lambda key: jnp.zeros((), dtype), lambda w, *_: 1.0 * w, None)
    algorithm = make(task, client_optimizer=optax.sgd(2.0**-12), **options)
    cohort = make_cohort([1], batch_size=1, epochs=STEPS)
    server, client = algorithm.init(jax.random.key(0), jnp.zeros((), dtype))
    server, _, info = jax.jit(algorithm.round)(
        jax.random.key(1), server, stack_clients(client, 1), cohort
    )
    assert int(info.dropped) == 0
    assert float(found(server)) == 1
