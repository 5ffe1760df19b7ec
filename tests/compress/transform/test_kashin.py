"""Kashin's coefficients: exact, small, and small whatever the leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.transform.kashin import kashin_coefficients, synthesis


@pytest.mark.thorough
def test_coefficients_are_exact_and_level():
    n, length = 4096, 8192
    key, rng = jax.random.key(0), np.random.default_rng(0)
    spread = jax.jit(
        lambda x: kashin_coefficients(key, x, length=length, iterations=12, clip=1.0)
    )
    for x in (rng.standard_normal(n), rng.standard_cauchy(n), np.eye(n)[7]):
        x = jnp.asarray(x, jnp.float32)
        a = spread(x)
        np.testing.assert_allclose(
            synthesis(key, a, n), x, atol=2e-5 * float(jnp.max(jnp.abs(x)))
        )
        norm = float(jnp.linalg.norm(x))
        # Of a rotation alone the largest is sqrt(2 ln n) = 4 times the rest.
        assert float(jnp.max(jnp.abs(a))) < 2.0 * norm / np.sqrt(length)
        assert float(jnp.linalg.norm(a)) < 1.1 * norm
