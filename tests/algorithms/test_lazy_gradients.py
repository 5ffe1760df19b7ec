"""Lazy gradients against NumPy, their limit cases, and what they are to save."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.lazy_gradients import lazy_gradients, lazy_links
from fedjax_comp.base import Task
from fedjax_comp.compress import (
    error_feedback,
    flattened,
    identity,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

SIZE, CLIENTS, ROUNDS, RATE = 6, 4, 40, 0.3
CURVATURES = np.linspace(0.2, 1.5, CLIENTS)
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, SIZE))
LEVELS = 16
COHORT = make_cohort([1] * CLIENTS, batch_size=1)
EYE = COHORT._replace(
    examples=COHORT.examples._replace(x=jnp.eye(CLIENTS, dtype=jnp.float32))
)


def quadratics():
    """Client `i`, known by its row of the identity, has h_i/2 ||w - target_i||^2."""
    curvatures, targets = jnp.float32(CURVATURES), jnp.float32(TARGETS)

    def loss(w, examples, mask, key):
        own = examples.x[0]
        away = w - own @ targets
        return 0.5 * jnp.vdot(own, curvatures) * jnp.sum(away**2)

    return Task(lambda key: jnp.zeros(SIZE), loss, None)


def run(algorithm, task, cohort, rounds):
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step, models, infos = jax.jit(algorithm.round), [], []
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        models.append(algorithm.params(server))
        infos.append(info)
    return models, infos


def to_grid(x):
    low, step = x.min(), np.ptp(x) / (LEVELS - 1)
    return low + step * np.round((x - low) / step) if step else x


def by_hand(xi, max_silence, grid=to_grid):
    """The algorithm, client by client, in float64."""
    w, heard = np.zeros(SIZE), np.zeros((CLIENTS, SIZE))
    left, silence = np.zeros(CLIENTS), np.full(CLIENTS, 10**9)
    lengths, models, spoke = [0.0] * len(xi), [], []
    for _ in range(ROUNDS):
        for i in range(CLIENTS):
            gradient = CURVATURES[i] * (w - TARGETS[i])
            news = grid(gradient - heard[i])
            error = np.sum((gradient - heard[i] - news) ** 2)
            bound = np.dot(xi, lengths) + 3 * (error + left[i])
            silence[i] += 1
            if np.sum(news**2) > bound or silence[i] > max_silence:
                heard[i], left[i], silence[i] = heard[i] + news, error, 0
        spoke.append(silence == 0)
        lengths = [np.sum(heard.mean(0) ** 2), *lengths[:-1]]
        w = w - RATE * heard.mean(0)
        models.append(w)
    return models, np.array(spoke)


ROUNDED = flattened(stochastic_quantize(LEVELS, rounding="nearest"))


@pytest.mark.parametrize(
    ("uplink", "grid"),
    [(None, lambda x: x), (ROUNDED, to_grid)],
    ids=["LAG", "LAQ"],
)
def test_quadratics_against_numpy(uplink, grid):
    xi, silence = (0.3, 0.2, 0.1), 7
    algorithm = lazy_gradients(
        quadratics(),
        optimizer=optax.sgd(RATE),
        uplink=uplink,
        weights=xi,
        max_silence=silence,
    )
    got, infos = run(algorithm, quadratics(), EYE, ROUNDS)
    expected, spoke = by_hand(xi, silence, grid)
    sent = np.array([np.asarray(i.traffic["uplink"].spoke) for i in infos])
    # Later on both decide by what float32 makes of differences near nothing.
    first = 15
    np.testing.assert_array_equal(sent[:first], spoke[:first])
    np.testing.assert_allclose(got[first - 1], expected[first - 1], atol=1e-5)
    assert 0.2 < sent.mean() < 0.8
    # What is saved costs little: descent itself has come no nearer than a thousandth.
    best = (CURVATURES @ TARGETS) / CURVATURES.sum()
    assert np.linalg.norm(got[-1] - best) < 1e-2 * np.linalg.norm(best)


def test_no_silence_is_distributed_descent():
    task, cohort = softmax_task(), make_cohort([4, 3], batch_size=4)
    server_optimizer = optax.sgd(0.3, momentum=0.9)
    every = lazy_gradients(task, optimizer=server_optimizer, max_silence=0)
    newsy = lazy_gradients(task, optimizer=server_optimizer, weights=(0.0,))
    averaged = fed_avg(
        task, client_optimizer=optax.sgd(1.0), server_optimizer=server_optimizer
    )
    expected, _ = run(averaged, task, cohort, 5)
    for algorithm in (every, newsy):
        got, infos = run(algorithm, task, cohort, 5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
            got[-1],
            expected[-1],
        )
        assert [bool(i.observed["full"].value) for i in infos] == [True] * 5


def test_infinite_weights_of_the_past_leave_the_first_gradients():
    """The other limit: nobody speaks again, and the model goes on along what it had."""
    task, cohort = softmax_task(), make_cohort([4, 3], batch_size=4)
    algorithm = lazy_gradients(task, optimizer=optax.sgd(0.1), weights=(1e9,))
    models, infos = run(algorithm, task, cohort, 4)
    assert [int(i.observed["members"].value) for i in infos] == [2, 0, 0, 0]
    steps = [optax.tree.sub(b, a) for a, b in itertools.pairwise(models)]
    jax.tree.map(lambda *s: np.testing.assert_allclose(s[0], s[-1], atol=1e-6), *steps)


def test_bytes_are_those_of_who_spoke():
    task, cohort = softmax_task(), make_cohort([4, 3], batch_size=4)
    algorithm = lazy_gradients(
        task, optimizer=optax.sgd(0.1), uplink=ROUNDED, keep_messages=True
    )
    _, infos = run(algorithm, task, cohort, 6)
    spoke = [int(i.observed["members"].value) for i in infos]
    assert spoke[0] == 2
    assert sum(spoke) < 12
    for info, count in zip(infos, spoke, strict=True):
        sent = totals(info.traffic)
        # 18 numbers of 4 bits and two ends up; the model and one number down.
        assert sent.uplink_bits == count * (18 * 4 + 64)
        assert sent.downlink_bits == 2 * 32 * (18 + 1)
    links = lazy_links(ROUNDED, identity())
    for kind, link in links.items():
        found = make_auditor(link)(infos[0].messages[kind])
        assert found.audited == (2 if kind == "uplink" else 1)
        assert not found.failures


def test_mistakes():
    with pytest.raises(ValueError, match=r"weights=\(\)"):
        lazy_gradients(softmax_task(), optimizer=optax.sgd(0.1), weights=())
    with pytest.raises(ValueError, match="max_silence=-1"):
        lazy_gradients(softmax_task(), optimizer=optax.sgd(0.1), max_silence=-1)
    with pytest.raises(ValueError, match="as the uplink of lazy_gradients"):
        lazy_gradients(
            softmax_task(), optimizer=optax.sgd(0.1), uplink=error_feedback(top_k(0.5))
        ).init(jax.random.key(0), softmax_task().init(jax.random.key(1)))
