"""MimeLite: against NumPy, without momentum, and where local momentum goes astray."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, mime_lite
from fedjax_comp.base import Examples
from fedjax_comp.compress import error_feedback, qsgd
from tests.problems import make_cohort, quadratics, stack_clients

RATE, STEPS, SIZE = 0.2, 3, 4
CURVES = np.array([0.3, 1.0, 2.0], np.float32)
TARGETS = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)


def run(algorithm, rounds):
    cohort = make_cohort([1, 1, 1], batch_size=1, epochs=STEPS)
    cohort = cohort._replace(examples=Examples(jnp.asarray(TARGETS), CURVES))
    server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    assert int(info.dropped) == 0
    return server, info


def make(**options):
    return mime_lite(quadratics(SIZE), client_optimizer=optax.sgd(RATE), **options)


@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_it_is_its_algorithm_in_numpy(kept):
    w, m = np.zeros(SIZE), np.zeros(SIZE)
    for _ in range(6):
        slopes = CURVES[:, None] * (w - TARGETS)
        ends = []
        for a, t in zip(CURVES, TARGETS, strict=True):
            y = w.copy()
            for _ in range(STEPS):
                y -= RATE * ((1 - kept) * a * (y - t) + kept * m)
            ends.append(y)
        w, m = np.mean(ends, axis=0), kept * m + (1 - kept) * slopes.mean(0)
    server, info = run(make(momentum=kept), 6)
    np.testing.assert_allclose(server.model.params["w"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(server.momentum["w"], m, rtol=1e-5, atol=1e-6)
    assert int(info.client_steps) == 2 * 3 * STEPS


def test_without_momentum_it_is_federated_averaging():
    server, _ = run(make(momentum=0.0), 4)
    plain, _ = run(fed_avg(quadratics(SIZE), client_optimizer=optax.sgd(RATE)), 4)
    np.testing.assert_allclose(
        server.model.params["w"], plain.model.params["w"], rtol=1e-6
    )


def test_it_learns_through_lossy_messages():
    lossy = make(momentum=0.5, uplink=error_feedback(qsgd(16)), downlink=qsgd(256))
    exact, _ = run(make(momentum=0.5), 60)
    found, _ = run(lossy, 60)
    off = np.abs(found.model.params["w"] - exact.model.params["w"]).max()
    assert off < 0.1 * np.abs(exact.model.params["w"]).max()


def test_a_client_without_a_step_is_as_one_that_is_not_there():
    algorithm = make(momentum=0.5)
    server, _ = run(algorithm, 2)
    _, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)
    every = make_cohort([1, 1, 1], batch_size=1, epochs=STEPS)
    every = every._replace(examples=Examples(jnp.asarray(TARGETS), CURVES))
    idle = every.clients._replace(mask=every.clients.mask.at[0].set(False))
    away = every.clients._replace(active=jnp.array([False, True, True]))
    found, expected = (
        step(jax.random.key(9), server, clients, every._replace(clients=one))[0]
        for one in (idle, away)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match=r"momentum=1.0 in \[0.0, 1.0\)"):
        make(momentum=1.0)
