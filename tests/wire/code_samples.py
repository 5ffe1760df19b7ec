"""Fields of known distributions, and the round trip that every code is held to."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.wire.accounting import message_bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.fields import Symbols


def symbols(values, cardinality):
    dtype = np.uint8 if cardinality <= 256 else np.uint32
    return Symbols(jnp.asarray(np.asarray(values, dtype)), cardinality)


def length_of(field, code):
    return message_bits(jax.jit(code.num_bits)(field))


def check_round_trip(field, code):
    length = length_of(field, code)
    writer = BitWriter()
    code.pack(field, writer)
    assert writer.num_bits == length
    reader = BitReader(writer.to_bytes())
    template = jax.eval_shape(lambda: field)
    back = code.unpack(template, reader)
    reader.finish()
    assert back.values.dtype == field.values.dtype
    assert back.values.shape == field.values.shape
    np.testing.assert_array_equal(back.values, field.values)
    assert jax.tree.structure(back) == jax.tree.structure(field)
    return length


def sources(n):
    rng = np.random.default_rng(n)
    gauss = rng.standard_normal(n)
    return {
        "ternary": symbols(rng.choice(3, n, p=[0.025, 0.95, 0.025]), 3),
        "gauss16": symbols(np.clip(np.round(2.5 * gauss + 7.5), 0, 15), 16),
        "gauss256": symbols(np.clip(np.round(32 * gauss + 128), 0, 255), 256),
        "uniform": symbols(rng.integers(0, 16, n), 16),
        "constant": symbols(np.full(n, 5), 200),
        "huge": symbols(np.round(np.abs(gauss) * 2**26), 2**30),
        "one": symbols(np.zeros(n), 1),
        "skew": symbols(np.where(np.arange(n) == 3, 4095, 0), 4096),
    }
