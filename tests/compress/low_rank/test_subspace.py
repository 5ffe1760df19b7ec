"""Leading singular triples, against NumPy's decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.low_rank.subspace import leading_triples

RNG = np.random.default_rng(0)


def decaying(m, n, rate):
    """A matrix of singular values `k ** -rate`, `k` from 1."""
    d = min(m, n)
    left, _ = np.linalg.qr(RNG.standard_normal((m, d)))
    right, _ = np.linalg.qr(RNG.standard_normal((n, d)))
    values = np.arange(1.0, d + 1) ** -rate
    return values, (left * values) @ right.T


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (7, 300)])
def test_small_sides_are_exact(shape):
    values, x = decaying(*shape, 0.7)
    triples = leading_triples(jnp.asarray(x, jnp.float32), 5)
    np.testing.assert_allclose(triples.values, values[:5], rtol=1e-4)
    s = np.asarray(triples.values)[:, None]
    nearest = (np.asarray(triples.left) / s).T @ np.asarray(triples.right)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(nearest, (u[:, :5] * s[:5]) @ vt[:5], atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 200), (200, 400)])
def test_a_random_subspace_holds_nearly_all_that_the_best_holds(shape):
    values, x = decaying(*shape, 1.0)
    triples = leading_triples(jnp.asarray(x, jnp.float32), 20)
    held = np.sum(np.asarray(triples.values, np.float64) ** 2)
    assert 0.995 < held / np.sum(values[:20] ** 2) <= 1 + 1e-5
    # What it gives is a projection: the energy is what the matrix loses by it.
    s = np.asarray(triples.values, np.float64)[:, None]
    part = (np.asarray(triples.left) / s).T @ np.asarray(triples.right)
    lost = np.sum((x - part) ** 2)
    np.testing.assert_allclose(np.sum(x**2) - held, lost, rtol=1e-3)


def test_vectors_are_orthogonal_and_as_long_as_their_values():
    _, x = decaying(300, 200, 0.3)
    values, left, right = leading_triples(jnp.asarray(x, jnp.float32), 12)
    for rows in (left, right):
        gram = np.asarray(rows @ rows.T)
        np.testing.assert_allclose(gram, np.diag(np.square(values)), atol=1e-4)


@pytest.mark.thorough
def test_nothing_has_no_triples_and_clients_may_be_mapped_over():
    zeros = leading_triples(jnp.zeros((300, 200)), 4)
    assert not any(bool(jnp.any(x != 0)) for x in zeros)
    x = jnp.asarray(RNG.standard_normal((2, 200, 150)), jnp.float32)
    mapped = jax.vmap(lambda one: leading_triples(one, 3).values)(x)
    alone = jnp.stack([leading_triples(one, 3).values for one in x])
    np.testing.assert_allclose(mapped, alone, rtol=1e-4)
