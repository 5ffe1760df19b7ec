"""Optimal sampling: the paper's chances, no bias, a smaller variance, what travels."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, optimal_sampling
from fedjax_comp.algorithms.optimal_sampling import chance_factor
from fedjax_comp.base import Examples
from fedjax_comp.wire.accounting import message_bits
from tests.problems import make_cohort, quadratics, stack_clients

SIZE, CLIENTS, RATE = 3, 6, 0.5
# One client is far from the rest, which is what sampling by length is for.
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)).astype(np.float32)
TARGETS[4] *= 20


def cohort(targets=TARGETS):
    found = make_cohort([1] * CLIENTS, batch_size=1)
    return found._replace(examples=Examples(jnp.asarray(targets), jnp.ones(CLIENTS)))


def make(expected, **options):
    return optimal_sampling(
        quadratics(SIZE), client_optimizer=optax.sgd(RATE), expected=expected, **options
    )


def steps(algorithm, draws, cohort):
    """What one round from the same state makes of the model, for many keys."""
    server, client = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    clients = stack_clients(client, CLIENTS)

    def one(key):
        after, _, info = algorithm.round(key, server, clients, cohort)
        return algorithm.params(after)["w"], info

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws))


@pytest.mark.parametrize("expected", [1.0, 2.0, 3.5])
def test_chances_are_the_best_there_are(expected):
    u = np.array([3.0, 1.0, 0.5, 8.0, 0.0, 2.0], np.float32)
    p = np.minimum(1, float(chance_factor(jnp.asarray(u), expected)) * u)
    assert p[4] == 0
    np.testing.assert_allclose(p.sum(), expected, rtol=1e-5)
    known = u > 0
    best = np.sum(u[known] ** 2 / p[known])
    # No chances of the same sum on a grid do better (the variance but a constant).
    for steps in itertools.product(np.linspace(0.05, 1, 9), repeat=4):
        last = expected - sum(steps)
        if 0 < last <= 1:
            q = np.array([*steps, last])
            assert np.sum(u[known] ** 2 / q) >= best * (1 - 1e-5)


def test_everyone_speaks_where_as_many_are_expected():
    after, info = steps(make(CLIENTS), 3, cohort())
    assert (np.asarray(info.observed["updates_sent"].value) == CLIENTS).all()
    plain, _ = steps(
        fed_avg(quadratics(SIZE), client_optimizer=optax.sgd(RATE)), 3, cohort()
    )
    np.testing.assert_allclose(after, plain, rtol=1e-5)


def test_the_step_is_unbiased_as_many_speak_and_its_variance_is_smaller():
    draws, expected = 20_000, 2.0
    after, info = steps(make(expected), draws, cohort())
    after = np.asarray(after, np.float64)
    full, _ = steps(
        fed_avg(quadratics(SIZE), client_optimizer=optax.sgd(RATE)), 1, cohort()
    )
    updates = RATE * TARGETS.astype(np.float64) / CLIENTS
    lengths = np.linalg.norm(updates, axis=1)
    chances = np.minimum(
        1, float(chance_factor(jnp.asarray(lengths), expected)) * lengths
    )
    variance = (updates**2 * ((1 - chances) / chances)[:, None]).sum(0)
    # Bernstein, at 1e-8 for each of the coordinates and the number of speakers.
    log, most = math.log(2e8), (abs(updates) / chances[:, None]).max()
    bound = np.sqrt(2 * variance * log / draws) + 2 * CLIENTS * most * log / (3 * draws)
    assert (abs(after.mean(0) - np.asarray(full[0])) < bound).all()
    speakers = np.asarray(info.observed["updates_sent"].value)
    assert abs(speakers.mean() - expected) < CLIENTS * math.sqrt(log / (2 * draws))
    # The same number drawn uniformly.
    uniform = (updates**2 * (CLIENTS / expected - 1)).sum()
    assert after.var(0).sum() < 0.1 * uniform
    np.testing.assert_allclose(after.var(0).sum(), variance.sum(), rtol=0.1)


def test_speakers_pay_for_their_updates_and_all_for_a_number_each_way():
    _, info = steps(make(1.0), 1, cohort())
    kinds = jax.tree.map(lambda x: x[0], info.traffic)
    assert message_bits(kinds["uplink"].bits) == 32 * SIZE
    assert int(kinds["uplink"].spoke.sum()) == int(
        info.observed["updates_sent"].value[0]
    )
    for name in ("norms", "chances"):
        assert message_bits(kinds[name].bits) == 32
        assert kinds[name].spoke.all()


def test_a_client_that_breaks_is_left_out_once():
    targets = TARGETS.copy()
    targets[2] = np.inf
    after, info = steps(make(CLIENTS), 1, cohort(targets))
    assert int(info.dropped[0]) == 1
    rest = np.delete(TARGETS, 2, axis=0)
    np.testing.assert_allclose(after[0], RATE * rest.mean(0), rtol=1e-4)


def test_less_than_one_is_refused():
    with pytest.raises(ValueError, match=r"expected=0\.5"):
        make(0.5)
