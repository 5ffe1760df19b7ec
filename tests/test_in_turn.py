"""What a TPU does in a loop is what is done as a batch elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.in_turn import in_turn


def affine(x, tree, shift):
    return {"sum": jnp.tanh(x) + tree["a"] + shift, "of_all": tree["a"] * 2}, None


@pytest.mark.parametrize("platforms", [("cpu", "tpu"), ()])
def test_mapped_it_computes_the_same(platforms):
    wrapped = in_turn(affine, platforms=platforms)
    x, shift = jnp.arange(6.0).reshape(3, 2), jnp.ones(3)
    tree = {"a": jnp.array([1.0, 2.0])}
    axes = (0, None, 0)
    expected = jax.vmap(affine, axes)(x, tree, shift[:, None])
    found = jax.vmap(wrapped, axes)(x, tree, shift[:, None])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    alone = jax.tree.map(lambda leaf: leaf[1], expected)
    jax.tree.map(
        np.testing.assert_array_equal, wrapped(x[1], tree, shift[1, None]), alone
    )
    # Two axes, one of them of keys.
    keys = jax.random.split(jax.random.key(0), 4)
    draw = in_turn(lambda key, x: jax.random.normal(key) + x, platforms=platforms)
    drawn = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))(keys, shift)
    np.testing.assert_array_equal(
        drawn[2], jax.vmap(jax.random.normal)(keys) + shift[2]
    )


@pytest.mark.parametrize("platforms", [("cpu",), ()])
def test_what_it_closes_over_may_be_mapped_too(platforms):
    def outer(step, x):
        return in_turn(lambda x: x * step, platforms=platforms)(x)

    steps, x = jnp.arange(3.0), jnp.arange(1.0, 4.0)
    expected = np.outer(steps, x)
    np.testing.assert_array_equal(
        jax.vmap(jax.vmap(outer, (None, 0)), (0, None))(steps, x), expected
    )


def test_op_by_op_it_is_the_function_itself():
    seen = []
    with jax.disable_jit():
        in_turn(lambda x: seen.append(float(x)))(jnp.float32(3.0))
    assert seen == [3.0]


def lowered_for(platform, function, *arguments):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_only_a_tpu_loops_and_only_when_mapped():
    def function(x):
        return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)

    wrapped, x = in_turn(function), jnp.ones((3, 2))
    on_tpu = lowered_for("tpu", jax.vmap(wrapped), x)
    assert "stablehlo.while" in on_tpu
    # The branches are branches; mapped, both are computed and one is selected.
    assert "stablehlo.case" in on_tpu
    for text in (
        lowered_for("cpu", jax.vmap(wrapped), x),
        lowered_for("tpu", wrapped, x[0]),
    ):
        assert "stablehlo.while" not in text
