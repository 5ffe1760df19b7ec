"""DiLoCo: its limit cases, its outer step, and what a worker keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import diloco
from fedjax_comp.base import make_context
from fedjax_comp.compress import differenced, top_k
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
PARAMS = TASK.init(jax.random.key(3))
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_optax_has_it():
    """Adam raises numbers to its integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(algorithm, cohort, rounds, params=PARAMS):
    count = len(cohort.clients.client_id)
    server, worker = algorithm.init(KEY, params)
    workers = stack_clients(worker, count)
    step = jax.jit(algorithm.round)
    for i in range(rounds):
        server, workers, info = step(jax.random.key(i), server, workers, cohort)
    return algorithm.params(server), workers, info


def gradient(params, cohort, i, step):
    own = jax.tree.map(lambda x: x[i], cohort.clients)
    batch = jax.tree.map(lambda x: x[own.rows[step]], cohort.examples)
    return jax.grad(TASK.loss)(params, batch, own.mask[step], KEY)


def close(got, expected, atol=2e-6):
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


@pytest.mark.thorough
def test_one_worker_with_a_plain_outer_step_is_its_inner_optimizer():
    cohort = make_cohort([6], batch_size=2)
    inner = optax.adamw(optax.cosine_decay_schedule(0.05, 9), weight_decay=0.01)
    algorithm = diloco(TASK, client_optimizer=inner, server_optimizer=optax.sgd(1.0))
    got, workers, _ = run(algorithm, cohort, rounds=3)
    params, state = PARAMS, inner.init(PARAMS)
    for _ in range(3):
        for step in range(3):
            updates, state = inner.update(
                gradient(params, cohort, 0, step), state, params
            )
            params = optax.apply_updates(params, updates)
    close(got, params)
    close(jax.tree.map(lambda x: x[0], workers.optimizer_state), state)


@pytest.mark.thorough
def test_one_step_of_sgd_is_data_parallel_training():
    cohort = make_cohort([4, 2], batch_size=4)
    algorithm = diloco(
        TASK, client_optimizer=optax.sgd(0.3), server_optimizer=optax.sgd(1.0)
    )
    got, _, _ = run(algorithm, cohort, rounds=2)
    params = PARAMS
    for _ in range(2):
        ones = [gradient(params, cohort, i, 0) for i in range(2)]
        params = jax.tree.map(
            lambda w, a, b: w - 0.3 * (4 * a + 2 * b) / 6, params, *ones
        )
    close(got, params)


@pytest.mark.thorough
def test_the_outer_step_is_nesterovs_on_the_mean_change():
    cohort = make_cohort([2, 2], batch_size=2)
    algorithm = diloco(TASK, client_optimizer=optax.sgd(0.3))
    got, _, _ = run(algorithm, cohort, rounds=3)
    params = jax.tree.map(np.asarray, PARAMS)
    speed = jax.tree.map(np.zeros_like, params)
    for _ in range(3):
        ones = [gradient(params, cohort, i, 0) for i in range(2)]
        outer = jax.tree.map(lambda a, b: 0.3 * np.asarray(a + b) / 2, *ones)
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, outer)
        params = jax.tree.map(
            lambda w, v, g: w - 0.7 * (0.9 * v + g), params, speed, outer
        )
    close(got, params)


def test_a_worker_that_is_not_finite_keeps_what_it_had():
    cohort = make_cohort([2, 2], batch_size=2)
    broken = cohort.examples._replace(
        x=cohort.examples.x.at[2:].set(jnp.nan)  # the second worker's
    )
    algorithm = diloco(TASK, client_optimizer=optax.adam(0.1))
    _, workers, info = run(algorithm, cohort._replace(examples=broken), rounds=1)
    assert int(info.dropped) == 1
    first, second = workers.optimizer_state[0].count.tolist()
    assert (first, second) == (1, 0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(workers))


@pytest.mark.thorough
def test_changes_begin_at_the_model_that_all_know():
    # EF21 on the way down: what was not said is in the next difference.
    cohort = make_cohort([2, 2], batch_size=2)
    options = {"client_optimizer": optax.sgd(0.3), "server_optimizer": optax.sgd(1.0)}
    dense, _, _ = run(diloco(TASK, **options), cohort, rounds=3)
    told = {**options, "population": 2, "changes": True}
    close(run(diloco(TASK, **told), cohort, rounds=3)[0], dense)
    one = top_k(k=1)
    got, _, info = run(diloco(TASK, downlink=one, **told), cohort, rounds=3)
    params, heard = PARAMS, PARAMS
    for _ in range(3):
        owed = jax.tree.map(jnp.subtract, params, heard)
        payload, _ = one.encode(make_context(KEY, 0), owed, ())
        said, _ = one.decode(make_context(KEY, 0), payload, ())
        heard = jax.tree.map(jnp.add, heard, said)
        ones = [gradient(heard, cohort, i, 0) for i in range(2)]
        params = jax.tree.map(lambda w, a, b: w - 0.3 * (a + b) / 2, params, *ones)
    close(got, params)
    assert info.traffic["downlink"].spoke.tolist() == [True, True]
    with pytest.raises(ValueError, match="population=K with changes=True"):
        diloco(TASK, client_optimizer=optax.sgd(0.3), changes=True)
    with pytest.raises(ValueError, match="2 workers of population=3"):
        run(diloco(TASK, **{**told, "population": 3}), cohort, rounds=1)


def test_workers_with_memory_of_the_downlink_all_hear_it():
    cohort = make_cohort([2, 2], batch_size=2)
    options = {"client_optimizer": optax.sgd(0.3), "downlink": differenced(top_k(0.5))}
    with pytest.raises(ValueError, match="population=K"):
        run(diloco(TASK, **options), cohort, rounds=1)
    _, _, info = run(diloco(TASK, population=5, **options), cohort, rounds=1)
    assert info.traffic["downlink"].spoke.tolist() == [True] * 5
