"""Sparsifiers of varying count: what they keep, and that the count is what is paid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import top_k
from fedjax_comp.compress.sparsify.counted import threshold, warm_up_top_k
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import from_bytes, to_bytes

CONTEXT = make_context(jax.random.key(0), 0)


def roundtrip(compressor, x):
    payload, _ = compressor.encode(CONTEXT, x, compressor.init(x).sender)
    return payload, compressor.decode(CONTEXT, payload, ())[0]


@pytest.mark.parametrize("value", [1e-6, 0.7, 1.5, 9.0])
def test_what_is_above_travels_and_is_paid_for(value):
    x = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    payload, decoded = roundtrip(threshold(value, cap=1.0), jnp.asarray(x))
    above = np.abs(x) >= value
    np.testing.assert_array_equal(decoded, np.where(above, x, 0))
    # Two counts in [0, 200], a float and an index in [0, 200) for each.
    assert message_bits(num_bits(payload)) == 2 * 8 + above.sum() * (32 + 8)
    rebuilt = from_bytes(to_bytes(payload), payload)
    np.testing.assert_array_equal(
        threshold(value, cap=1.0).decode(CONTEXT, rebuilt, ())[0], decoded
    )


@pytest.mark.thorough
def test_the_cap_makes_it_top_k():
    x = jnp.asarray(np.random.default_rng(1).standard_normal(50), jnp.float32)
    _, capped = roundtrip(threshold(1e-6, cap=0.2), x)
    np.testing.assert_array_equal(capped, roundtrip(top_k(0.2), x)[1])


def test_a_nan_is_sent_and_zeros_are_not():
    x = jnp.asarray([0.0, jnp.nan, 0.1, 5.0])
    payload, decoded = roundtrip(threshold(1.0, cap=1.0), x)
    assert int(payload.parts[0].indices.count) == 2
    assert bool(jnp.isnan(decoded[1]))
    assert int(roundtrip(threshold(1.0), jnp.zeros(9))[0].parts[0].values.count) == 0


@pytest.mark.thorough
def test_the_warm_up_is_top_k_of_the_fraction_in_force():
    fractions = [0.5, 0.5, 0.25, 0.25, 0.1, 0.1, 0.1]
    compressor = warm_up_top_k(0.1, warm_up=(0.5, 0.25), messages=2)
    x = jnp.asarray(np.random.default_rng(2).standard_normal(40), jnp.float32)
    sender = compressor.init(x).sender
    for fraction in fractions:
        payload, sender = compressor.encode(CONTEXT, x, sender)
        decoded, _ = compressor.decode(CONTEXT, payload, ())
        np.testing.assert_array_equal(decoded, roundtrip(top_k(fraction), x)[1])
        kept = round(fraction * 40)
        # Two counts in [0, 20], a float and an index in [0, 40) for each.
        assert message_bits(num_bits(payload)) == 2 * 5 + kept * (32 + 6)


def test_a_warm_up_may_rise_again():
    compressor = warm_up_top_k(0.5, warm_up=(0.25,), messages=1)
    x = jnp.asarray([4.0, 3.0, 2.0, 1.0])
    sender, counts = compressor.init(x).sender, []
    for _ in range(3):
        payload, sender = compressor.encode(CONTEXT, x, sender)
        counts.append(int(payload.parts[0].values.count))
    assert counts == [1, 2, 2]


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="Expected value=0"):
        threshold(0)
    with pytest.raises(ValueError, match=r"Expected cap=1\.5 in \(0, 1\]"):
        threshold(1.0, cap=1.5)
    with pytest.raises(ValueError, match=r"Expected warm_up=2 in \(0, 1\]"):
        warm_up_top_k(0.1, warm_up=(2,), messages=1)
    with pytest.raises(ValueError, match="Expected messages=0 >= 1"):
        warm_up_top_k(0.1, warm_up=(), messages=0)
