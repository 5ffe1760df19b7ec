"""Zeroth-order federated descent: against NumPy, its limits, its bytes, its replay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_zeroth_order
from fedjax_comp.algorithms.fed_zeroth_order import missed, zeroth_order_links
from fedjax_comp.base import Examples
from fedjax_comp.client.zeroth_order import (
    coordinates,
    gaussian,
    replay,
    signs,
    zeroth_order_steps,
)
from fedjax_comp.compress import error_feedback, identity, stochastic_quantize, top_k
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.models import classification, linear, mlp
from fedjax_comp.server.aggregate import share
from fedjax_comp.wire.traffic import bytes_by_client, totals
from tests.algorithms.test_scaffold import CURVES, SIZE, STEPS, TARGETS
from tests.algorithms.test_scaffold import cohort as three_clients
from tests.algorithms.test_soundness import pull_task, pulled
from tests.algorithms.test_soundness import run as soundly
from tests.problems import make_cohort, quadratics, stack_clients

RATE, WEIGHTS = 0.1, np.array([2.0, 1.0, 3.0])


def cohort():
    found = three_clients()
    weights = jnp.asarray(WEIGHTS, jnp.int32)
    return found._replace(clients=found.clients._replace(num_examples=weights))


def make(rate=RATE, **options):
    own = {"directions": 2, "smoothing": 0.05, **options}
    return fed_zeroth_order(quadratics(SIZE), client_optimizer=optax.sgd(rate), **own)


def keys_of(count):
    return [jax.random.key(30 + i) for i in range(count)]


def run(algorithm, each, rounds, start=0.5):
    """Models after each round, what was observed, and both states."""
    params = {"w": jnp.full(SIZE, start)}
    server, client = algorithm.init(jax.random.key(0), params)
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)
    models, infos = [], []
    for key in keys_of(rounds):
        server, clients, info = step(key, server, clients, each)
        assert int(info.dropped) == 0
        models.append(np.asarray(algorithm.params(server)["w"]))
        infos.append(info)
    return np.stack(models), infos, server, clients


@functools.cache
def plain():
    """Three rounds of forward differences."""
    return run(make(), cohort(), 3)


def direction_key(key):
    """That of a round's directions."""
    return jax.random.split(key, 3)[2]


@pytest.mark.parametrize("central", [False, True])
def test_it_is_its_algorithm_in_numpy(central):
    count, mu, rounds = 2, 0.05, 3
    models, infos, _, _ = (
        run(make(central=True), cohort(), rounds) if central else plain()
    )

    @jax.jit
    def drawn(key):
        def one(k, p):
            own = jax.random.fold_in(direction_key(key), k)
            return gaussian()(own, p, {"w": jnp.zeros(SIZE)})["w"]

        each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        return each(jnp.arange(STEPS), jnp.arange(count))

    def f(i, x):
        return CURVES[i] / 2 * ((x - TARGETS[i]) ** 2).sum()

    w, shares = np.full(SIZE, 0.5), WEIGHTS / WEIGHTS.sum()
    for r, key in enumerate(keys_of(rounds)):
        z, mean = np.asarray(drawn(key), float), np.zeros((STEPS, count))
        for i in range(3):
            x, g = w.copy(), np.zeros((STEPS, count))
            for k in range(STEPS):
                for p in range(count):
                    ahead, behind = f(i, x + mu * z[k, p]), f(i, x - mu * z[k, p])
                    g[k, p] = (ahead - f(i, x)) / mu
                    if central:
                        g[k, p] = (ahead - behind) / (2 * mu)
                x = x - RATE / count * g[k] @ z[k]
            mean += shares[i] * g
        w = w - RATE / count * np.einsum("kp,kpn->n", mean, z)
        np.testing.assert_allclose(models[r], w, rtol=1e-3, atol=1e-4)
    losses = (2 if central else 1) * count + (not central)
    for info in infos:
        assert int(info.observed["evaluations"].value) == 3 * STEPS * losses
        assert int(info.client_steps) == 3 * STEPS


def test_all_coordinates_of_a_step_are_gradient_descent():
    # Central differences of a quadratic are exact, at any mu.
    options = {"draw": coordinates(), "central": True, "smoothing": 0.5}
    w, shares, expected = np.full(SIZE, 0.5), WEIGHTS / WEIGHTS.sum(), []
    for _ in range(4):
        x = np.tile(w, (3, 1))
        for _ in range(STEPS):
            x = x - RATE * CURVES[:, None] * (x - TARGETS)
        w = shares @ x
        expected.append(w)
    models, _, _, _ = run(make(directions=SIZE, **options), cohort(), 4)
    np.testing.assert_allclose(models, expected, rtol=1e-4, atol=1e-5)
    fewer, _, _, _ = run(make(directions=SIZE - 1, **options), cohort(), 4)
    assert np.abs(fewer - expected).max() > 0.02


