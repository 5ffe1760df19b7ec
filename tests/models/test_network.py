"""Models of both of flax's libraries, and those that draw in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from fedjax_comp.algorithms import fed_avg
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.base import Examples
from fedjax_comp.models import char_transformer, classification, cnn, fed_para, mlp
from fedjax_comp.models.network import of_linen, of_nnx
from fedjax_comp.models.split import split_classification
from fedjax_comp.models.vertical import vertical_classification
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort, stack_clients

RATE = 0.5
KEYS = jax.random.split(jax.random.key(3), 2)
EXAMPLES = Examples(
    jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32),
    jnp.array([0, 1, 2, 0]),
)
MASK = jnp.ones(4, bool)


class Both(nnx.Module):
    """A hidden layer with dropout, in nnx."""

    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.drop = nnx.Dropout(RATE, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.first(x))))


MODELS = {
    "linen": mlp(8, dropout=RATE)(3),
    "nnx": of_nnx(lambda rngs: Both(rngs)),
    "replaced layers": fed_para(mlp(8, dropout=RATE), rank=1)(3),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_key_alone_decides_what_is_left_out(name):
    task = classification(MODELS[name], input_shape=(6,))
    params = task.init(jax.random.key(0))
    loss = jax.jit(task.loss)
    first, again, other = (
        float(loss(params, EXAMPLES, MASK, key)) for key in (*KEYS[:1], *KEYS)
    )
    assert first == again != other
    sums = [jax.jit(task.evaluate)(params, EXAMPLES, MASK) for _ in range(2)]
    assert float(sums[0]["loss"]) == float(sums[1]["loss"])
    assert float(sums[0]["loss"]) / 4 not in (first, other)


def test_units_are_left_out_as_often_as_told():
    # One unit of weight 1 to each of 4,096 outputs: what is kept is doubled.
    units = 4096
    network = of_linen(mlp(units, dropout=0.25)(units))
    params = {
        "Dense_0": {"kernel": jnp.ones((1, units)), "bias": jnp.zeros(units)},
        "Dense_1": {"kernel": jnp.eye(units), "bias": jnp.zeros(units)},
    }
    out = np.asarray(network.apply(params, jnp.ones((1, 1)), KEYS[0]))
    np.testing.assert_allclose(out[out > 0], 1 / 0.75, rtol=1e-6)
    # Six deviations of a binomial count: a chance of 2e-9.
    bound = 6 * np.sqrt(units * 0.25 * 0.75)
    assert abs((out == 0).sum() - 0.25 * units) < bound
    np.testing.assert_array_equal(network.apply(params, jnp.ones((1, 1)), None), 1)


@pytest.mark.thorough
def test_a_round_draws_as_the_loop_that_can_be_read():
    cohort = make_cohort([4, 2, 5], batch_size=2, epochs=2)
    task = classification(
        mlp(7, dropout=RATE)(NUM_CLASSES), input_shape=(NUM_FEATURES,)
    )
    params = task.init(jax.random.key(0))
    algorithm = fed_avg(task, client_optimizer=optax.sgd(0.3))
    server, client = algorithm.init(jax.random.key(1), params)
    clients = stack_clients(client, 3)
    server, _, _ = jax.jit(algorithm.round)(jax.random.key(2), server, clients, cohort)
    expected = fed_avg_naive(task, params, cohort, client_optimizer=optax.sgd(0.3))
    still = fed_avg_naive(
        classification(mlp(7)(NUM_CLASSES), input_shape=(NUM_FEATURES,)),
        params,
        cohort,
        client_optimizer=optax.sgd(0.3),
    )
    got = algorithm.params(server)
    for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got, still)
    assert max(jax.tree.leaves(apart)) > 1e-3


def test_nnx_is_the_same_model():
    network = of_nnx(lambda rngs: Both(rngs))
    params = network.init(jax.random.key(0), EXAMPLES.x)
    w = {name: {k: np.asarray(x) for k, x in params[name].items()} for name in params}
    x = np.asarray(EXAMPLES.x)
    hidden = np.maximum(x @ w["first"]["kernel"] + w["first"]["bias"], 0)
    expected = hidden @ w["last"]["kernel"] + w["last"]["bias"]
    np.testing.assert_allclose(
        network.apply(params, EXAMPLES.x, None), expected, rtol=1e-5, atol=1e-6
    )


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        noise = jax.random.normal(self.make_rng("noise"), x.shape) if train else 0
        return nn.Dense(3)(x + noise)


def test_other_draws_are_refused():
    task = classification(Noisy(), input_shape=(6,))
    with pytest.raises(ValueError, match="nothing but dropout"):
        task.init(jax.random.key(0))


def test_top_labels_are_those_of_numpy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 9)), rng.integers(0, 9, 50)
    network = of_linen(nn.Dense(9))
    task = classification(nn.Dense(9), input_shape=(9,), top=3)
    params = network.init(KEYS[0], jnp.zeros((1, 9)))
    examples = Examples(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    mask = jnp.arange(50) < 40
    sums = task.evaluate(params, examples, mask)
    logits = np.asarray(network.apply(params, examples.x, None))
    among = (np.argsort(-logits, axis=1)[:, :3] == y[:, None]).any(axis=1)
    assert int(sums["top_3_accuracy"]) == among[:40].sum()
    assert int(sums["accuracy"]) == (logits.argmax(1) == y)[:40].sum()


def test_where_nothing_is_drawn_dropout_is_refused():
    with pytest.raises(ValueError, match="without dropout for split learning"):
        split_classification(
            mlp(8, 8, dropout=RATE)(3), ["Dense_1"], num_classes=3, input_shape=(6,)
        )
    with pytest.raises(ValueError, match="without dropout for a vertical split"):
        vertical_classification(
            mlp(4, dropout=RATE),
            mlp(4),
            blocks=[[0, 1], [2]],
            num_outputs=3,
            num_classes=2,
            num_features=3,
        )


@pytest.mark.parametrize("rate", [1, -0.1, float("nan")])
@pytest.mark.parametrize("factory", [functools.partial(mlp, 3), cnn, char_transformer])
def test_what_is_no_chance_is_refused(factory, rate):
    with pytest.raises(ValueError, match=f"Expected dropout={rate} in"):
        factory(dropout=rate)
