"""Every code: exact length inside jit, exact round trip, near its information limit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes import (
    elias,
    elias_delta,
    elias_gamma,
    elias_omega,
    fixed_width,
    golomb_rice,
    rans,
    shortest_index_set,
)
from fedjax_comp.wire.codes.elias import delta_length, gamma_length, omega_length
from fedjax_comp.wire.codes.fixed_width import bit_width, fixed_bits
from fedjax_comp.wire.codes.golomb import golomb_bits, golomb_parameter
from fedjax_comp.wire.codes.index_sets import byte_frequencies, tries_bytes
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Coded, IndexSet, Symbols
from tests.wire.code_samples import check_round_trip, sources, symbols

SYMBOL_CODES = [
    fixed_width,
    elias_gamma,
    elias_delta,
    elias_omega,
    golomb_rice,
    rans,
]
INDEX_CODES = [fixed_width, golomb_rice, shortest_index_set]


# ------------------------------------------------------------------------- all codes


@pytest.mark.parametrize("make", SYMBOL_CODES)
@pytest.mark.parametrize(
    ("n", "names"),
    [
        (0, ["ternary"]),
        (1, ["ternary", "huge"]),
        (700, list(sources(1))),
        (17_000, ["ternary", "huge"]),
    ],
)
def test_symbol_codes_give_back_what_they_got(make, n, names):
    for name in names:
        field = sources(n)[name]
        length = check_round_trip(field, make())
        if make is rans:
            assert length <= fixed_bits(field) + 1


@pytest.mark.parametrize("make", SYMBOL_CODES)
def test_shapes_and_scalars(make):
    check_round_trip(symbols(np.arange(24).reshape(2, 3, 4) % 7, 7), make())
    check_round_trip(symbols(np.uint8(4), 7), make())
    check_round_trip(symbols(np.zeros((3, 0)), 7), make())


@pytest.mark.parametrize("make", INDEX_CODES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_index_codes_give_back_what_they_got(make, data):
    bound = data.draw(st.sampled_from([1, 8, 300]))
    chosen = data.draw(st.sets(st.integers(0, bound - 1), max_size=12))
    if bound == 300 and data.draw(st.booleans()):
        chosen = set(range(bound)) - chosen
    values = np.array(sorted(chosen), np.uint32)
    length = check_round_trip(IndexSet(jnp.asarray(values), bound), make())
    if make is shortest_index_set:
        assert length <= 2 + bound


def test_factories_are_cached_so_that_treedefs_are_equal():
    for make in [*SYMBOL_CODES, *INDEX_CODES]:
        assert make() is make()
    assert rans() is rans(symbols_per_lane=8192)
    field = symbols(np.zeros(10), 3)
    first, second = (jax.tree.structure(Coded(field, rans())) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.thorough
def test_lengths_are_exact_under_jit_vmap_and_scan():
    rng = np.random.default_rng(0)
    draws = [rng.choice(5, 3000, p=[0.8, 0.1, 0.05, 0.04, 0.01]) for _ in range(3)]
    batch = symbols(np.stack(draws), 5)
    rows = np.stack([np.sort(rng.choice(999, 40, replace=False)) for _ in range(3)])
    indices = IndexSet(jnp.asarray(rows, jnp.uint32), 999)

    def length(field, index):
        payload = [Coded(field, rans(symbols_per_lane=512)), Coded(index, golomb)]
        return num_bits(payload)

    golomb = shortest_index_set()
    single = [
        length(*jax.tree.map(lambda x, i=i: x[i], (batch, indices))) for i in (0, 1, 2)
    ]
    expected = [message_bits(bits) for bits in single]
    mapped = jax.jit(jax.vmap(length))(batch, indices)
    _, scanned = jax.lax.scan(lambda c, x: (c, length(*x)), 0, (batch, indices))
    for bits in (mapped, scanned):
        assert all(v.dtype == jnp.uint32 and v.shape == (3,) for v in bits.variable)
        got = bits.fixed + sum(np.asarray(v).astype(int) for v in bits.variable)
        assert got.tolist() == expected


def test_leaves_too_long_to_count_are_refused_by_name():
    many = Symbols(jax.ShapeDtypeStruct((2**29,), "uint8"), 256)
    for make in (rans, elias_gamma, elias_delta, elias_omega, golomb_rice):
        with pytest.raises(ValueError, match=r"Symbols of shape \(536870912,\)"):
            jax.eval_shape(make().num_bits, many)
    wide = IndexSet(jax.ShapeDtypeStruct((5,), "uint32"), 2**31)
    with pytest.raises(ValueError, match="IndexSet of shape"):
        jax.eval_shape(shortest_index_set().num_bits, wide)


@pytest.mark.parametrize("make", SYMBOL_CODES)
def test_symbols_outside_the_alphabet_are_never_written(make):
    with pytest.raises(WireError, match="Expected 7 < 5"):
        make().pack(symbols([1, 7], 5), BitWriter())


@pytest.mark.parametrize("make", INDEX_CODES)
@pytest.mark.parametrize("values", [[1, 1], [3, 2], [2, 10]])
def test_index_sets_that_are_none_are_never_written(make, values):
    with pytest.raises(WireError):
        make().pack(IndexSet(jnp.asarray(values, jnp.uint32), 10), BitWriter())


# ----------------------------------------------------------------------- fixed width


def test_fixed_width_costs_the_ceiling_of_the_logarithm():
    for cardinality in [*range(1, 70), 2**16, 2**16 + 1, 2**32]:
        assert bit_width(cardinality) == math.ceil(math.log2(cardinality))


# ----------------------------------------------------------------------------- Elias


def published_gamma(x):
    return "0" * (x.bit_length() - 1) + format(x, "b")


def published_delta(x):
    return published_gamma(x.bit_length()) + format(x, "b")[1:]


def published_omega(x):
    word = "0"
    while x > 1:
        word = format(x, "b") + word
        x = x.bit_length() - 1
    return word


@pytest.mark.parametrize(
    ("length", "published"),
    [
        (gamma_length, published_gamma),
        (delta_length, published_delta),
        (omega_length, published_omega),
    ],
)
def test_elias_lengths_are_those_of_the_published_words(length, published):
    x = [*range(1, 600), 2**16 - 1, 2**16, 2**31, 2**32 - 1]
    expected = [len(published(i)) for i in x]
    assert length(jnp.asarray(np.array(x, np.uint32))).tolist() == expected


ELIAS = [
    (elias.write_gamma, elias.read_gamma),
    (elias.write_delta, elias.read_delta),
    (elias.write_omega, elias.read_omega),
]


@pytest.mark.parametrize(("write", "read"), ELIAS)
def test_elias_codes_end_below_two_to_the_32(write, read):
    """The writers know no limit: what they make of larger numbers, no reader takes."""
    inside = np.array([1, 2**32 - 1, 2**31, 2**31 - 1, 1], np.uint64)
    writer = BitWriter()
    write(inside, writer)
    reader = BitReader(writer.to_bytes())
    np.testing.assert_array_equal(read(inside.size, reader), inside)
    reader.finish()
    for beyond in (2**32, 2**33 + 1, 2**45):
        writer = BitWriter()
        write(np.array([1, beyond, 1], np.uint64), writer)
        with pytest.raises(WireError, match=r"Elias code below 2\*\*32, got 2\*\*"):
            read(3, BitReader(writer.to_bytes()))


def test_an_omega_code_of_an_enormous_number_is_refused_before_it_is_read():
    """Groups 3, 15 and 65535 promise a number of 65535 bits, four bytes behind."""
    writer = BitWriter()
    for going, width in ((1, 1), (1, 3), (1, 15), (1, 30)):
        writer.write([going], 1)
        writer.write([2**width - 1], width)
    with pytest.raises(WireError, match=r"got 2\*\*65535"):
        elias.read_omega(1, BitReader(writer.to_bytes()))


# ------------------------------------------------------------------------ index sets


def test_golomb_lengths_are_those_of_the_published_code():
    for m in (1, 2, 3, 5, 8, 100):
        gaps = np.array([0, 1, 2, 3, 4, 7, 99, 100, 250])
        width = math.ceil(math.log2(m))
        words = gaps // m + 1 + width - (gaps % m < 2**width - m) * (width > 0)
        indices = jnp.asarray(np.cumsum(gaps + 1) - 1, jnp.uint32)
        assert int(golomb_bits(indices, m)) == words.sum()


def test_golomb_parameter_is_the_best_one():
    for density in (0.001, 0.03, 0.2, 0.45):
        gaps = np.arange(20_000)
        mass = density * (1 - density) ** gaps

        def cost(m, gaps=gaps, mass=mass):
            width = math.ceil(math.log2(m))
            short = gaps % m < 2**width - m
            return np.sum(mass * (gaps // m + 1 + width - short * (width > 0)))

        m = golomb_parameter(round(density * 10**6), 10**6)
        assert all(cost(m) <= cost(j) + 1e-9 for j in (max(m - 1, 1), m + 1, 2 * m))


@pytest.mark.parametrize("bound", [10_000, 300_000])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.2, 0.38, 0.45, 0.6, 0.95])
def test_random_index_sets_cost_close_to_the_number_of_sets(bound, density):
    k = round(density * bound)
    chosen = np.random.default_rng(k).choice(bound, k, replace=False)
    field = IndexSet(jnp.asarray(np.sort(chosen), jnp.uint32), bound)
    ideal = math.lgamma(bound + 1) - math.lgamma(k + 1) - math.lgamma(bound - k + 1)
    length = check_round_trip(field, shortest_index_set())
    assert length <= 1.02 * ideal / math.log(2)


@pytest.mark.parametrize("density", [0.001, 0.03, 0.1, 0.25, 0.3, 0.5])
def test_counted_sets_cost_close_to_the_number_of_sets(density):
    bound, capacity = 30_000, 20_000
    k = round(density * bound)
    chosen = np.sort(np.random.default_rng(k).choice(bound, k, replace=False))
    values = np.zeros(capacity, np.uint32)
    values[:k] = chosen
    field = IndexSet(jnp.asarray(values), bound, jnp.uint32(k))
    ideal = math.lgamma(bound + 1) - math.lgamma(k + 1) - math.lgamma(bound - k + 1)
    length = check_round_trip(field, shortest_index_set())
    # A selector, the count and the parameter of Rice, whose redundancy is its own.
    paid = 1 + capacity.bit_length() + 4
    assert length <= 1.05 * ideal / math.log(2) + paid


def test_frequencies_of_bytes_are_those_of_a_random_bitmap():
    for k, bound in ((1500, 10_000), (5000, 10_000), (8500, 10_000)):
        assert tries_bytes(k, bound)
        starts, frequencies = byte_frequencies(k, bound)
        assert frequencies.sum() == 2**14
        assert frequencies.min() >= 1
        np.testing.assert_array_equal(starts, np.cumsum(frequencies) - frequencies)
        p, ones = k / bound, np.bitwise_count(np.arange(256))
        shares = p**ones * (1 - p) ** (8 - ones)
        # Each gets one, and then its share of the rest, rounded.
        expected = 1 + (2**14 - 256) * shares
        assert np.abs(frequencies - expected).max() <= 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_counted_fields_give_back_what_they_got(data):
    capacity, bound = 24, 40
    chosen = data.draw(st.sets(st.integers(0, bound - 1), max_size=capacity))
    count = jnp.uint32(len(chosen))
    prefix = np.zeros(capacity, np.uint32)
    prefix[: len(chosen)] = sorted(chosen)
    indices = IndexSet(jnp.asarray(prefix), bound, count)
    for make in INDEX_CODES:
        check_round_trip(indices, make())
    prefix[: len(chosen)] = data.draw(
        st.lists(st.integers(0, bound - 1), min_size=len(chosen), max_size=len(chosen))
    )
    field = Symbols(jnp.asarray(prefix.reshape(4, 6)), bound, count)
    for make in SYMBOL_CODES:
        check_round_trip(field, make())


@pytest.mark.parametrize("width", [0, 1, 5, 8])
def test_symbols_travel_at_their_width(width):
    rng = np.random.default_rng(width)
    values = jnp.asarray(rng.integers(0, 2**width, 100), jnp.uint8)
    field = Symbols(values, 256, width=jnp.uint32(width))
    assert check_round_trip(field, fixed_width()) == 4 + 100 * width
    for make in SYMBOL_CODES[1:]:
        with pytest.raises(ValueError, match="symbols without a width"):
            make().num_bits(field)


def test_what_is_no_counted_field_is_never_written_or_read():
    values = jnp.asarray([1, 2, 3], jnp.uint8)
    with pytest.raises(WireError, match="Expected zeros behind the first 2 values"):
        fixed_width().pack(Symbols(values, 4, jnp.uint32(2)), BitWriter())
    with pytest.raises(WireError, match=r"Expected count=4 in \[0, 3\]"):
        fixed_width().pack(Symbols(values, 4, jnp.uint32(4)), BitWriter())
    with pytest.raises(WireError, match="Expected 3 to fit in 1 bits"):
        fixed_width().pack(Symbols(values, 4, width=jnp.uint32(1)), BitWriter())
    with pytest.raises(WireError, match="Expected width=3 <= 2"):
        fixed_width().pack(Symbols(values, 4, width=jnp.uint32(3)), BitWriter())
    wide = jax.eval_shape(lambda: Symbols(values, 4, width=jnp.uint32(1)))
    with pytest.raises(WireError, match="Expected width=3 <= 2"):
        fixed_width().unpack(wide, BitReader(bytes([255])))
    template = jax.eval_shape(
        lambda: Symbols(jnp.zeros(4, jnp.uint8), 4, jnp.uint32(1))
    )
    for make in SYMBOL_CODES[1:-1]:
        with pytest.raises(WireError, match="Expected count=7 in"):
            make().unpack(template, BitReader(bytes([255])))


@pytest.mark.parametrize("make", [elias_gamma, elias_delta, elias_omega])
def test_elias_codes_refuse_what_may_be_longer_than_a_count_of_bits(make):
    # 3.1e9 bits at a fixed width; 6.4e9 if every number were the largest.
    values = jax.ShapeDtypeStruct((100_000_000,), jnp.uint32)
    with pytest.raises(ValueError, match=r"up to 6[0-9]{9} for Symbols"):
        jax.eval_shape(lambda x: make().num_bits(Symbols(x, 1 << 31)), values)
