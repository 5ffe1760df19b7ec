"""LoCoDL: against NumPy step by step, its theorem, its limits, what it saves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, locodl, scaffnew
from fedjax_comp.base import Examples
from fedjax_comp.compress import (
    error_feedback,
    identity,
    natural_compression,
    random_k,
    top_k,
)
from fedjax_comp.wire.accounting import message_bits
from tests.algorithms.test_scaffnew import (
    RATE,
    WEIGHTS,
    cohort,
    diagonals,
    optimum,
    run,
)
from tests.algorithms.test_scaffold import CURVES, SIZE, TARGETS
from tests.problems import quadratics, stack_clients

SHARES = WEIGHTS / WEIGHTS.sum()
CURVATURE = 0.1
"""Of the least curvature, 0.3."""


def make(uplink=None, omega=2.0, *, probability=0.25, rate=RATE, **options):
    return locodl(
        quadratics(SIZE),
        client_optimizer=optax.sgd(rate),
        uplink=random_k(1 / (1 + omega)) if uplink is None else uplink,
        population=3,
        probability=probability,
        omega=omega,
        **{"curvature": CURVATURE, **options},
    )


def begun(algorithm):
    server, client = algorithm.init(jax.random.key(0), {"w": jnp.zeros(SIZE)})
    return server, stack_clients(client, 3)


def test_it_is_the_papers_algorithm_step_by_step():
    p, omega = 0.25, 2.0
    algorithm, each = make(omega=omega, probability=p, keep_messages=True), cohort()
    server, clients = begun(algorithm)
    step = jax.jit(algorithm.round)
    rho = 1 / (1 + omega * SHARES.max())
    c = p * rho / (RATE * (1 + 2 * omega))
    x, u = np.zeros((2, 3, SIZE))
    y, v = np.zeros((2, SIZE))
    lossy = False
    for i in range(8):
        server, clients, info = step(jax.random.key(i), server, clients, each)
        for _ in range(int(info.observed["local_steps"].value)):
            x = x - RATE * (CURVES[:, None] * (x - TARGETS) - CURVATURE * x - u)
            y = y - RATE * (CURVATURE * y - v)
        said = np.asarray(info.messages["uplink"].used["w"], float)
        lossy |= np.abs(said - (x - y)).max() > 0.01
        mean = SHARES @ said / 2
        x, u = (1 - rho) * x + rho * (y + mean), u + c * (mean - said)
        y, v = y + rho * mean, v + c * mean
        heard = info.messages["downlink"].used["w"][0]
        for ours, theirs in (
            (heard, mean),
            (server.params["w"], y),
            (server.control["w"], v),
            (clients.params["w"], x),
            (clients.control["w"], u),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert lossy
    assert np.abs(v).max() > 0.1


@pytest.mark.parametrize("curvature", [0.0, CURVATURE])
def test_lossy_messages_come_to_the_optimum_that_fed_avg_misses(curvature):
    # One client's losses differ from another's, and two thirds of a message are lost.
    best, rounds = optimum(CURVES, TARGETS, WEIGHTS), 400
    models, clients, _ = run(make(curvature=curvature), cohort(), rounds)
    np.testing.assert_allclose(models[-1], best, atol=3e-6)
    np.testing.assert_allclose(
        clients.params["w"][-1], np.tile(best, (3, 1)), atol=3e-6
    )
    # There u_i is the gradient of what x_i trains on.
    gradients = CURVES[:, None] * (best - TARGETS) - curvature * best
    np.testing.assert_allclose(clients.control["w"][-1], gradients, atol=2e-5)
    averaged = fed_avg(
        quadratics(SIZE), client_optimizer=optax.sgd(RATE), uplink=random_k(1 / 3)
    )
    models, _, _ = run(averaged, cohort(most=4), rounds)
    assert np.abs(models[-100:] - best).max(axis=1).min() > 0.01


@pytest.mark.parametrize(("p", "omega"), [(0.3, 2.0), (0.8, 0.5)])
def test_the_theorem_holds_of_every_round(p, omega):
    # Psi_t / tau^t has an expectation that never grows, as in the test of Scaffnew. The
    # quadratics' curvatures lie between 0.3 and 2.5.
    curvature, rate = CURVES.min() / 2, 1 / CURVES.max()
    algorithm = make(omega=omega, probability=p, rate=rate, curvature=float(curvature))
    rho = 1 / (1 + omega * SHARES.max())
    tau = max((1 - rate * curvature) ** 2, 1 - p**2 * rho / (1 + 2 * omega))
    best = optimum(CURVES, TARGETS, WEIGHTS)
    gradients = CURVES[:, None] * (best - TARGETS) - curvature * best
    price = rate * (1 + 2 * omega) / (p**2 * rho)

    def square(x):
        return (np.asarray(x, float) ** 2).sum(axis=-1)

    def psi(y, v, x, u):
        models = square(x - best) @ SHARES + square(y - best)
        controls = square(u - gradients) @ SHARES + square(v - curvature * best)
        return models / rate + price * controls

    server, clients = begun(algorithm)

    def seen(key):
        def step(carry, key):
            server, clients, info = algorithm.round(key, *carry, cohort())
            state = server.params, server.control, clients.params, clients.control
            steps = info.observed["local_steps"].value
            return (server, clients), ([part["w"] for part in state], steps)

        return jax.lax.scan(step, (server, clients), jax.random.split(key, 12))[1]

    states, steps = jax.jit(jax.vmap(seen))(jax.random.split(jax.random.key(2), 64))
    first = psi(
        np.zeros(SIZE), np.zeros(SIZE), np.zeros((3, SIZE)), np.zeros((3, SIZE))
    )
    left = psi(*map(np.asarray, states)) / first
    taken = np.cumsum(np.asarray(steps), axis=1)
    assert (left / tau**taken).mean(axis=0).max() <= 1
    assert 1e-9 < left[:, -1].mean() < 0.7


def test_the_sum_of_control_variates_stays_zero_whoever_stays_away():
    algorithm, every = make(), cohort()
    server, clients = begun(algorithm)
    step = jax.jit(algorithm.round)
    for i in range(12):
        active = jnp.arange(3) != i % 4
        here = every._replace(clients=every.clients._replace(active=active))
        before = clients
        server, clients, info = step(jax.random.key(i), server, clients, here)
        total = SHARES @ clients.control["w"] + server.control["w"]
        np.testing.assert_allclose(total, 0, atol=2e-5)
        for old, new in zip(before, clients, strict=True):
            away = ~np.asarray(active)
            np.testing.assert_array_equal(old["w"][away], new["w"][away])
        assert info.traffic["uplink"].spoke.tolist() == active.tolist()
        assert info.traffic["downlink"].spoke.all()
    assert np.abs(server.control["w"]).max() > 0.1


def test_a_round_of_nobody_says_nothing_and_moves_the_model_by_its_control_alone():
    algorithm, every = make(), cohort()
    server, clients = begun(algorithm)
    server = server._replace(control={"w": jnp.ones(SIZE)})
    nobody = every.clients._replace(active=jnp.zeros(3, bool))
    after, kept, info = jax.jit(algorithm.round)(
        jax.random.key(0), server, clients, every._replace(clients=nobody)
    )
    y = np.zeros(SIZE)
    for _ in range(int(info.observed["local_steps"].value)):
        y = y - RATE * (CURVATURE * y - 1)
    np.testing.assert_allclose(after.params["w"], y, rtol=1e-5)
    np.testing.assert_array_equal(after.control["w"], server.control["w"])
    np.testing.assert_array_equal(kept.params["w"], clients.params["w"])
    for traffic in info.traffic.values():
        assert not traffic.spoke.any()


def test_messages_are_what_the_compressor_makes_and_the_mean_is_dense():
    algorithm = make(random_k(k=1), omega=2.0)
    server, clients = begun(algorithm)
    _, _, info = jax.jit(algorithm.round)(jax.random.key(0), server, clients, cohort())
    up, down = (info.traffic[kind].bits for kind in ("uplink", "downlink"))
    assert message_bits(down) == 32 * SIZE
    assert message_bits(up) == 32


@pytest.mark.thorough
def test_less_than_half_the_bits_up_of_scaffnew():
    # Curvatures from 1 / 400 to 1, each with the probability of its theorem.
    count, size, kappa, accuracy = 20, 40, 400, 1e-3
    draw = np.random.default_rng(0)
    curves = kappa ** -draw.uniform(0, 1, size=(count, size)).astype(np.float32)
    curves[:, :2] = 1 / kappa, 1
    targets = draw.normal(size=(count, size)).astype(np.float32)
    best = (curves * targets).sum(axis=0) / curves.sum(axis=0)
    both = jnp.asarray(np.stack([curves, targets], axis=1))
    common = {"client_optimizer": optax.sgd(1.0), "population": count}
    omega = 1 / 8
    ours = (1 + omega) * (1 + omega / count) / (2 * kappa)
    bits = []
    for name, p in ((scaffnew, kappa**-0.5), (locodl, ours**0.5)):
        own = {
            "uplink": natural_compression(),
            "omega": omega,
            "curvature": 0.5 / kappa,
        }
        algorithm = name(
            diagonals(), **common, probability=p, **(own if name is locodl else {})
        )
        each = cohort(
            np.ones(count), np.zeros((count, size)), [1] * count, round(5 / p)
        )
        each = each._replace(examples=Examples(both, each.examples.y))
        models, _, _ = run(algorithm, each, 250, range(4))
        far = np.linalg.norm(models - best, axis=-1) > accuracy * np.linalg.norm(best)
        assert not far[:, -1].any()
        rounds = np.mean([1 + np.flatnonzero(one)[-1] for one in far])
        bits.append(rounds * size * (9 if name is locodl else 32))
    assert bits[1] < bits[0] / 2


def test_without_loss_and_with_a_coin_that_never_fails_two_halves_are_averaged():
    # rho = 1: all models become the mean of y and of the clients' mean, each of which
    # took a step of gradient descent on its half of the loss.
    algorithm = make(identity(), omega=0.0, probability=1.0, curvature=0.0)
    w, v, expected = np.zeros(SIZE), np.zeros(SIZE), []
    u = np.zeros((3, SIZE))
    for _ in range(5):
        x, y = w - RATE * (CURVES[:, None] * (w - TARGETS) - u), w + RATE * v
        w = (SHARES @ x + y) / 2
        u, v = u + (w - x) / RATE, v + (w - y) / RATE
        expected.append(w)
    models, _, _ = run(algorithm, cohort(), 5)
    np.testing.assert_allclose(models, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omega": -1.0}, r"omega=-1.0 in \[0.0, inf\)"),
        ({"omega": float("nan")}, "omega=nan"),
        ({"curvature": 5.0}, r"curvature=5.0 in \[0.0, 4.99"),
        ({"probability": 0.0}, "probability=0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(random_k(0.5), **options)


def test_an_uplink_with_memory_is_refused():
    with pytest.raises(ValueError, match=r"without memory as the uplink of locodl\(\)"):
        begun(make(error_feedback(top_k(0.5))))
