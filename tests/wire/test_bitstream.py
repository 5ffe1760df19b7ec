"""The bit stream against a bit-by-bit reference."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.errors import WireError


def reference_bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


@st.composite
def segments(draw):
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        width = draw(st.integers(0, 64))
        values = draw(st.lists(st.integers(0, 2**width - 1), max_size=70))
        parts.append((width, values))
    return parts


@settings(max_examples=150, deadline=None)
@given(segments())
def test_stream_is_least_significant_bit_first(parts):
    writer, bits = BitWriter(), ""
    for width, values in parts:
        writer.write(np.array(values, np.uint64), width)
        bits += "".join(format(v, f"0{width}b")[::-1] for v in values if width)
    assert writer.num_bits == len(bits)
    assert writer.to_bytes() == reference_bytes(bits)
    reader = BitReader(writer.to_bytes())
    for width, values in parts:
        assert reader.read(len(values), width).tolist() == values
    reader.finish()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**40 - 1)), max_size=50),
    st.lists(st.integers(0, 100), max_size=50),
    st.binary(max_size=9),
)
def test_unary_varied_and_bytes_round_trip(varied, unary, raw):
    widths = np.array([w for w, _ in varied], np.int64)
    values = np.array([v % 2**w for w, v in varied], np.uint64)
    writer = BitWriter()
    writer.write_unary(np.array(unary, np.uint64))
    writer.write_varied(values, widths)
    writer.write_bytes(raw)
    assert writer.num_bits == sum(unary) + len(unary) + widths.sum() + 8 * len(raw)
    reader = BitReader(writer.to_bytes())
    assert reader.read_unary(len(unary), 8 * len(writer.to_bytes())).tolist() == unary
    assert reader.read_varied(widths).tolist() == values.tolist()
    assert reader.read_bytes(len(raw)).tobytes() == raw
    reader.finish()


@pytest.mark.parametrize(
    "read",
    [
        lambda r: r.read(2**60, 64),
        lambda r: r.read_bytes(2**60),
        lambda r: r.read_unary(2**60, 2**62),
        lambda r: r.read_unary(17, 2**62),
        lambda r: r.read_varied(np.array([2**60])),
        lambda r: r.skip(17),
    ],
)
def test_reading_past_the_end_is_refused_before_allocating(read):
    with pytest.raises(WireError):
        read(BitReader(b"\xff\x7f"))


def test_what_is_left_over_is_refused():
    with pytest.raises(WireError, match="goes on"):
        BitReader(b"\x00").finish()
    reader = BitReader(b"\x10")
    reader.read(4, 1)
    with pytest.raises(WireError, match="not zero"):
        reader.finish()


def test_a_number_too_wide_is_refused():
    with pytest.raises(WireError, match="fit in 3 bits"):
        BitWriter().write(np.array([8]), 3)


def test_a_million_floats_are_copied_not_looped_over():
    # At 1 microsecond a number, a loop would take 1.6 s.
    values = np.zeros(4 * 1_600_000, np.uint8)
    start = time.perf_counter()
    writer = BitWriter()
    writer.write([1], 1)
    writer.write_bytes(values)
    BitReader(writer.to_bytes()).read(1_600_000, 32)
    assert time.perf_counter() - start < 0.8
