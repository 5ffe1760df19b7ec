"""What is frozen neither moves nor is paid for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg
from fedjax_comp.base import Examples
from fedjax_comp.models import classification, mlp
from fedjax_comp.models.frozen import frozen, low_rank_adapted
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort, stack_clients

TASK = classification(mlp(20)(NUM_CLASSES), input_shape=(NUM_FEATURES,))
PARAMS = TASK.init(jax.random.key(0))
COHORT = make_cohort([4, 6], batch_size=2)
KEY = jax.random.key(1)


def one_round(task):
    algorithm = fed_avg(task, client_optimizer=optax.sgd(0.5))
    server, client = algorithm.init(KEY, task.init(KEY))
    clients = stack_clients(client, 2)
    server, _, info = jax.jit(algorithm.round)(KEY, server, clients, COHORT)
    return algorithm.params(server), info


def test_frozen_layers_are_not_sent_and_the_others_follow_their_own_gradient():
    task = frozen(TASK, PARAMS, "Dense_0")
    trained, info = one_round(task)
    assert list(trained) == ["Dense_1"]
    assert info.traffic["uplink"].bits.fixed == 32 * (20 + 1) * NUM_CLASSES
    labels = {"Dense_0": "still", "Dense_1": "moves"}
    optimizer = optax.multi_transform(
        {"still": optax.set_to_zero(), "moves": optax.sgd(0.5)}, labels
    )
    algorithm = fed_avg(TASK, client_optimizer=optimizer)
    server, client = algorithm.init(KEY, PARAMS)
    server, _, _ = jax.jit(algorithm.round)(
        KEY, server, stack_clients(client, 2), COHORT
    )
    whole = algorithm.params(server)
    np.testing.assert_array_equal(
        whole["Dense_0"]["kernel"], PARAMS["Dense_0"]["kernel"]
    )
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            trained["Dense_1"][name], whole["Dense_1"][name], atol=1e-6
        )


@pytest.mark.thorough
def test_adapters_begin_at_the_model_and_are_their_product():
    task = low_rank_adapted(TASK, PARAMS, rank=1, alpha=3.0)
    params = task.init(KEY)
    examples, mask = COHORT.examples, jnp.ones(10, bool)
    start = task.loss(params, examples, mask, KEY)
    assert float(start) == float(TASK.loss(PARAMS, examples, mask, KEY))
    params = jax.tree.map(lambda x: x + 0.1, params)
    whole = jax.tree.map(np.asarray, PARAMS)
    for layer in ("Dense_0", "Dense_1"):
        pair = params[f"['{layer}']['kernel']"]
        change = 3.0 * np.asarray(pair["a"]) @ np.asarray(pair["b"])
        whole[layer]["kernel"] = whole[layer]["kernel"] + change
    np.testing.assert_allclose(
        task.loss(params, examples, mask, KEY),
        TASK.loss(whole, examples, mask, KEY),
        rtol=1e-5,
    )
    trained, info = one_round(task)
    numbers = (NUM_FEATURES + 20) + (20 + NUM_CLASSES)
    assert info.traffic["uplink"].bits.fixed == 32 * numbers
    assert all(float(jnp.abs(pair["b"]).max()) > 0 for pair in trained.values())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: frozen(TASK, PARAMS, "Dense_7"), "'Dense_7' to be one of Dense_0"),
        (lambda: frozen(TASK, PARAMS, *PARAMS), "a layer to train"),
        (lambda: low_rank_adapted(TASK, PARAMS, rank=0), "rank=0"),
        (lambda: low_rank_adapted(TASK, PARAMS, rank=99), "factors of rank=99"),
        (
            lambda: low_rank_adapted(TASK, PARAMS, rank=1, alpha=float("inf")),
            "alpha=inf",
        ),
    ],
)
def test_mistakes_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_examples_are_those_of_the_whole():
    task = frozen(TASK, PARAMS, "Dense_1")
    x = Examples(COHORT.examples.x, COHORT.examples.y)
    mask = jnp.ones(10, bool)
    got = task.evaluate(task.init(KEY), x, mask)
    expected = TASK.evaluate(PARAMS, x, mask)
    assert {name: float(v) for name, v in got.items()} == {
        name: float(v) for name, v in expected.items()
    }
