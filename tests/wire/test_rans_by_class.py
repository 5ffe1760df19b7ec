"""rANS by class: near the entropy of each class, no table, every class and escape."""

import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.wire.accounting import message_bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes import rans, weibull
from fedjax_comp.wire.codes.rans_by_class import Classified, rans_by_class
from fedjax_comp.wire.codes.weibull import ROUNDED, SHAPES, weibull_tables
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Symbols

LEAST_SIZE, SIZES = ROUNDED


def tail(m, k, sigma, theta=0.4):
    """`P(|q| >= m)` of a double Weibull number of standard deviation `sigma`."""
    return math.exp(-(((m - theta) / sigma * math.gamma(1 + 2 / k) ** 0.5) ** k))


def test_moments_are_those_of_the_shapes():
    for k, moment in zip(SHAPES, weibull._SECOND_MOMENTS, strict=True):
        assert abs(math.gamma(1 + 2 / float(k)) - float(moment)) < 1e-11


def test_tables_are_those_of_the_distribution():
    tables = weibull_tables(0.4)
    np.testing.assert_array_equal(tables.frequencies.sum(axis=1), 1 << 14)
    for shape, k in enumerate(map(float, SHAPES)):
        for size in range(15):  # those whose tokens are all of z
            sigma, i = 2.0 ** ((LEAST_SIZE + size) / 2), shape * SIZES + size
            escape = tables.escapes[i]
            below = np.cumsum(tables.frequencies[i])[:escape] / 2**14
            # Of z >= 2 m - 1; half of those of |q| = m are z = 2 m.
            of_m = [1.0, *(tail(m, k, sigma) for m in range(1, 40))]
            of_z = [
                of_m[(z + 1) // 2] if z % 2 else (of_m[z // 2] + of_m[z // 2 + 1]) / 2
                for z in range(1, escape + 1)
            ]
            np.testing.assert_allclose(below, 1 - np.array(of_z), atol=2**-7.9)
            assert tables.shifts[i] == 0


@pytest.mark.parametrize("dead_zone", [0.05, 0.5, None])
def test_every_token_in_use_has_a_share(dead_zone):
    tables = weibull_tables(dead_zone)
    used = np.arange(weibull.TOKENS)[None, :] <= tables.escapes[:, None]
    assert tables.frequencies[used].min() >= 1
    assert tables.frequencies.max() < 1 << 14
    assert not tables.frequencies[~used].any()
    np.testing.assert_array_equal(tables.frequencies.sum(axis=1), 1 << 14)


def test_tables_with_noise_are_means_of_tails():
    tables = weibull_tables(None)
    least, number = tables.sizes
    np.testing.assert_array_equal(tables.frequencies.sum(axis=1), 1 << 14)
    for shape, k in enumerate(map(float, SHAPES)):
        for size in (8, 16, 22, 26, 29, 31):
            sigma, i = 2.0 ** ((least + size) / 2), shape * number + size
            middle = (np.arange(4000) + 0.5) / 4000  # their cubes: many near 0
            chances = [tail(1, k, sigma, 1 - y**3) * 3 * y**2 for y in middle]
            nonzero = np.mean(chances)
            share = tables.frequencies[i, 0] / 2**14
            tokens = int(tables.escapes[i]) + 1
            np.testing.assert_allclose(
                share, 1 - nonzero, atol=0.05 * nonzero + tokens / 2**14
            )


def test_tables_are_the_same_integers_everywhere():
    # What one machine writes another reads: a change of these is another format.
    tables = weibull_tables(0.4)
    digest = hashlib.sha256(tables.frequencies.astype("<u4").tobytes()).hexdigest()
    assert digest.startswith("15d1567a03d7d61b")


@functools.cache
def code_of(shape):
    """Sizes travel as one symbol each."""
    return rans_by_class(
        "test",
        weibull_tables(0.4),
        lambda side: side.astype(jnp.int32) + shape * SIZES,
        symbols_per_lane=4096,
    )


def round_trip(field, code):
    length = message_bits(jax.jit(code.num_bits)(field))
    writer = BitWriter()
    code.pack(field, writer)
    assert writer.num_bits == length
    reader = BitReader(writer.to_bytes())
    back = code.unpack(jax.eval_shape(lambda: field), reader)
    reader.finish()
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(field), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    return length


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [1, 4])
def test_lengths_are_within_a_per_cent_of_the_entropy(shape):
    n, k = 60_000, float(SHAPES[shape])
    rng = np.random.default_rng(shape)
    sizes = rng.integers(4, 24, n)
    sigma = 2.0 ** ((LEAST_SIZE + sizes) / 2)
    magnitude = sigma * math.gamma(1 + 2 / k) ** -0.5 * rng.weibull(k, n)
    level = np.floor(magnitude + 0.4).astype(int)
    z = 2 * level - (rng.integers(0, 2, n) & (level > 0))
    side = Symbols(jnp.asarray(sizes, jnp.uint8), 64)
    field = Classified(side, Symbols(jnp.asarray(z, jnp.uint16), 2**16))
    paid = round_trip(field, code_of(shape)) - message_bits(rans().num_bits(side))
    ideal = 0.0
    for m, s in zip(level, sigma, strict=True):
        above = tail(m + 1, k, s)
        share = 1 - above if m == 0 else (tail(m, k, s) - above) / 2
        ideal -= math.log2(share)
    assert 0 < paid - ideal < 0.01 * ideal + 32 * 16


