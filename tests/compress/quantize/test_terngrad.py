"""TernGrad against its definition: signs, their rate, and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import terngrad


def send(compressor, x):
    context = make_context(jax.random.key(0), 0)
    payload, _ = compressor.encode(context, jnp.asarray(x), ())
    decoded, _ = compressor.decode(context, payload, ())
    return payload, np.asarray(decoded, np.float64)


@pytest.mark.thorough
def test_it_is_its_equation():
    x = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    decoded = send(terngrad(), x)[1]
    s = np.abs(x).max()
    assert set(decoded) == {-s, 0.0, s}
    assert np.all(decoded * x >= 0)
    # A sum of independent signs of rate |x| / s: 5.5 standard deviations.
    rate = np.abs(x.astype(np.float64)) / s
    spread = np.sqrt(np.sum(rate * (1 - rate)))
    assert abs(np.sum(decoded != 0) - rate.sum()) < 5.5 * spread


def test_what_lies_beyond_the_clip_is_brought_to_it():
    x = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    decoded = send(terngrad(clip=2.5), x)[1]
    rms = np.sqrt(np.mean(np.square(x)))
    np.testing.assert_allclose(np.abs(decoded).max(), 2.5 * rms, rtol=1e-5)
    with pytest.raises(ValueError, match="clip=0"):
        terngrad(clip=0)


@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_clipping_leaves_nearly_equal_numbers_as_large_as_they_are(spread):
    x = 0.1 + spread * np.random.default_rng(3).standard_normal(1000)
    decoded = send(terngrad(clip=2.5), np.float32(x))[1]
    np.testing.assert_allclose(decoded.max(), np.float32(x).max(), rtol=1e-6)
    assert np.mean(decoded == 0) <= 0.01
