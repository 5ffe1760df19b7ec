"""Weighted means and server steps: limit cases and exactness under masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.server.aggregate import scaled, weighted, weighted_mean
from fedjax_comp.server.update import Model, step_towards


def test_weighted_mean_is_that_of_those_who_count():
    trees = [{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([jnp.nan, 0.0])}]
    trees.append({"w": jnp.array([5.0, 4.0])})
    counts = [True, False, True]
    summands = [
        weighted(t, jnp.float32(n), jnp.array(c))
        for t, n, c in zip(trees, (1, 7, 3), counts, strict=True)
    ]
    total = jax.tree.map(lambda *x: sum(x[1:], x[0]), *summands)
    np.testing.assert_array_equal(weighted_mean(total)["w"], [4.0, 3.5])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_updates_are_weighted_in_float32(dtype):
    total = scaled(jnp.array([6.0], dtype), jnp.float32(20_001))
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(total, [120_006.0])


def test_double_updates_stay_double():
    with jax.enable_x64(True):
        total = scaled(jnp.array([1 + 2.0**-40], "float64"), jnp.float32(3))
        assert total.dtype == jnp.float64
        np.testing.assert_array_equal(total, [3 + 3 * 2.0**-40])


def test_nobody_gives_zeros():
    summand = weighted({"w": jnp.array([jnp.inf])}, jnp.float32(2), jnp.array(False))
    np.testing.assert_array_equal(weighted_mean(summand)["w"], [0.0])


def test_sgd_of_one_adds_the_update():
    optimizer = optax.sgd(1.0)
    params = {"w": jnp.array([1.0, 2.0])}
    model = Model(params, optimizer.init(params))
    after, refused = step_towards(
        optimizer, model, {"w": jnp.array([0.5, -1.0])}, jnp.array(True)
    )
    assert not bool(refused)
    np.testing.assert_array_equal(after.params["w"], [1.5, 1.0])


def test_a_step_to_what_is_not_finite_is_refused_and_said():
    optimizer = optax.sgd(2.0)
    params = {"w": jnp.array([1.0, 2.0])}
    model = Model(params, optimizer.init(params))
    huge = {"w": jnp.array([3e38, 1.0])}
    for anyone in (True, False):
        after, refused = step_towards(optimizer, model, huge, jnp.array(anyone))
        assert refused.dtype == bool
        assert bool(refused) == anyone  # where nobody counted, no step was asked for
        np.testing.assert_array_equal(after.params["w"], params["w"])


def test_a_round_without_clients_leaves_momentum_alone():
    optimizer = optax.sgd(1.0, momentum=0.9)
    params = {"w": jnp.array([1.0])}
    model = Model(params, optimizer.init(params))
    one, nothing = {"w": jnp.array([1.0])}, {"w": jnp.array([0.0])}
    model, _ = step_towards(optimizer, model, one, jnp.array(True))
    after, _ = step_towards(optimizer, model, nothing, jnp.array(False))
    jax.tree.map(np.testing.assert_array_equal, after, model)
