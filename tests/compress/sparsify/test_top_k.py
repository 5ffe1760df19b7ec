"""Sparsifiers against NumPy, and their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import random_k, top_k

CONTEXT = make_context(jax.random.key(0), 0)


def roundtrip(compressor, tree, context=CONTEXT):
    payload, _ = compressor.encode(context, tree, ())
    return compressor.decode(context, payload, ())[0]


@pytest.mark.parametrize("fraction", [0.001, 0.25, 1.0])
def test_top_k_keeps_the_largest(fraction: float):
    x = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    k = max(1, round(fraction * x.size))
    expected = x.copy()
    expected[np.abs(x) < np.sort(np.abs(x).ravel())[-k]] = 0.0
    np.testing.assert_array_equal(roundtrip(top_k(fraction), jnp.asarray(x)), expected)


def test_top_k_counts_per_leaf_and_never_more_than_there_are():
    tree = [jnp.ones(10), jnp.ones(2), jnp.ones(())]
    decoded = roundtrip(top_k(k=3), tree)
    assert [int(jnp.sum(leaf)) for leaf in decoded] == [3, 2, 1]


def test_values_stay_open_in_their_dtype_and_indices_ascend():
    x = jnp.asarray([3, -1, 2, -4], jnp.bfloat16)
    part = top_k(0.5).encode(CONTEXT, x, ())[0].parts[0]
    assert part.values.dtype == jnp.bfloat16
    assert (part.indices.values.tolist(), part.indices.bound) == ([0, 3], 4)


def test_random_k_of_everything_is_exact():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(roundtrip(random_k(1.0), x), x)


def test_random_k_sends_values_only_and_scales_them():
    x = jnp.arange(1.0, 13.0)
    payload, _ = random_k(0.25).encode(CONTEXT, x, ())
    assert [leaf.shape for leaf in jax.tree.leaves(payload)] == [(3,)]
    for rescale, factor in ((True, 4.0), (False, 1.0)):
        decoded = np.asarray(roundtrip(random_k(0.25, rescale=rescale), x))
        kept = decoded != 0
        assert kept.sum() == 3
        np.testing.assert_array_equal(decoded[kept], factor * np.asarray(x)[kept])


def test_shared_random_k_keeps_the_same_coordinates_for_the_cohort():
    x = jnp.ones(100)
    contexts = [make_context(jax.random.key(3), client) for client in (0, 1)]
    shared = [roundtrip(random_k(0.2, shared=True), x, c) for c in contexts]
    own = [roundtrip(random_k(0.2), x, c) for c in contexts]
    assert bool(jnp.all(shared[0] == shared[1]))
    assert not bool(jnp.all(own[0] == own[1]))


@pytest.mark.parametrize("make", [top_k, random_k])
def test_refusals_name_the_value(make):
    with pytest.raises(ValueError, match=r"Expected fraction=1\.5 in \(0, 1\]\."):
        make(1.5)
    with pytest.raises(ValueError, match=r"Expected fraction=0 in \(0, 1\]\."):
        make(0)
    with pytest.raises(ValueError, match="fraction=nan"):
        make(float("nan"))
    with pytest.raises(ValueError, match="fraction='x'"):
        make("x")
    with pytest.raises(ValueError, match="Expected k=0 >= 1"):
        make(k=0)
    with pytest.raises(ValueError, match=r"k=2\.5, an integer"):
        make(k=2.5)
    with pytest.raises(ValueError, match="one of fraction"):
        make()
    with pytest.raises(ValueError, match="one of fraction"):
        make(0.1, k=3)
