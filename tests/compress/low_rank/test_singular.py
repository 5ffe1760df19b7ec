"""Singular triples against NumPy's decomposition in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.low_rank.singular import (
    leading_factors,
    spectrum,
    truncated_svd,
)


def _decaying(m, n, base=0.7):
    """A matrix with singular values `base**i`, float64."""
    rng, d = np.random.default_rng(0), min(m, n)
    u, _ = np.linalg.qr(rng.normal(size=(m, d)))
    v, _ = np.linalg.qr(rng.normal(size=(n, d)))
    return u @ np.diag(base ** np.arange(d)) @ v.T


def _best_approximation(x, rank):
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_spectrum_and_factors_are_those_of_numpy_in_float64(shape):
    x = _decaying(*shape)
    values, vectors = spectrum(jnp.asarray(x, jnp.float32))
    expected = np.linalg.svd(x, compute_uv=False)
    # Squares carry the Gram matrix's rounding, relative to the largest.
    np.testing.assert_allclose(np.square(values), expected**2, atol=2e-6)
    eye = np.asarray(vectors.T @ vectors)
    np.testing.assert_allclose(eye, np.eye(12), atol=1e-5)
    factors = leading_factors(jnp.asarray(x, jnp.float32), vectors, 5)
    nearest = _best_approximation(x, 5)
    np.testing.assert_allclose(factors.left @ factors.right, nearest, atol=5e-6)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_both_factors_have_the_roots_of_the_singular_values(shape, scale):
    x = jnp.asarray(scale * _decaying(*shape), jnp.float32)
    factors = truncated_svd(x, 4)
    roots = np.sqrt(scale) * np.sqrt(0.7) ** np.arange(4)
    for columns in (factors.left, factors.right.T):
        norms = np.linalg.norm(np.asarray(columns, np.float64), axis=0)
        np.testing.assert_allclose(norms, roots, rtol=1e-4)


def test_triples_beyond_a_matrix_rank_are_next_to_nothing():
    x = jnp.asarray(_decaying(40, 12)[:, :2] @ np.ones((2, 9)), jnp.float32)
    factors = truncated_svd(x, 5)
    np.testing.assert_allclose(factors.left @ factors.right, x, atol=1e-6)
    # A quantizer's range is that of what is worth sending.
    assert float(jnp.abs(factors.right[1:]).max()) < 1e-2
    zeros = truncated_svd(jnp.zeros((6, 4)), 2)
    assert not zeros.left.any()
    assert not zeros.right.any()


def test_what_is_not_finite_shows():
    factors = truncated_svd(jnp.ones((6, 4)).at[0, 0].set(jnp.nan), 1)
    assert jnp.isnan(factors.left).any()
    assert jnp.isnan(factors.right).any()