def test_the_mean_of_numbers_is_the_mean_of_models():
    each, key = cohort(), keys_of(1)[0]
    walk = zeroth_order_steps(
        quadratics(SIZE), rate=RATE, draw=gaussian(), directions=2, smoothing=0.05
    )
    start = {"w": jnp.full(SIZE, 0.5)}
    walked = jax.jit(jax.vmap(walk, (None, None, None, 0)))(
        start, direction_key(key), each.examples, each.clients
    )
    own = np.asarray(walked.params["w"], float)
    models = plain()[0]
    np.testing.assert_allclose(models[0], WEIGHTS @ own / WEIGHTS.sum(), atol=1e-5)
    assert np.ptp(own, axis=0).min() > 0.01


@pytest.mark.parametrize("model", [linear(), mlp(16, 16)])
def test_bytes_do_not_know_the_model(model):
    task = classification(model(3), input_shape=(5,))
    algorithm = fed_zeroth_order(
        task, client_optimizer=optax.sgd(0.01), directions=3, kept=18
    )
    each = make_cohort([6, 3, 9], batch_size=3)
    steps = each.clients.rows.shape[1]
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)
    one = 4 * steps * 3  # a number is four bytes
    for i, key in enumerate(keys_of(3)):
        server, clients, info = step(key, server, clients, each)
        found = totals(info.traffic)
        assert found.uplink_bytes == 3 * one
        # Nothing is missed before the first round, and one round before each other.
        assert found.downlink_bytes == (3 * one if i else 0)
        assert found.downlink_messages == (3 if i else 0)


AWAY = np.array(
    [
        # Rounds in which each of four clients is active.
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 1, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
    ],
    bool,
)


def returning(size, kept, draw=None, rounds=AWAY.shape[1]):
    """A run of four clients who come and go: infos, and the model before each round."""
    clients = make_cohort([1] * 4, batch_size=1, epochs=2).clients
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(4, size)), jnp.float32)
    examples = Examples(x, jnp.asarray([0.3, 1.0, 2.0, 0.7]))
    algorithm = fed_zeroth_order(
        quadratics(SIZE),
        client_optimizer=optax.sgd(0.02),
        directions=2,
        draw=signs() if draw is None else draw,
        kept=kept,
        keep_messages=True,
    )
    server, client = algorithm.init(jax.random.key(0), {"w": jnp.full(size, 0.1)})
    states, step = stack_clients(client, 4), jax.jit(algorithm.round)
    models, infos = [server.params], []
    each = make_cohort([1] * 4, batch_size=1, epochs=2)._replace(examples=examples)
    for i in range(rounds):
        active = clients._replace(active=jnp.asarray(AWAY[:, i]))
        key = jax.random.key(50 + i)
        server, states, info = step(key, server, states, each._replace(clients=active))
        models.append(server.params)
        infos.append(info)
    return infos, models


@pytest.mark.parametrize(
    ("size", "kept", "most"),
    [
        (90, 4 * 5, 5),  # rounds of 4 numbers, 5 kept
        (90, 4 * 3 + 3, 3),
        (11, 4 * 9, 2),  # 3 rounds are longer than the model
    ],
)
def test_who_returns_pays_for_what_it_missed_and_at_most_for_the_model(
    size, kept, most
):
    infos, _ = returning(size, kept)
    heard, whole, several = np.zeros(4, int), 0, 0
    for i, info in enumerate(infos):
        expected = [None] * 4
        for client in np.flatnonzero(AWAY[:, i]):
            away = i - heard[client]
            whole += away > most
            several += 1 < away <= most
            if away:
                expected[client] = 4 * size if away > most else 16 * away
            heard[client] = i
        found = bytes_by_client(info.traffic, 4)
        assert found.received == expected
        assert found.sent == [16 if active else None for active in AWAY[:, i]]
    assert whole > 0
    assert several > 0


