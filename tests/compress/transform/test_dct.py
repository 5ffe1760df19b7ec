"""The cosine transform against its formula in float64, and DeMo's stage after it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.transform.dct import chunked_dct, dct, dct_matrix


def reference(x):
    n = len(x)
    wave, place = np.arange(n)[:, None], np.arange(n)[None, :]
    rows = np.cos(math.pi * (place + 0.5) * wave / n)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ x


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_matrix_is_orthonormal(size):
    matrix = dct_matrix(size).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=2e-6)


@pytest.mark.parametrize("n", [3, 8, 21])
def test_every_chunk_is_transformed_and_so_is_what_is_left_over(n):
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    chunks = [x[i : i + 8] for i in range(0, n, 8)]
    expected = np.concatenate([reference(chunk.astype(np.float64)) for chunk in chunks])
    got = chunked_dct(jnp.asarray(x), 8)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(chunked_dct(got, 8, inverse=True), x, atol=1e-5)


def test_a_constant_is_one_wave_a_chunk():
    waves = chunked_dct(jnp.full(128, 3.0), 64)
    assert int(jnp.sum(jnp.abs(waves) > 1e-4)) == 2


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected chunk=0 in \[1, 4096\]"):
        dct(0)
    assert jax.tree.leaves(dct(64).init(jnp.ones(3))) == []
