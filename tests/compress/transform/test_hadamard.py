"""The transform against its recursive definition, at every way of computing it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.transform.hadamard import hadamard, hadamard_matrix


def sylvester(p: int) -> np.ndarray:
    """H_2n = [[H_n, H_n], [H_n, -H_n]], orthonormal."""
    h = np.ones((1, 1))
    for _ in range(p):
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(len(h))


@pytest.mark.parametrize("p", [0, 1, 3, 6, 7, 8])
def test_hadamard_equals_the_recursive_definition(p: int):
    x = np.random.default_rng(p).standard_normal((3, 1 << p, 2)).astype(np.float32)
    for some in (x, x[:1], x[:, :, :1]):
        expected = np.einsum("ij,ajb->aib", sylvester(p), some)
        np.testing.assert_allclose(hadamard(jnp.asarray(some)), expected, atol=1e-5)
    np.testing.assert_allclose(hadamard_matrix(p), sylvester(p), atol=1e-7)


def test_long_vectors_are_transformed_as_short_ones_are():
    """`H_mn = H_m (x) H_n`, with factors small enough to be done the plain way."""
    m, n = 1 << 3, 1 << 13
    x = jnp.asarray(np.random.default_rng(0).standard_normal((m, n)), jnp.float32)
    rows = np.asarray(jax.jit(hadamard)(x[:, :, None])[..., 0], np.float64)
    whole = jax.jit(hadamard)(x.reshape(1, -1, 1)).reshape(m, n)
    np.testing.assert_allclose(whole, sylvester(3) @ rows, atol=2e-5)