def test_a_client_rebuilds_the_model_to_the_bit_from_its_messages_alone():
    infos, models = returning(90, 4 * 4)
    links = zeroth_order_links(identity())
    audits = {kind: make_auditor(link) for kind, link in links.items()}
    again = jax.jit(
        lambda params, key, scalars: (
            replay(params, direction_key(key), scalars, rate=0.02, draw=signs()).params
        )
    )
    own, heard, audited = [models[0]] * 4, [0] * 4, {"downlink": 0, "models": 0}
    for i, info in enumerate(infos):
        kept = info.messages
        for kind in audited:
            audit = audits[kind](kept[kind])
            assert not audit.failures
            audited[kind] += audit.audited
        sent = np.asarray(info.traffic["downlink"].spoke).reshape(4, -1)
        for client in np.flatnonzero(AWAY[:, i]):
            for age in reversed(np.flatnonzero(sent[client])):
                number = i - 1 - age
                assert number == heard[client]
                scalars = kept["downlink"].payload[age]
                own[client] = again(own[client], jax.random.key(50 + number), scalars)
                heard[client] += 1
            if info.traffic["models"].spoke[client]:
                assert not sent[client].any()
                own[client] = jax.tree.map(lambda x: x[0], kept["models"].payload)
                heard[client] = i
            np.testing.assert_array_equal(own[client]["w"], models[i]["w"])
            assert heard[client] == i
    assert min(audited.values()) > 0
    assert np.abs(models[-1]["w"] - models[-2]["w"]).min() > 1e-5


def test_who_lacks_what_is_told_what():
    told = missed(
        jnp.array([0, 1, 3, 4, 3]),
        jnp.array([True, True, True, True, False]),
        most=4,
        sensible=3,
    )
    assert told.rounds.sum(axis=1).tolist() == [0, 1, 3, 0, 0]
    assert told.model.tolist() == [False, False, False, True, False]


def test_a_rate_of_the_round_is_in_the_numbers():
    each = cohort()
    half = each.clients._replace(rate=jnp.full(3, 0.5))
    models, infos, _, _ = run(make(rate=2 * RATE), each._replace(clients=half), 2)
    np.testing.assert_allclose(models, plain()[0][:2], rtol=1e-6)
    assert infos[0].traffic["uplink"].spoke.all()


def test_the_server_steps_along_what_it_decoded():
    each, up = cohort(), stochastic_quantize(levels=3, rounding="nearest")
    models, infos, _, _ = run(make(uplink=up, keep_messages=True), each, 1)
    used = infos[0].messages["uplink"].used
    mean = jnp.einsum("i,ikp->kp", share(each.clients.num_examples), used)
    mean = mean / jnp.sum(share(each.clients.num_examples))
    key = direction_key(keys_of(1)[0])
    steps = jax.jit(lambda x: replay(x, key, mean, rate=RATE, draw=gaussian()).params)
    there = steps({"w": jnp.full(SIZE, 0.5)})
    np.testing.assert_allclose(models[0], there["w"], rtol=1e-5)
    assert np.abs(models[0] - plain()[0][0]).max() > 1e-3


def test_a_step_to_what_is_not_finite_drops_everyone():
    algorithm = fed_zeroth_order(
        pull_task(), client_optimizer=optax.sgd(1e3), directions=1, smoothing=1.0
    )
    for pull, dropped in ((1.0, 0), (1e37, 2)):
        after, _, info = soundly(algorithm, pulled([pull, pull], [1, 1]))
        assert int(info.dropped) == dropped
        assert (np.abs(algorithm.params(after)).max() == 0) == bool(dropped)
        assert info.traffic["uplink"].spoke.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 0}, "directions=0 >= 1"),
        ({"smoothing": 0.0}, "smoothing=0.0"),
        ({"kept": 0}, "kept=0 >= 1"),
        ({"draw": signs}, r"function of 3 arguments, not signs; .* signs\(...\)"),
        ({"uplink": top_k}, "uplink .* not top_k; write it as a call"),
    ],
)
def test_arguments_out_of_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1), optax.sgd(0.0)]
)
def test_an_optimizer_that_is_not_plain_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"plain .* fed_zeroth_order\(\), whose"):
        fed_zeroth_order(quadratics(SIZE), client_optimizer=optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kept": 7},
            "kept=7 >= 8, .* 4 local steps with directions=2: make it kept=8",
        ),
        ({"uplink": error_feedback(top_k(k=1))}, "without memory as the uplink of"),
    ],
)
def test_a_round_refuses_what_its_shapes_tell(options, message):
    algorithm = make(**options)
    server, client = algorithm.init(jax.random.key(0), {"w": jnp.zeros(SIZE)})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            algorithm.round,
            jax.random.key(0),
            server,
            stack_clients(client, 3),
            cohort(),
        )
