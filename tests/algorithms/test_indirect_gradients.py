"""Indirect gradients: exact factors are the gradient, and coarse ones are unbiased."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.indirect_gradients import factor_link, indirect_gradients
from fedjax_comp.algorithms.links.dense_factors import (
    dense_layers,
    factors_of,
    gradient_of,
)
from fedjax_comp.base import Examples
from fedjax_comp.compress import (
    error_feedback,
    identity,
    random_k,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.models import classification, cnn, mlp
from fedjax_comp.wire.traffic import totals
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort, softmax_task

TASK = classification(mlp(4)(NUM_CLASSES), input_shape=(NUM_FEATURES,))
PARAMS = TASK.init(jax.random.key(1))
KEY = jax.random.key(9)
COHORT = make_cohort([4, 3], batch_size=4)


def make(factors=None, task=TASK, **parts):
    return indirect_gradients(
        task,
        factors=identity() if factors is None else factors,
        optimizer=optax.sgd(1.0),
        **parts,
    )


def stepped(algorithm, key=0, cohort=COHORT, params=PARAMS):
    server, clients = algorithm.init(jax.random.key(2), params)
    server, _, info = jax.jit(algorithm.round)(
        jax.random.key(key), server, clients, cohort
    )
    return algorithm.params(server), info


def assert_close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_factors_against_backpropagation_by_hand():
    x, y = np.asarray(COHORT.examples.x[:4]), np.asarray(COHORT.examples.y[:4])
    mask = np.array([True, True, False, True])
    batch = Examples(jnp.asarray(x), jnp.asarray(y))
    loss, found = factors_of(TASK, PARAMS, batch, jnp.asarray(mask), KEY)
    first, second = jax.tree.map(np.asarray, (PARAMS["Dense_0"], PARAMS["Dense_1"]))
    x = x * mask[:, None]  # a masked row never meets the model
    hidden = x @ first["kernel"] + first["bias"]
    active = np.maximum(hidden, 0)
    logits = active @ second["kernel"] + second["bias"]
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (chance - np.eye(NUM_CLASSES)[y]) * mask[:, None] / mask.sum()
    back = (error @ second["kernel"].T) * (hidden > 0)
    assert_close(found.inputs, (x, active))
    assert_close(found.errors, (back, error))
    assert found.rest == ()
    assert loss == pytest.approx(-np.log(chance[mask, y[mask]]).mean(), abs=1e-6)


@pytest.mark.parametrize("model", [mlp(4, 4), cnn((2,), hidden=4)], ids=["mlp", "cnn"])
def test_exact_factors_are_the_gradient(model):
    """Of a model with other parameters, too, and of images."""
    task = classification(model(3), input_shape=(8, 8, 1))
    params = task.init(jax.random.key(0))
    batch = Examples(
        jax.random.normal(jax.random.key(1), (5, 8, 8, 1)), jnp.arange(5) % 3
    )
    mask = jnp.array([True, True, True, False, True])
    layers = dense_layers(task, params, batch, mask)
    loss, found = factors_of(task, params, batch, mask, KEY)
    made = gradient_of(found, layers, params)
    value, true = jax.value_and_grad(task.loss)(params, batch, mask, KEY)
    assert jax.tree.structure(made) == jax.tree.structure(true)
    assert_close((loss, made), (value, true), atol=1e-5)


@pytest.mark.thorough
def test_many_levels_come_to_distributed_sgd():
    averaged = fed_avg(
        TASK, client_optimizer=optax.sgd(1.0), server_optimizer=optax.sgd(1.0)
    )
    server, client = averaged.init(jax.random.key(2), PARAMS)
    after, _, _ = averaged.round(
        jax.random.key(0), server, jax.tree.map(lambda x: x[None], client), COHORT
    )
    expected = averaged.params(after)
    exact, _ = stepped(make())
    assert_close(exact, expected, atol=1e-6)

    def error(levels):
        got, _ = stepped(make(stochastic_quantize(levels)))
        return float(optax.tree.norm(optax.tree.sub(got, expected)))

    errors = [error(levels) for levels in (17, 257, 65536)]
    # An error of a step of both factors: 16 times the levels, about a 16th of it.
    assert errors[0] > 4 * errors[1] > 64 * errors[2]
    assert errors[2] < 1e-4


def test_bits_are_those_of_a_batch():
    """16 levels and two ends a leaf; the model is heard by both."""
    _, info = stepped(make(stochastic_quantize(16)))
    numbers = 4 * (NUM_FEATURES + 4 + 4 + NUM_CLASSES)
    sent = totals(info.traffic)
    assert sent.uplink_bits == 2 * (4 * numbers + 4 * 64)
    size = sum(x.size for x in jax.tree.leaves(PARAMS))
    assert sent.downlink_bits == 2 * 32 * size


@pytest.mark.thorough
def test_messages_pass_through_bytes():
    parts = {"factors": stochastic_quantize(4), "rest": random_k(0.5)}
    task = classification(cnn((2,), hidden=4)(3), input_shape=(4, 4, 1))
    params = task.init(jax.random.key(1))
    cohort = COHORT._replace(
        examples=Examples(
            jax.random.normal(jax.random.key(3), (7, 4, 4, 1)), jnp.arange(7) % 3
        )
    )
    algorithm = make(task=task, keep_messages=True, **parts)
    _, info = stepped(algorithm, cohort=cohort, params=params)
    found = make_auditor(factor_link(**parts))(info.messages["uplink"])
    assert found.audited == 2
    assert not found.failures


DRAWS = 40_000


def estimates():
    """Mean, variance and true value of the estimate, each a vector `[39]`."""
    cohort = make_cohort([6], batch_size=6)
    algorithm = make(stochastic_quantize(3))
    server, clients = algorithm.init(jax.random.key(2), PARAMS)

    def one(i):
        key = jax.random.fold_in(jax.random.key(5), i)
        after, _, _ = algorithm.round(key, server, clients, cohort)
        step = optax.tree.sub(PARAMS, algorithm.params(after))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step)])

    run = jax.jit(lambda i: jax.lax.map(one, i, batch_size=10_000))
    drawn = np.asarray(run(jnp.arange(DRAWS)), np.float64)
    true = jax.grad(TASK.loss)(PARAMS, cohort.examples, jnp.ones(6, bool), KEY)
    true = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(true)])
    return drawn.mean(0), drawn.var(0, ddof=1), true


def is_unbiased(mean, variance, true):
    """Within 6 standard errors in all 39 coordinates: false alarm below 1e-6."""
    bound = 6 * np.sqrt(variance / DRAWS) + 1e-6
    return bool((np.abs(mean - true) < bound).all())


def test_independent_roundings_are_unbiased():
    assert is_unbiased(*estimates())


def test_a_planted_fault_is_found(monkeypatch):
    """One key for both factors: their roundings are no longer independent."""
    module = sys.modules[indirect_gradients.__module__]
    monkeypatch.setattr(module, "fold_context", lambda context, index: context)
    assert not is_unbiased(*estimates())


def test_what_has_no_factors_or_a_memory_is_refused():
    params = softmax_task().init(jax.random.key(0))
    with pytest.raises(ValueError, match="flax Dense layer"):
        stepped(make(task=softmax_task()), params=params)
    with pytest.raises(ValueError, match="without memory as a part of indirect"):
        stepped(make(error_feedback(top_k(0.5))))
