"""The rotation is a rotation, at every length, and spreads what it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import rotate
from fedjax_comp.compress.transform.rotate import rotation
from tests.as_on_tpu import as_on_tpu


@pytest.mark.thorough
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 63, 100])
def test_rotation_is_orthogonal_and_the_inverse_undoes_it(n: int):
    key = jax.random.key(n)
    columns = jax.vmap(lambda x: rotation(key, x))(jnp.eye(n))
    back = jax.vmap(lambda x: rotation(key, x, inverse=True))(columns)
    matrix = np.asarray(columns, np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-5)
    np.testing.assert_allclose(back, np.eye(n), atol=1e-5)


@pytest.mark.parametrize("n", [1024, 1025, 1536, 2047])
def test_every_coordinate_is_spread_over_all(n: int):
    inputs = np.zeros((4, n), np.float32)
    inputs[np.arange(4), [0, n // 3, n // 2, n - 1]] = 1.0
    keys = jax.random.split(jax.random.key(0), 64)
    spread = jax.jit(
        jax.vmap(jax.vmap(rotation, in_axes=(None, 0)), in_axes=(0, None))
    )(keys, jnp.asarray(inputs))
    energy = np.mean(np.asarray(spread, np.float64) ** 2, axis=0)
    # An even spread puts 1/n everywhere; eighths of the vector are averaged because
    # 64 draws of one coordinate still vary much. No eighth may be left out, whichever
    # coordinate the energy came from.
    eighths = energy[:, : n // 8 * 8].reshape(4, 8, -1).mean(axis=2) * n
    assert eighths.min() > 0.3, eighths
    assert eighths.max() < 3.0, eighths


def test_the_cohort_shares_the_rotation_and_rounds_do_not():
    x = jnp.arange(1.0, 9.0)

    def sent(round_seed: int, client: int) -> jax.Array:
        context = make_context(jax.random.key(round_seed), client)
        return rotate().encode(context, x, ())[0].parts[0]

    assert bool(jnp.all(sent(0, 0) == sent(0, 1)))
    assert not bool(jnp.all(sent(0, 0) == sent(1, 0)))


@pytest.mark.parametrize("n", [3000, 12_672, 12_770, 1 << 13])
@pytest.mark.parametrize("block", [16, 128])
def test_what_lies_together_becomes_gaussian(n: int, block: int):
    """Signs of a Gaussian vector have the error `pi / 2 - 1` with the unbiased scale.

    Where some coordinates keep more energy than others it is larger: 0.6 to 1.3 after
    two passes at these lengths. What is structured evenly may have less.
    """
    rng, num_keys = np.random.default_rng(n + block), 30
    x = np.zeros(n, np.float32)
    x[n // 3 : n // 3 + block] = rng.standard_normal(block)
    keys = jax.random.split(jax.random.key(0), num_keys)
    rotated = np.asarray(
        jax.jit(jax.vmap(rotation, in_axes=(0, None)))(keys, jnp.asarray(x)), np.float64
    )
    squares, sizes = np.sum(rotated**2, axis=1), np.sum(np.abs(rotated), axis=1)
    errors = squares * n / sizes**2 - 1
    # By the delta method `log(m_2 / m_1^2)` of n Gaussian numbers has the variance
    # (2 pi - 6) / n.
    deviation = np.pi / 2 * np.sqrt((2 * np.pi - 6) / n / num_keys)
    is_power = n & (n - 1) == 0
    assert np.mean(errors) < np.pi / 2 - 1 + 5 * deviation + 0.005, np.mean(errors)
    if not is_power:
        assert np.mean(errors) > np.pi / 2 - 1 - 5 * deviation - 0.01, np.mean(errors)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [5, 300, 1 << 14, 70_001])
def test_tiles_of_a_tpu_are_the_same_transform(n: int):
    key, x = jax.random.key(n), jax.random.normal(jax.random.key(1), (n,))
    here = rotation(key, x)
    there = as_on_tpu(rotation)(key, x)
    # Sums of normal numbers in another order.
    np.testing.assert_allclose(there, here, atol=2e-5)
    back = as_on_tpu(lambda key, x: rotation(key, x, inverse=True))(key, there)
    np.testing.assert_allclose(back, x, atol=2e-5)
