"""Regression: NumPy's least squares, its metrics, masked rows, and a federated fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from fedjax_comp.algorithms import fed_avg
from fedjax_comp.base import Examples
from fedjax_comp.execution import scanned
from fedjax_comp.models.mlp import mlp
from fedjax_comp.models.regression import regression
from fedjax_comp.training import evaluation_program
from tests.problems import make_cohort, stack_clients

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3 + 0.1 * RNG.normal(size=30)).astype(
    np.float32
)
TASK = regression(nn.Dense(1), input_shape=(4,), within=0.5)
KEY = jax.random.key(0)


def test_metrics_are_those_of_numpy():
    params = TASK.init(KEY)
    found = jax.jit(evaluation_program(TASK, scanned(), batch_size=7))(
        params, Examples(jnp.asarray(X), jnp.asarray(Y))
    )
    errors = Y - (X @ np.asarray(params["kernel"]))[:, 0]
    expected = {
        "rmse": np.sqrt((errors**2).mean()),
        "absolute_error": abs(errors).mean(),
        "r_squared": 1 - (errors**2).mean() / Y.var(),
    }
    assert found.others.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found.others[name], value, rtol=1e-4)
    np.testing.assert_allclose(found.loss, (errors**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, (abs(errors) <= 0.5).mean())


def test_masked_rows_count_for_nothing_and_its_gradient_is_numpys():
    params = TASK.init(KEY)
    x = jnp.asarray(X).at[20:].set(jnp.inf)
    mask = jnp.arange(30) < 20
    loss, grads = jax.value_and_grad(TASK.loss)(
        params, Examples(x, jnp.asarray(Y).at[20:].set(jnp.nan)), mask, KEY
    )
    errors = (X @ np.asarray(params["kernel"]))[:20, 0] - Y[:20]
    np.testing.assert_allclose(loss, (errors**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        grads["kernel"][:, 0], 2 * errors @ X[:20] / 20, rtol=1e-4, atol=1e-6
    )


def test_federated_averaging_finds_the_least_squares():
    cohort = make_cohort([30], batch_size=30)
    cohort = cohort._replace(examples=Examples(jnp.asarray(X), jnp.asarray(Y)))
    algorithm = fed_avg(TASK, client_optimizer=optax.sgd(0.2))
    server, client = algorithm.init(KEY, TASK.init(KEY))
    clients, step = stack_clients(client, 1), jax.jit(algorithm.round)
    for i in range(100):
        server, clients, _ = step(jax.random.key(i), server, clients, cohort)
    best, *_ = np.linalg.lstsq(np.c_[X, np.ones(30)], Y, rcond=None)
    params = algorithm.params(server)
    found = np.append(params["kernel"][:, 0], params["bias"])
    np.testing.assert_allclose(found, best, atol=1e-3)


@pytest.mark.parametrize("centre", [0.0, 20.0, 2000.0])
def test_a_variance_that_float32_cannot_tell_is_not_told(centre):
    z = RNG.normal(size=(5000, 1)).astype(np.float32)
    y = (centre + z[:, 0] + 0.5 * RNG.normal(size=5000)).astype(np.float32)
    params = {"kernel": jnp.ones((1, 1)), "bias": jnp.full(1, centre)}
    task = regression(nn.Dense(1), input_shape=(1,), within=0.5)
    found = jax.jit(evaluation_program(task, scanned(), batch_size=100))(
        params, Examples(jnp.asarray(z), jnp.asarray(y))
    )
    told = float(found.others["r_squared"])
    if centre > 100:
        assert np.isnan(told)
    else:
        wide = y.astype(np.float64)
        true = 1 - np.mean((wide - centre - z[:, 0]) ** 2) / wide.var()
        np.testing.assert_allclose(told, true, atol=1e-3)


def test_mistakes_are_named():
    for name in ("within", "scale"):
        arguments = {"input_shape": (4,), "within": 0.5, name: -1.0}
        with pytest.raises(ValueError, match=f"{name}=-1.0"):
            regression(nn.Dense(1), **arguments)
    task = regression(nn.Dense(2), input_shape=(4,), within=0.5)
    with pytest.raises(ValueError, match=r"\(30, 2\), targets of \(30,\)"):
        task.loss(task.init(KEY), Examples(X, Y), jnp.ones(30, bool), KEY)


def test_a_factory_is_no_model():
    with pytest.raises(ValueError, match=r"takes its number of classes: mlp\(200"):
        regression(mlp(3), input_shape=(4,), within=0.5)