def test_every_class_codes_every_symbol():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.integers(0, 2**e, 400) for e in range(25)])
    sizes = rng.integers(0, SIZES, z.size)
    field = Classified(
        Symbols(jnp.asarray(sizes, jnp.uint8), 64),
        Symbols(jnp.asarray(z, jnp.uint32), 2**24),
    )
    for shape in (0, len(SHAPES) - 1):
        round_trip(field, code_of(shape))


def test_one_symbol_is_a_message():
    side = Symbols(jnp.asarray([9], jnp.uint8), 64)
    field = Classified(side, Symbols(jnp.asarray([2], jnp.uint8), 3))
    assert round_trip(field, code_of(1)) <= 6 + 32 + 16


@pytest.mark.thorough
def test_fields_beyond_four_gigabits_are_counted_in_parts(monkeypatch):
    # 20 million symbols of 24 bits could take 1.8 Gbit, 200 million more than a uint32.
    def shape(n):
        return Classified(
            Symbols(jax.ShapeDtypeStruct((n,), jnp.uint8), 64),
            Symbols(jax.ShapeDtypeStruct((n,), jnp.uint32), 2**24),
        )

    counts = [
        len(jax.eval_shape(code_of(1).num_bits, shape(n)).variable)
        for n in (20_000_000, 200_000_000)
    ]
    assert counts == [2, 17]
    # The same at a size at which it can be written: `round_trip` has the exact length.
    rng = np.random.default_rng(1)
    for most, n in ((1000, 100), (4000, 1001)):
        monkeypatch.setattr("fedjax_comp.wire.codes.rans_by_class._MOST_BITS", most)
        field = Classified(
            Symbols(jnp.asarray(rng.integers(0, SIZES, n), jnp.uint8), 64),
            Symbols(jnp.asarray(rng.integers(0, 2**12, n), jnp.uint32), 2**24),
        )
        bits = code_of(2).num_bits(field)
        assert len(bits.variable) > 5
        if n * 88 // most < 16:
            assert max(map(int, bits.variable)) < 2 * most
        round_trip(field, code_of(2))


def test_an_escape_beyond_the_symbols_is_refused():
    side = Symbols(jnp.asarray([0], jnp.uint8), 64)
    wide = Classified(side, Symbols(jnp.asarray([900], jnp.uint16), 1000))
    writer = BitWriter()
    code_of(1).pack(wide, writer)
    narrow = Classified(side, Symbols(jnp.asarray([0], jnp.uint16), 900))
    with pytest.raises(WireError, match="900 < 900"):
        code_of(1).unpack(narrow, BitReader(writer.to_bytes()))
