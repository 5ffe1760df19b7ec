"""Norms against float64 from the smallest to the largest numbers of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.magnitude import (
    euclidean_norm,
    in_units,
    power_of_two,
    standardized,
)

X = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
EXPONENTS = [-110, -80, 0, 80, 118, 122]


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_norms_are_those_of_float64(exponent):
    x = np.ldexp(X, exponent)
    exact = np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(euclidean_norm)(x), exact, rtol=1e-6)
    unit, sigma = jax.jit(standardized)(x)
    np.testing.assert_allclose(sigma, exact / np.sqrt(x.size), rtol=1e-6)
    np.testing.assert_allclose(unit * np.float64(sigma), x, rtol=1e-6)


def test_a_norm_beyond_float32_is_infinite_and_its_mean_square_is_not():
    x = jnp.full(1000, 3e38)
    assert jnp.isinf(jax.jit(euclidean_norm)(x))
    unit, sigma = jax.jit(standardized)(x)
    np.testing.assert_allclose(unit, 1.0, rtol=1e-6)
    np.testing.assert_allclose(sigma, 3e38, rtol=1e-6)


@pytest.mark.parametrize("exponent", [*EXPONENTS, -126, 126, 127])
def test_the_power_of_two_loses_nothing(exponent):
    x = np.ldexp(np.clip(X, -1.9, 1.9), exponent)
    unit, power = jax.jit(in_units)(x)
    back = np.asarray(unit, np.float64) * float(power)
    lost = 2.0**-126  # of what is no normal number a processor may make zeros
    np.testing.assert_allclose(back, x, rtol=0, atol=lost if exponent < -119 else 0)
    assert 1 <= np.abs(unit).max() < 4
    power, inverse = power_of_two(jnp.float32(2.0) ** exponent)
    assert float(power) * float(inverse) == 1.0


def test_zeros_stay_zeros_and_what_is_not_finite_shows():
    for value in (standardized(jnp.zeros(3)), in_units(jnp.zeros(3))):
        assert not jnp.any(value[0])
    assert float(euclidean_norm(jnp.zeros(3))) == 0.0
    for bad in (jnp.inf, jnp.nan):
        x = jnp.array([1.0, bad])
        assert not jnp.isfinite(euclidean_norm(x))
        assert not jnp.isfinite(in_units(x)[0][1])
        assert not jnp.isfinite(standardized(x)[1])
