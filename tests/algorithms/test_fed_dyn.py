"""FedDyn: against NumPy, where FedAvg goes wrong, and with lossy messages."""

import jax
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_dyn
from fedjax_comp.compress import error_feedback, identity, qsgd, top_k
from tests.algorithms.test_scaffold import (
    CURVES,
    RATE,
    SIZE,
    STEPS,
    TARGETS,
    cohort,
    run,
)
from tests.problems import quadratics, stack_clients

ALPHA = 0.6


def make(**options):
    return fed_dyn(
        quadratics(SIZE),
        client_optimizer=optax.sgd(RATE),
        population=3,
        alpha=ALPHA,
        **options,
    )


def test_it_is_its_algorithm_in_numpy():
    w, h, own = np.zeros(SIZE), np.zeros(SIZE), np.zeros((3, SIZE))
    for _ in range(5):
        ends = []
        for i in range(3):
            v = w.copy()
            for _ in range(STEPS):
                v -= RATE * (CURVES[i] * (v - TARGETS[i]) - own[i] + ALPHA * (v - w))
            own[i] -= ALPHA * (v - w)
            ends.append(v)
        h -= ALPHA * np.mean([v - w for v in ends], axis=0)
        w = np.mean(ends, axis=0) - h / ALPHA
    server, clients, got = run(make(), 5)
    np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(server.drift["w"], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(clients.gradient["w"], own, rtol=1e-4, atol=1e-5)


def test_it_comes_to_the_optimum():
    optimum = (CURVES[:, None] * TARGETS).sum(axis=0) / CURVES.sum()
    server, clients, got = run(make(), 300)
    np.testing.assert_allclose(got, optimum, atol=1e-4)
    # There every g_i is the gradient of its client, and their mean is none.
    gradients = CURVES[:, None] * (optimum - TARGETS)
    np.testing.assert_allclose(clients.gradient["w"], gradients, atol=1e-3)
    np.testing.assert_allclose(server.drift["w"], 0, atol=1e-3)


@pytest.mark.parametrize("uplink", [identity(), qsgd(2), error_feedback(top_k(0.4))])
def test_the_servers_drift_is_the_mean_of_the_clients_whatever_is_lost(uplink):
    server, clients, _ = run(make(uplink=uplink), 6)
    mean = np.asarray(clients.gradient["w"]).mean(axis=0)
    np.testing.assert_allclose(server.drift["w"], mean, rtol=1e-4, atol=1e-5)
    assert np.abs(mean).max() > 1e-3


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_what_is_no_penalty_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} > 0"):
        fed_dyn(
            quadratics(SIZE),
            client_optimizer=optax.sgd(RATE),
            population=3,
            alpha=alpha,
        )


def test_messages_are_as_long_as_those_of_averaging():
    algorithm = make()
    server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    _, _, info = jax.jit(algorithm.round)(
        jax.random.key(0), server, stack_clients(client, 3), cohort()
    )
    assert info.traffic["uplink"].bits.fixed == 32 * SIZE
    assert info.traffic["downlink"].bits.fixed == 32 * SIZE
