"""A function traced once: how often, and that it computes what it did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import execution
from fedjax_comp.traced import traced_once


def test_it_is_traced_once_and_computes_the_same():
    calls = []

    def function(x, tree):
        calls.append(1)
        return {"sum": x + tree["y"], "key": jax.random.fold_in(tree["key"], 1)}

    tree = {"y": jnp.arange(3.0), "key": jax.random.key(0)}
    run, shapes = traced_once(function, 2.0, tree)
    for _ in range(3):
        result = jax.jit(run)(2.0, tree)
    assert len(calls) == 1
    assert shapes["sum"].shape == (3,)
    np.testing.assert_array_equal(result["sum"], [2.0, 3.0, 4.0])
    expected = jax.random.fold_in(tree["key"], 1)
    assert jnp.array_equal(
        jax.random.key_data(result["key"]), jax.random.key_data(expected)
    )


def test_it_may_close_over_what_is_traced():
    @jax.jit
    def outer(a):
        run, _ = traced_once(lambda x: a * x, jnp.float32(0))
        return jax.vmap(run)(jnp.arange(3.0))

    np.testing.assert_array_equal(outer(2.0), [0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    "strategy",
    [execution.scanned, lambda: execution.chunked(2), execution.sharded],
)
def test_what_a_client_does_is_traced_once(strategy):
    calls = []

    def client_fn(shared, x):
        calls.append(1)
        return shared * x, x

    run = jax.jit(strategy()(client_fn))
    total, _ = run(2.0, jnp.arange(4.0))
    assert float(total) == 12.0
    assert len(calls) == 1


def test_without_compilation_it_is_the_function_itself():
    def function(x):
        return x + 1

    with jax.disable_jit():
        run, shapes = traced_once(function, jnp.zeros(2))
    assert run is function
    assert shapes.shape == (2,)
