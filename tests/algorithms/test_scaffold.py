"""SCAFFOLD: against NumPy, where FedAvg goes wrong, and with lossy messages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, scaffold
from fedjax_comp.base import Examples
from fedjax_comp.compress import error_feedback, identity, qsgd, top_k
from tests.problems import make_cohort, quadratics, stack_clients

RATE, STEPS, SIZE = 0.2, 4, 3
CURVES = np.array([0.3, 1.0, 2.5], np.float32)
TARGETS = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)


def cohort():
    """Three clients of one example each, `STEPS` local steps of it."""
    found = make_cohort([1, 1, 1], batch_size=1, epochs=STEPS)
    return found._replace(examples=Examples(jnp.asarray(TARGETS), jnp.asarray(CURVES)))


def weighing(sizes, active):
    """The same three clients with these numbers of examples, some of them away."""
    clients = cohort().clients._replace(
        num_examples=jnp.asarray(sizes, jnp.int32), active=jnp.asarray(active, bool)
    )
    return cohort()._replace(clients=clients)


def largest(x, k):
    """NumPy's `top_k(k=k)`, of a vector or of each row."""
    places = np.argsort(-np.abs(x), axis=-1)
    return np.where(np.argsort(places, axis=-1) < k, x, 0)


def run(algorithm, rounds):
    """The server's and the clients' states after so many rounds."""
    server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    clients = stack_clients(client, 3)
    step = jax.jit(algorithm.round)
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort())
        assert int(info.dropped) == 0
    return server, clients, algorithm.params(server)["w"]


def make(algorithm, **options):
    own = {"population": 3} if algorithm is scaffold else {}
    return algorithm(
        quadratics(SIZE), client_optimizer=optax.sgd(RATE), **own, **options
    )


def test_it_is_its_algorithm_in_numpy():
    w, c, own = np.zeros(SIZE), np.zeros(SIZE), np.zeros((3, SIZE))
    for _ in range(5):
        moved, changed = [], []
        for i in range(3):
            y, before = w.copy(), own[i].copy()
            for _ in range(STEPS):
                y -= RATE * (CURVES[i] * (y - TARGETS[i]) - before + c)
            own[i] = before - c + (w - y) / (STEPS * RATE)  # option II
            moved.append(y - w)
            changed.append(own[i] - before)
        w, c = w + np.mean(moved, axis=0), c + np.mean(changed, axis=0)
    server, clients, got = run(make(scaffold), 5)
    np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(server.control["w"], c, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clients.control["w"], own, rtol=1e-4, atol=1e-6)


def test_it_comes_to_the_optimum_and_fed_avg_does_not():
    optimum = (CURVES[:, None] * TARGETS).sum(axis=0) / CURVES.sum()
    # FedAvg's fixed point: each client goes a share 1 - (1 - eta a_i)^S of the way.
    way = (1 - (1 - RATE * CURVES) ** STEPS)[:, None]
    drifted = (way * TARGETS).sum(axis=0) / way.sum()
    assert np.abs(optimum - drifted).max() > 0.05
    _, _, ours = run(make(scaffold), 150)
    _, _, averaged = run(make(fed_avg), 150)
    np.testing.assert_allclose(ours, optimum, atol=1e-4)
    np.testing.assert_allclose(averaged, drifted, atol=1e-4)


def test_one_step_of_everyone_is_fed_avg():
    def single(algorithm):
        server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
        clients = stack_clients(client, 3)
        one = make_cohort([1, 1, 1], batch_size=1)._replace(examples=cohort().examples)
        for i in range(4):
            server, clients, _ = jax.jit(algorithm.round)(
                jax.random.key(i), server, clients, one
            )
        return algorithm.params(server)["w"]

    np.testing.assert_allclose(
        single(make(scaffold)), single(make(fed_avg)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("uplink", [identity(), qsgd(2), error_feedback(top_k(0.4))])
def test_the_servers_control_is_the_mean_of_the_clients_whatever_is_lost(uplink):
    server, clients, _ = run(make(scaffold, uplink=uplink), 6)
    mean = np.asarray(clients.control["w"]).mean(axis=0)
    np.testing.assert_allclose(server.control["w"], mean, rtol=1e-4, atol=1e-5)
    assert np.abs(mean).max() > 1e-3


def test_a_client_without_a_step_keeps_its_control():
    algorithm = make(scaffold)
    server, clients, _ = run(algorithm, 2)
    step, every = jax.jit(algorithm.round), cohort()
    idle = every.clients._replace(mask=every.clients.mask.at[0].set(False))
    after = step(jax.random.key(9), server, clients, every._replace(clients=idle))
    kept = after[1].control["w"][0]
    np.testing.assert_array_equal(kept, clients.control["w"][0])
    # As if it were not there.
    active = jnp.array([False, True, True])
    away = every._replace(clients=every.clients._replace(active=active))
    expected = step(jax.random.key(9), server, clients, away)
    jax.tree.map(np.testing.assert_array_equal, after[:2], expected[:2])
    assert int(after[2].dropped) == 0


def test_a_message_is_twice_as_long():
    algorithm = make(scaffold)
    server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    _, _, info = jax.jit(algorithm.round)(
        jax.random.key(0), server, stack_clients(client, 3), cohort()
    )
    assert info.traffic["uplink"].bits.fixed == 2 * 32 * SIZE
    assert info.traffic["downlink"].bits.fixed == 2 * 32 * SIZE
