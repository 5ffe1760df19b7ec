"""The rank by energy against its definition, for NumPy, for JAX and inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.rank import rank_for_energy

VALUES = np.array([4.0, 3.0, 2.0, 1.0])  # squares: 16, 25, 29, 30


@pytest.mark.parametrize(
    ("energy", "expected"),
    [(1e-6, 1), (0.53, 1), (0.54, 2), (0.84, 3), (0.97, 4), (1.0, 4)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 5e37])
def test_the_least_rank_that_holds_the_share(energy, expected, scale):
    single = np.float32(VALUES * scale)
    assert int(rank_for_energy(VALUES * scale, energy)) == expected
    assert int(rank_for_energy(single, energy)) == expected
    traced = jax.jit(lambda s: rank_for_energy(s, energy))(jnp.asarray(single))
    assert traced.dtype == jnp.uint32
    assert int(traced) == expected


def test_zeros_have_no_rank_and_what_is_not_finite_shows():
    for array in (np.asarray, jnp.asarray):
        assert int(rank_for_energy(array(np.zeros(3, np.float32)), 0.9)) == 0
        broken = array(np.float32([np.nan, 1.0, 0.0]))
        assert int(rank_for_energy(broken, 0.9)) > 0


def test_at_all_of_the_energy_even_a_zero_is_counted():
    assert int(rank_for_energy(np.array([1.0, 0.0]), 1.0)) == 2
