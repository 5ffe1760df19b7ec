"""Every code: exact length inside jit, exact round trip, near its information limit."""

import math

import constriction
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes import (
    elias_delta,
    elias_gamma,
    elias_omega,
    fixed_width,
    golomb_rice,
    rans,
    rans_words,
    shortest_index_set,
)
from fedjax_comp.wire.codes.elias import delta_length, gamma_length, omega_length
from fedjax_comp.wire.codes.fixed_width import bit_width, fixed_bits
from fedjax_comp.wire.codes.frequencies import (
    mantissa_bits,
    table_frequencies,
    table_tokens,
)
from fedjax_comp.wire.codes.golomb import golomb_bits, golomb_parameter
from fedjax_comp.wire.codes.index_sets import byte_frequencies, tries_bytes
from fedjax_comp.wire.codes.rans_words import num_lanes
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Coded, IndexSet, Symbols

SYMBOL_CODES = [
    fixed_width,
    elias_gamma,
    elias_delta,
    elias_omega,
    golomb_rice,
    rans,
]
INDEX_CODES = [fixed_width, golomb_rice, shortest_index_set]


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


@pytest.mark.parametrize("count", [0, 1, 2000, 9000])
def test_counted_rans_codes_the_prefix_alone(count):
    values = np.zeros(9000, np.uint8)
    drawn = np.random.default_rng(0).choice(3, count, p=[0.05, 0.9, 0.05])
    values[:count] = drawn
    field = Symbols(jnp.asarray(values), 3, jnp.uint32(count))
    length = check_round_trip(field, rans())
    # A selector, the count, a state, three mantissas of two bits and their exponents.
    assert length <= 1.02 * entropy_bits(drawn) + 1 + 14 + 32 + 3 * 12


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


# ------------------------------------------------------------------------------ rANS


def entropy_bits(values):
    counts = np.unique(np.asarray(values), return_counts=True)[1]
    return -np.sum(counts * np.log2(counts / counts.sum()))


@pytest.mark.parametrize("n", [10_000, 100_000])
@pytest.mark.parametrize("name", ["ternary", "gauss16", "gauss256", "constant"])
def test_rans_is_within_two_percent_of_the_entropy_and_its_table(n, name):
    field = sources(n)[name]
    table = 2 * field.cardinality if name == "constant" else 0
    states = 32 * num_lanes(n, 8192) if name == "constant" else 0
    limit = 1.02 * entropy_bits(field.values) + table + states
    assert length_of(field, rans()) <= limit


def test_rans_is_within_two_percent_of_constriction():
    for name in ("ternary", "gauss16", "gauss256"):
        field = sources(50_000)[name]
        values = np.asarray(field.values).astype(np.int32)
        shares = np.bincount(values, minlength=field.cardinality) / values.size
        model = constriction.stream.model.Categorical(shares, perfect=False)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(values, model)
        assert length_of(field, rans()) <= 1.02 * 32 * coder.get_compressed().size


jitted_tokens = jax.jit(table_tokens, static_argnums=1)
jitted_frequencies = jax.jit(table_frequencies, static_argnums=2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_same_table_comes_out_of_jax_and_numpy(data):
    alphabet = data.draw(st.sampled_from([1, 3, 40]))
    count = st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 2**32 - 1))
    counts = data.draw(st.lists(count, min_size=alphabet, max_size=alphabet))
    if not any(counts):
        counts[0] = 1
    m = mantissa_bits(10**6, alphabet)
    host = np.array(counts, np.uint32)
    tokens = table_tokens(host, m)
    device_tokens = jitted_tokens(jnp.asarray(host), m)
    starts, frequencies = table_frequencies(*tokens, m)
    for ours, theirs in zip(
        (*tokens, starts, frequencies),
        (*device_tokens, *jitted_frequencies(*device_tokens, m)),
        strict=True,
    ):
        assert ours.dtype == np.uint32
        assert theirs.dtype == jnp.uint32
        np.testing.assert_array_equal(ours, theirs)
    assert frequencies.sum() == 2**14
    np.testing.assert_array_equal(frequencies > 0, host > 0)
    np.testing.assert_array_equal(starts, np.cumsum(frequencies) - frequencies)


@pytest.mark.parametrize("share", [1, 3, 64, 10**9])
def test_any_number_of_lanes_gives_the_symbols_back(share):
    check_round_trip(sources(1000)["ternary"], rans(symbols_per_lane=share))


@pytest.mark.parametrize("share", [8192, 40])
def test_compiled_rans_writes_and_reads_what_numpy_does(monkeypatch, share):
    """Also where only a part of the field travels, and where its end is missing."""
    values = sources(3000)["gauss16"].values
    code = rans(symbols_per_lane=share)
    for count in (None, jnp.uint32(2001), jnp.uint32(1)):
        live = np.arange(3000) < (3000 if count is None else int(count))
        field = Symbols(jnp.where(live, values, 0), 16, count)
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), field)
        written, errors = [], []
        for few_rows in (0, 1 << 30):
            monkeypatch.setattr(rans_words, "_FEW_ROWS", few_rows)
            writer = BitWriter()
            code.pack(field, writer)
            data = writer.to_bytes()
            written.append(data)
            back = code.unpack(template, BitReader(data))
            np.testing.assert_array_equal(back.values, field.values)
            if count is None:
                with pytest.raises(WireError) as error:
                    code.unpack(template, BitReader(data[:-100]))
                errors.append(str(error.value))
        assert written[0] == written[1]
        assert len(set(errors)) == (count is None)


def test_rans_lanes_must_be_positive():
    with pytest.raises(ValueError, match="symbols_per_lane=0 >= 1"):
        rans(symbols_per_lane=0)
