"""Each function against the same question asked of NumPy arrays."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import tree as trees


def test_size_counts_every_leaf_and_needs_shapes_only():
    like = [jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32), jnp.zeros(())]
    assert trees.size(like) == (1 << 40) + 1
    assert trees.size({}) == 0


def test_all_finite_sees_every_float_and_no_integer():
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        tree = {"a": jnp.ones((2, 2)), "b": jnp.array([0.0, bad], jnp.bfloat16)}
        assert not bool(jax.jit(trees.all_finite)(tree))
    assert bool(trees.all_finite({"a": jnp.ones(2), "n": jnp.arange(3)}))
    assert bool(trees.all_finite(()))


def test_where_leaves_no_trace_of_what_was_not_chosen():
    good = {"x": jnp.arange(4.0).reshape(2, 2), "n": jnp.asarray(3)}
    bad = {"x": jnp.full((2, 2), jnp.nan), "n": jnp.asarray(-1)}
    chosen = jax.jit(trees.where)(jnp.asarray(False), bad, good)
    np.testing.assert_array_equal(chosen["x"], good["x"])
    assert int(chosen["n"]) == 3


def test_where_works_on_keys():
    a, b = jax.random.key(0), jax.random.key(1)
    chosen = trees.where(jnp.asarray(False), [a], [b])[0]
    assert bool(jnp.all(jax.random.key_data(chosen) == jax.random.key_data(b)))


def test_unravel_undoes_ravel():
    leaves = [
        jnp.arange(6.0).reshape(2, 3),
        jnp.zeros((0, 2)),
        jnp.asarray(2.5, jnp.bfloat16),
    ]
    vector = trees.ravel(leaves)
    np.testing.assert_array_equal(vector, np.array([0, 1, 2, 3, 4, 5, 2.5], "f4"))
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    for back, leaf in zip(trees.unravel(vector, like), leaves, strict=True):
        assert back.dtype == leaf.dtype
        np.testing.assert_array_equal(back, leaf)
    assert trees.ravel([]).shape == (0,)


def test_along_takes_each_row_by_its_own_mask():
    mask = np.array([True, False, True])
    for shape in ((3,), (3, 2), (3, 1, 4)):
        leaf = np.arange(math.prod(shape)).reshape(shape) + 1
        kept = jnp.where(trees.along(jnp.asarray(mask), jnp.asarray(leaf)), leaf, 0)
        expected = leaf.copy()
        expected[~mask] = 0
        np.testing.assert_array_equal(kept, expected)
    pairs = trees.along(jnp.ones((2, 5)), jnp.zeros((2, 5, 7)))
    assert pairs.shape == (2, 5, 1)
