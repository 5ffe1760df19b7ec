"""Signs come from the path, and the distance to the limit is small at every rate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import chain, entropy_coded, uniform_trellis
from fedjax_comp.compress.trellis.uniform import (
    CODES,
    nearest_path,
    signed_levels,
    step_of_rate,
)
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

CONTEXT = make_context(jax.random.key(0), 0)


@pytest.mark.parametrize("states", sorted(CODES))
def test_the_polynomials_are_a_code(states: int):
    h0, h1 = CODES[states]
    assert (h0 & 1, h0 // states) == (1, 1), "h0 sees the newest and the oldest bit"
    assert (h1 & 1, h1 // states) == (0, 0), "h1 sees neither"
    assert h1 > 0


@pytest.mark.thorough
@pytest.mark.parametrize("states", [4, 64, 4096])
def test_magnitudes_tell_the_levels(states: int):
    t = 3 * jax.random.normal(jax.random.key(1), (40, 3))
    levels = nearest_path(t, states)
    r = jnp.floor(jnp.abs(levels)).astype(jnp.int32)
    np.testing.assert_array_equal(signed_levels(r, states), levels)


@pytest.mark.thorough
@pytest.mark.parametrize("states", [4, 8])
def test_no_sequence_of_levels_is_nearer(states: int):
    """All sequences of six magnitudes up to 7/2, as the decoder reads them."""
    t = np.random.default_rng(1).uniform(-2, 2, (6, 1))
    every = np.array(list(itertools.product(range(4), repeat=6))).T
    levels = np.asarray(signed_levels(jnp.asarray(every, jnp.int32), states))
    assert len(set(map(tuple, levels.T))) == every.shape[1]
    least = np.min(np.sum((levels - t) ** 2, axis=0))
    found = np.asarray(nearest_path(jnp.asarray(t, jnp.float32), states))
    assert np.abs(found).max() <= 3.5, "t is chosen so that no more is needed"
    np.testing.assert_allclose(np.sum((found - t) ** 2), least, rtol=1e-5)


@pytest.mark.parametrize("bits", [0.5, 1.0, 3.0])
def test_packed_bits_come_within_a_twentieth_of_the_limit(bits: float):
    """Rate, error and limit of one message; the error of `n` coordinates varies by
    about `sqrt(2 / n)`, which is 0.004 bits.
    """
    n = 1 << 16
    x = jax.random.normal(jax.random.key(2), (n,))
    compressor = chain(uniform_trellis(bits), entropy_coded())
    state = compressor.init(x)
    payload, _ = jax.jit(compressor.encode)(CONTEXT, x, state.sender)
    data = to_bytes(payload)
    received = from_bytes(data, jax.tree.map(jnp.zeros_like, payload))
    decoded, _ = jax.jit(compressor.decode)(CONTEXT, received, state.receiver)
    error = float(jnp.sum((decoded - x) ** 2) / jnp.sum(x**2))
    assert float(jnp.vdot(decoded, x) / jnp.vdot(x, x)) == pytest.approx(1, abs=1e-5)
    rate = 8 * (len(data) - HEADER_BYTES) / n
    assert rate == pytest.approx(bits, rel=0.02)
    assert 0.02 < rate - 0.5 * np.log2(1 + 1 / error) < 0.05


@pytest.mark.thorough
def test_more_states_are_nearer():
    n, step = 1 << 14, 0.5
    x = jax.random.normal(jax.random.key(3), (n,))
    errors = []
    for states in (4, 16, 256):
        compressor = uniform_trellis(step=step, states=states)
        payload, _ = jax.jit(compressor.encode)(CONTEXT, x, ())
        decoded, _ = compressor.decode(CONTEXT, payload, ())
        errors.append(float(jnp.sum((decoded - x) ** 2) / n))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("states", [8, 256])
@pytest.mark.parametrize("bits", [0.05, 1.0, 8.0])
def test_steps_shrink_with_the_rate(bits: float, states: int):
    assert step_of_rate(bits, states) > step_of_rate(1.1 * bits, states) > 0


@pytest.mark.thorough
def test_outliers_stay_within_the_symbols():
    """A coordinate of `sqrt(n)` standard deviations is cut, not wrapped."""
    x = jnp.zeros(4096).at[5].set(-3.0)
    compressor = uniform_trellis(4, unbiased=False)
    payload, _ = compressor.encode(CONTEXT, x, ())
    symbols = payload.parts[0].symbols
    assert int(symbols.values.max()) < symbols.cardinality
    decoded, _ = compressor.decode(CONTEXT, payload, ())
    assert int(jnp.argmin(decoded)) == 5
    assert float(jnp.sum((decoded - x) ** 2)) < float(jnp.sum(x**2))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bits": 1, "step": 1},
        {"bits": 0.01},
        {"step": 0.0},
        {"bits": 1, "states": 100},
        {"bits": 1, "states": 8192},
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, float]):
    with pytest.raises(ValueError, match="Expected"):
        uniform_trellis(**arguments)
