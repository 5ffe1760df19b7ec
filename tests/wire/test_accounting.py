"""Sums of bits: no bit is lost, only messages that were sent cost anything."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import Bits, make_context
from fedjax_comp.compress import stochastic_quantize, to_dtype
from fedjax_comp.wire.accounting import (
    add_bits,
    dense_bits,
    message_bits,
    num_bits,
)
from fedjax_comp.wire.codes import rans
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols


def test_each_field_costs_what_it_says():
    payload = {
        "bare": jnp.zeros((2, 3)),
        "raw": Raw(jnp.zeros(5, jnp.bfloat16)),
        "symbols": Symbols(jnp.zeros((2, 2), jnp.uint8), 5),
        "indices": IndexSet(jnp.arange(3, dtype=jnp.uint32), 1000),
        "flags": jnp.zeros(7, bool),
    }
    bits = num_bits(payload)
    assert bits == Bits(2 * 3 * 32 + 5 * 16 + 2 * 2 * 3 + 3 * 10 + 7, ())
    assert num_bits(jax.eval_shape(lambda: payload)) == bits
    assert num_bits([]) == Bits(0)


def test_one_variable_length_for_each_coded_field():
    field = Symbols(jnp.zeros(100, jnp.uint8), 4)
    bits = jax.jit(num_bits)([Coded(field, rans()), jnp.zeros(2), Coded(field, rans())])
    assert len(bits.variable) == 2
    assert all(v.dtype == jnp.uint32 and v.shape == () for v in bits.variable)
    one = jax.jit(num_bits)([Coded(field, rans())])
    assert message_bits(bits) == 2 * message_bits(one) + 64


def test_sums_beyond_32_bits_are_exact():
    most = jnp.uint32(2**32 - 1)
    bits = add_bits(Bits(2**40 + 1, (most,)), Bits(1), Bits(0, (most, most)))
    assert message_bits(bits) == 2**40 + 2 + 3 * (2**32 - 1)


def test_one_message_is_not_a_cohort():
    with pytest.raises(ValueError, match=r"wire\.traffic"):
        message_bits(Bits(1, (jnp.zeros(3, jnp.uint32),)))


def test_dense_bits_are_those_of_the_dtypes():
    tree = {"a": jnp.zeros((10, 3)), "b": jax.ShapeDtypeStruct((4,), "bfloat16")}
    assert dense_bits(tree) == 10 * 3 * 32 + 4 * 16


def test_leaves_of_more_than_2_to_the_31_bits_are_counted_from_their_shapes():
    """Nothing of this size is made: a count at fixed width needs no values."""
    like = jax.ShapeDtypeStruct((2**30,), jnp.float32)
    context = jax.eval_shape(lambda: make_context(jax.random.key(0), 0))
    for compressor, each in ((stochastic_quantize(16), 4), (to_dtype("bfloat16"), 16)):
        payload, _ = jax.eval_shape(compressor.encode, context, like, ())
        bits = num_bits(payload)
        assert bits.variable == ()
        assert bits.fixed - each * 2**30 in (0, 64)
    assert dense_bits(like) == 2**35
