"""Truncated SVD against Eckart and Young's theorem in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import low_rank
from fedjax_comp.compress.low_rank.singular import Factors

CONTEXT = make_context(jax.random.key(0), 0)


def roundtrip(compressor, tree):
    payload, _ = compressor.encode(CONTEXT, tree, ())
    return payload, compressor.decode(CONTEXT, payload, ())[0]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_error_is_that_of_the_best_approximation(rank: int):
    x = np.random.default_rng(0).standard_normal((12, 10)).astype(np.float32)
    _, decoded = roundtrip(low_rank(rank), jnp.asarray(x))
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    error = np.sum((np.asarray(decoded, np.float64) - x) ** 2)
    np.testing.assert_allclose(error, np.sum(singular[rank:] ** 2), rtol=1e-4)
    assert np.linalg.matrix_rank(np.asarray(decoded), tol=1e-4) == rank


def test_a_matrix_of_that_rank_is_exact_and_a_kernel_is_a_matrix():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((18, 2)) @ rng.standard_normal((2, 8))
    kernel = jnp.asarray(matrix.reshape(3, 3, 2, 8), jnp.float32)
    payload, decoded = roundtrip(low_rank(2), kernel)
    np.testing.assert_allclose(decoded, kernel, atol=1e-5)
    assert payload.parts[0].left.shape == (18, 2)
    assert payload.parts[0].right.shape == (2, 8)


def test_leaves_that_would_grow_are_left_open():
    tree = {"small": jnp.ones((2, 2)), "bias": jnp.ones(9), "big": jnp.ones((9, 9))}
    payload, decoded = roundtrip(low_rank(1), tree)
    kinds = [isinstance(part, Factors) for part in payload.parts]
    assert kinds == [False, True, False]  # bias, big, small: sorted by name
    np.testing.assert_array_equal(decoded["small"], tree["small"])


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="Expected rank=0 >= 1"):
        low_rank(0)
