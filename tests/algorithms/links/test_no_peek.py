"""The penalty on what activations tell, against the statistic by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.split_learning.leakage import distance_correlation as by_numpy
from fedjax_comp.algorithms.links.no_peek import distance_correlation, no_peek
from fedjax_comp.algorithms.split_learning import split_learning
from fedjax_comp.models import mlp
from fedjax_comp.models.split import split_classification
from tests.problems import make_cohort

RNG = np.random.default_rng(0)


def test_it_is_the_statistic_of_the_examples_that_count():
    x = RNG.normal(size=(20, 3, 2)).astype(np.float32)
    z = (x[:, :, 0] ** 2 + 0.1 * RNG.normal(size=(20, 3))).astype(np.float32)
    mask = np.arange(20) < 14
    found = distance_correlation(jnp.asarray(x), jnp.asarray(z), jnp.asarray(mask))
    assert float(found) == pytest.approx(by_numpy(x[mask], z[mask]), abs=1e-4)
    z[~mask] = 99  # What does not count says nothing.
    again = distance_correlation(jnp.asarray(x), jnp.asarray(z), jnp.asarray(mask))
    assert float(again) == float(found)


@pytest.mark.parametrize("z", [np.ones((6, 2)), np.zeros((6, 2))])
def test_its_gradient_is_finite_where_distances_are_zero(z):
    x, mask = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32), jnp.ones(6, bool)
    own = jnp.asarray(z, jnp.float32)
    value, gradient = jax.value_and_grad(lambda z: no_peek(1.0)(x, z, mask))(own)
    assert abs(float(value)) < 1e-2
    assert bool(jnp.all(jnp.isfinite(gradient)))
    nothing = jax.grad(lambda z: no_peek(1.0)(x, z, ~mask))(own)
    assert bool(jnp.all(jnp.isfinite(nothing)))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight=-1"):
        no_peek(-1.0)


@pytest.mark.thorough
def test_only_the_clients_part_feels_it():
    """One batch: the server's gradient is the same, the client's has the penalty's."""
    cohort = make_cohort([6], 6)
    shape = cohort.examples.x.shape[1:]
    task = split_classification(
        mlp(5)(3), ["Dense_1"], num_classes=3, input_shape=shape
    )
    params = task.task.init(jax.random.key(0))
    after = []
    for penalty in (None, no_peek(0.7)):
        algorithm = split_learning(
            task, client_optimizer=optax.sgd(1.0), penalty=penalty
        )
        places, own = algorithm.init(jax.random.key(1), params)
        clients = jax.tree.map(lambda x: x[None], own)
        places, _, _ = algorithm.round(jax.random.key(2), places, clients, cohort)
        after.append(algorithm.params(places))
    plain, peeked = after
    jax.tree.map(np.testing.assert_array_equal, plain["Dense_1"], peeked["Dense_1"])
    rows = cohort.clients.rows[0, 0]
    mask = cohort.clients.mask[0, 0]
    bottom = task.parts[0]

    def penalised(own):
        x = cohort.examples.x[rows]
        hidden = jnp.where(mask[:, None], bottom.apply(own, x), 0)
        return no_peek(0.7)(x, hidden, mask)

    own = {name: params[name] for name in bottom.names}
    expected = jax.grad(penalised)(own)["Dense_0"]
    got = jax.tree.map(lambda a, b: a - b, plain["Dense_0"], peeked["Dense_0"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected
    )
