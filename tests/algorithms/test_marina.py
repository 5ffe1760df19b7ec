"""MARINA against its recursion, its limit cases and the rate of its theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.base import Task
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    error_feedback,
    identity,
    qsgd,
    random_k,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.wire.traffic import totals
from tests.algorithms.test_scaffold import (
    CURVES,
    RATE,
    SIZE,
    STEPS,
    TARGETS,
    largest,
    weighing,
)
from tests.problems import make_cohort, softmax_task, stack_clients
from tests.problems import quadratics as three_quadratics

TASK = softmax_task()
COHORT = make_cohort([6, 3, 9], batch_size=9)


def run(algorithm, rounds, task=TASK, cohort=COHORT):
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step, servers, infos = jax.jit(algorithm.round), [server], []
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        servers.append(server)
        infos.append(info)
    return servers, infos


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_it_is_its_recursion_in_numpy():
    """Weights that differ, clients that are away, a server with momentum."""
    algorithm = marina(
        three_quadratics(SIZE),
        client_optimizer=optax.sgd(RATE),
        server_optimizer=optax.sgd(0.8, momentum=0.5),
        uplink=top_k(k=1),
        probability=0.4,
    )
    server, client = algorithm.init(
        jax.random.key(0), three_quadratics(SIZE).init(None)
    )
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)

    def moved(w):
        end = w
        for _ in range(STEPS):
            end = end - RATE * CURVES[:, None] * (end - TARGETS)
        return end - w

    sizes, w, velocity = np.array([4, 2, 7]), np.zeros(SIZE), 0.0
    estimate, before, kinds = np.zeros(SIZE), np.zeros(SIZE), set()
    for i, away in enumerate([None, 1, None, 0, 2, None, 1, None]):
        active = np.arange(3) != away
        server, clients, info = step(
            jax.random.key(i), server, clients, weighing(sizes, active)
        )
        shares = sizes * active / (sizes * active).sum()
        in_full = bool(info.observed["in_full"].value)
        kinds.add(in_full)
        if in_full:
            estimate = shares @ moved(w)
        else:
            estimate = estimate + shares @ largest(moved(w) - moved(before), 1)
        velocity = 0.5 * velocity - estimate
        before, w = w, w - 0.8 * velocity
        got = algorithm.params(server)["w"]
        np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)
    assert kinds == {True, False}


def test_always_in_full_is_fed_avg():
    options = {"client_optimizer": optax.sgd(0.5)}
    plain = fed_avg(TASK, **options)
    full = marina(TASK, **options, uplink=random_k(0.25), probability=1.0)
    expected, _ = run(plain, 4)
    got, infos = run(full, 4)
    jax.tree.map(
        np.testing.assert_array_equal, got[-1].model.params, expected[-1].model.params
    )
    # Three messages of 18 float32 numbers behind the bit that says which kind.
    assert [totals(info.traffic).uplink_bytes for info in infos] == [
        3 * (4 * 18 + 1)
    ] * 4


def test_differences_that_lose_next_to_nothing_are_fed_avg():
    options = {"client_optimizer": optax.sgd(0.5)}
    fine = stochastic_quantize(levels=2**16)
    got, infos = run(marina(TASK, **options, uplink=fine, probability=1e-9), 5)
    expected, _ = run(fed_avg(TASK, **options), 5)
    assert [bool(info.observed["in_full"].value) for info in infos] == [True] + 4 * [
        False
    ]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4),
        got[-1].model.params,
        expected[-1].model.params,
    )
    # Both end far from where they began, so that the bound says something.
    moved = optax.tree.sub(got[-1].model.params, got[0].model.params)
    assert float(optax.tree.norm(moved)) > 0.1


def quadratics(curvatures, targets):
    """Client `i` (known by its first feature) has the loss h/2 |w - target|^2."""
    curvatures, targets = jnp.asarray(curvatures), jnp.asarray(targets)

    def loss(w, examples, mask, key):
        who = jnp.argmax(examples.x[0]).astype(jnp.int32)
        return jnp.sum(curvatures[who] * (w - targets[who]) ** 2) / 2

    return Task(
        init=lambda key: jnp.zeros(targets.shape[1]), loss=loss, evaluate=TASK.evaluate
    )


def test_it_reaches_the_optimum_of_clients_that_differ_where_plain_noise_stays():
    n, keep = 20, 0.2
    rng = np.random.default_rng(0)
    curvatures = rng.uniform(0.5, 1.5, (3, n)).astype(np.float32)
    targets = rng.standard_normal((3, n)).astype(np.float32)
    optimum = (curvatures * targets).sum(0) / curvatures.sum(0)
    task = quadratics(curvatures, targets)
    cohort = make_cohort([1, 1, 1], batch_size=1)
    cohort = cohort._replace(examples=cohort.examples._replace(x=jnp.eye(3)))
    # Theorem 2.1's largest step, with L <= 1.5, omega = 1/keep - 1, p = keep and three
    # clients; its rate (1 - gamma mu)**T with mu >= 0.5 gives e**-12 here.
    omega = 1 / keep - 1
    gamma = 1 / (1.5 * (1 + np.sqrt((1 - keep) / keep * omega / 3)))
    options = {
        "client_optimizer": optax.sgd(1.0),
        "server_optimizer": optax.sgd(gamma),
        "uplink": random_k(keep),
    }
    rounds = int(12 / (gamma * 0.5))
    ours, infos = run(marina(task, **options, probability=keep), rounds, task, cohort)
    noisy, _ = run(fed_avg(task, **options), rounds, task, cohort)
    assert np.max(np.abs(ours[-1].model.params - optimum)) < 1e-3
    assert np.max(np.abs(noisy[-1].model.params - optimum)) > 0.05
    # A Bernoulli count: further than 6 standard deviations with chance below 2e-8.
    in_full = sum(bool(info.observed["in_full"].value) for info in infos[1:])
    spread = np.sqrt(keep * (1 - keep) * (rounds - 1))
    assert abs(in_full - keep * (rounds - 1)) < 6 * spread
    sizes = {
        bool(info.observed["in_full"].value): totals(info.traffic).uplink_bytes
        for info in infos
    }
    assert sizes == {True: 3 * (4 * n + 1), False: 3 * (4 * 4 + 1)}


@pytest.mark.thorough
def test_all_of_the_population_hears_and_nobody_active_changes_nothing():
    algorithm = marina(
        TASK,
        client_optimizer=optax.sgd(0.5),
        uplink=random_k(0.5),
        probability=0.5,
        population=10,
    )
    servers, infos = run(algorithm, 1)
    assert totals(infos[0].traffic).downlink_bytes == 10 * 4 * 18
    clients = COHORT.clients._replace(active=jnp.zeros(3, bool))
    silent = COHORT._replace(clients=clients)
    after, _, info = algorithm.round(jax.random.key(5), servers[1], ((), ()), silent)
    assert_close(after.model.params, servers[1].model.params)
    assert_close(after.estimate, servers[1].estimate)
    assert totals(info.traffic).uplink_bytes == 0


def test_refusals_name_the_cause():
    options = {"client_optimizer": optax.sgd(0.1)}
    for probability in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"Expected probability={probability}"):
            marina(TASK, **options, uplink=identity(), probability=probability)
    params = TASK.init(jax.random.key(0))

    def start(uplink):
        algorithm = marina(TASK, **options, uplink=uplink, probability=0.5)
        algorithm.init(jax.random.key(0), params)

    with pytest.raises(ValueError, match="without memory as the uplink of marina"):
        start(error_feedback(top_k(0.5)))
    with pytest.raises(ValueError, match="fixed number of bits"):
        start(chain(qsgd(4), entropy_coded()))
