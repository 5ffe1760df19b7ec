"""The lattice of known range against its formulas, and what its dithers promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.wire.accounting import num_bits

CONTEXT = make_context(jax.random.key(0), 3)


def sent(lattice, x, context=CONTEXT):
    payload, _ = lattice.encode(context, x, ())
    return lattice.decode(context, payload, ())[0]


def test_nearest_is_numpy_s_rounding_and_costs_its_bits():
    x = np.random.default_rng(0).uniform(-2, 3, (7, 4)).astype(np.float32)
    lattice = uniform_lattice(3, low=-1.0, high=2.0, rounding="nearest")
    levels = np.linspace(-1, 2, 8)
    expected = levels[np.abs(x[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(sent(lattice, jnp.asarray(x)), expected, atol=1e-6)
    payload, _ = lattice.encode(CONTEXT, jnp.asarray(x), ())
    assert num_bits(payload).fixed == 28 * 3 + 1


def test_eight_bits_lose_nothing_of_stored_images():
    stored = np.arange(256)
    x = jnp.asarray(stored, jnp.float32) / 255
    for rounding in ("nearest", "stochastic"):
        decoded = sent(uniform_lattice(8, rounding=rounding), x)
        # Where rounding at random meets a level it is off by float32's own rounding.
        np.testing.assert_array_equal(np.round(np.asarray(decoded) * 255), stored)


@pytest.mark.thorough
@pytest.mark.parametrize("rounding", ["stochastic", "subtractive"])
def test_dithers_are_unbiased_and_have_their_variance(rounding):
    draws, step = 40_000, 1 / 3
    lattice = uniform_lattice(2, rounding=rounding)
    x = jnp.array([0.0, 0.11, 0.5, 0.97, 1.0])

    def one(i):
        return sent(lattice, x, make_context(jax.random.key(1), i))

    errors = np.asarray(jax.vmap(one)(jnp.arange(draws)) - x[None], np.float64)
    # Hoeffding, errors within one step: below 1e-6 for all coordinates together.
    bound = step * math.sqrt(2 * math.log(2 * x.size / 1e-7) / draws)
    assert np.abs(errors.mean(0)).max() < bound
    squares = (errors**2).mean(0)
    fraction = np.asarray(x, np.float64) / step % 1
    variance = step**2 * fraction * (1 - fraction)
    if rounding == "subtractive":
        variance = np.full(x.size, step**2 / 12)
    slack = step**2 * math.sqrt(math.log(2 * x.size / 1e-7) / (2 * draws))
    np.testing.assert_array_less(np.abs(squares - variance), slack + 1e-7)


def test_channels_have_their_own_range():
    lattice = uniform_lattice(1, low=(0.0, -2.0), high=(1.0, 2.0), rounding="nearest")
    x = jnp.array([[0.9, 0.9], [0.1, -0.1]])
    np.testing.assert_array_equal(sent(lattice, x), [[1.0, 2.0], [0.0, -2.0]])
    with pytest.raises(ValueError, match="2 channels"):
        sent(lattice, jnp.ones((2, 3)))


def test_what_is_no_number_is_seen_by_the_receiver():
    assert np.isnan(sent(uniform_lattice(2), jnp.array([0.5, jnp.inf]))).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 17}, "bits=17"),
        ({"bits": 1, "low": 1.0}, "above low"),
        ({"bits": 1, "high": math.inf}, "finite"),
        ({"bits": 1, "low": (0.0, 0.0), "high": (1.0, 1.0, 1.0)}, "channels"),
        ({"bits": 1, "rounding": "up"}, "rounding='up'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        uniform_lattice(**arguments)
