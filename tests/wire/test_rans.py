"""rANS: near the entropy, the same table at both ends, two ways of the same words."""

import functools

import constriction
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes import (
    rans,
    rans_words,
)
from fedjax_comp.wire.codes.frequencies import (
    mantissa_bits,
    table_frequencies,
    table_tokens,
)
from fedjax_comp.wire.codes.rans import rans_bits
from fedjax_comp.wire.codes.rans_length import words_of_intervals
from fedjax_comp.wire.codes.rans_words import (
    next_states,
    num_lanes,
    read_words,
    write_words,
)
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Symbols
from tests.as_on_tpu import as_on_tpu
from tests.wire.code_samples import check_round_trip, length_of, sources


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


@pytest.mark.parametrize("count", [0, 1, 2000, 9000])
def test_counted_rans_codes_the_prefix_alone(count):
    values = np.zeros(9000, np.uint8)
    drawn = np.random.default_rng(0).choice(3, count, p=[0.05, 0.9, 0.05])
    values[:count] = drawn
    field = Symbols(jnp.asarray(values), 3, jnp.uint32(count))
    length = check_round_trip(field, rans())
    # A selector, the count, a state, three mantissas of two bits and their exponents.
    assert length <= 1.02 * entropy_bits(drawn) + 1 + 14 + 32 + 3 * 12


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


def encoded(symbols, frequencies, first):
    """One lane by the definition, from a first state: `(state, words)` as read."""
    starts = np.cumsum(frequencies) - frequencies
    state, words = first, []
    for symbol in reversed(symbols):
        frequency, start = int(frequencies[symbol]), int(starts[symbol])
        if state >= (1 << 18) * frequency:
            words.append(state % (1 << 16))
            state >>= 16
        state = (state // frequency << 14) + state % frequency + start
    return state, words[::-1]


@pytest.mark.parametrize("few_rows", [0, 1 << 30], ids=["compiled", "numpy"])
def test_a_lane_that_does_not_end_in_the_first_state_is_refused(monkeypatch, few_rows):
    """Its symbols are sound, its words are all used: only the state tells."""
    monkeypatch.setattr(rans_words, "_FEW_ROWS", few_rows)
    frequencies = np.array([9000, 7000, 384], np.uint32)
    starts = (np.cumsum(frequencies) - frequencies).astype(np.uint32)
    symbols = np.random.default_rng(1).choice(3, 200, p=[0.55, 0.43, 0.02])
    symbols = symbols.astype(np.uint64)

    def message(first):
        state, words = encoded(symbols.tolist(), frequencies, first)
        writer = BitWriter()
        writer.write([state], 32)
        writer.write(words, 16)
        return writer.to_bytes()

    def read(data):
        reader = BitReader(data)
        return read_words(200, starts, frequencies, 1, reader), reader

    ours = BitWriter()
    write_words(symbols, starts, frequencies, 1, ours)
    assert message(1 << 16) == ours.to_bytes()
    back, reader = read(message(1 << 16))
    reader.finish()
    np.testing.assert_array_equal(back, symbols)
    for first in ((1 << 16) + 1, 1 << 20, (1 << 32) - 1):
        with pytest.raises(WireError, match="does not end where the encoder began"):
            read(message(first))


def test_rans_lanes_must_be_positive():
    with pytest.raises(ValueError, match="symbols_per_lane=0 >= 1"):
        rans(symbols_per_lane=0)


def test_states_are_those_of_whole_numbers():
    """Quotients of floats, put right: at multiples of a frequency and beside them."""
    rng = np.random.default_rng(0)
    frequency = np.concatenate(
        [np.arange(1, 65), 2 ** np.arange(14), rng.integers(1, 1 << 14, 2000)]
    )
    frequency = np.append(frequency, 1 << 14)[:, None].astype(np.uint64)
    # A state is below 2**18 times its frequency when it is divided.
    quotient = np.concatenate(
        [2 ** np.arange(19), 2 ** np.arange(19) - 1, rng.integers(1, 1 << 18, 60)]
    )
    quotient = quotient[quotient < 1 << 18]
    multiples = frequency * quotient.astype(np.uint64)
    rests = 0 * frequency, np.minimum(frequency - 1, 1), frequency - 1
    state = np.concatenate([multiples + rest for rest in rests], axis=1)
    frequency = np.broadcast_to(frequency, state.shape)
    start = (np.uint64(1 << 14) - frequency) // np.uint64(2)
    row = jnp.asarray((start << np.uint64(15) | frequency).astype(np.uint32))
    after, emit = jax.jit(next_states)(jnp.asarray(state.astype(np.uint32)), row)
    assert not bool(emit.any())
    expected = (state // frequency << np.uint64(14)) + state % frequency + start
    np.testing.assert_array_equal(after, expected.astype(np.uint32))


@pytest.mark.parametrize("cardinality", [3, 255, 256, 3000])
def test_lengths_on_a_tpu_are_the_same(cardinality):
    rng = np.random.default_rng(cardinality)
    values = (rng.random((2, 20_000)) ** 3 * cardinality).astype(np.uint16)

    def bits(values, count):
        return rans().num_bits(Symbols(values, cardinality, count=count)).variable

    some = jnp.array([20_000, 12_345], jnp.uint32)
    for lengths in (None, some):
        mapped = jax.vmap(bits, in_axes=(0, None if lengths is None else 0))
        here = jax.jit(mapped)(jnp.asarray(values), lengths)
        there = as_on_tpu(mapped)(jnp.asarray(values), lengths)
        jax.tree.map(np.testing.assert_array_equal, there, here)


def test_lengths_of_many_lanes_on_a_tpu_are_the_same():
    values = jnp.asarray(np.random.default_rng(0).integers(0, 5, (2, 2000), np.uint8))
    mapped = jax.vmap(lambda x: rans_bits(x, 5, 128))
    here, there = jax.jit(mapped)(values), as_on_tpu(mapped)(values)
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("lanes", [16, 128])
def test_lengths_of_intervals_on_a_tpu_are_the_same(lanes):
    rng = np.random.default_rng(lanes)
    frequency = rng.integers(1, 1 << 13, (3, 5000))
    start = rng.integers(0, (1 << 14) - frequency)
    intervals = jnp.asarray((start << 15 | frequency).astype(np.uint32))
    words = functools.partial(words_of_intervals, lanes=lanes)
    for mapped, x in (
        (words, intervals[0]),
        (jax.vmap(words), intervals),
        (jax.vmap(lambda _: words(intervals[0])), intervals),
    ):
        np.testing.assert_array_equal(as_on_tpu(mapped)(x), jax.jit(mapped)(x))
