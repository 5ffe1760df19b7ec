"""Words on the device hold what the host writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.wire.bitstream import BitWriter
from fedjax_comp.wire.words import (
    group_of,
    pack_interleaved,
    pack_words,
    unpack_interleaved,
)


def stream(values, width):
    writer = BitWriter()
    writer.write(values, width)
    return writer.to_bytes()


def drawn(n, width):
    values = np.random.default_rng(n).integers(2**width, size=n, dtype=np.uint64)
    return values.astype(np.uint8 if width <= 8 else np.uint32)


SOME = (1, 3, 4, 8, 11, 17, 31, 32)
"""Widths that are tested every time; of the others one is like another."""


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_words_are_the_bit_stream(width: int, n: int):
    values = np.random.default_rng(n).integers(2**width, size=n, dtype=np.uint64)
    words = pack_words(jnp.asarray(values.astype(np.uint32)), width)
    written = stream(values, width)
    packed = np.asarray(words).astype("<u4").tobytes()
    assert len(packed) == -(-n * width // 32) * 4
    assert packed[: len(written)] == written
    assert not any(packed[len(written) :])


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="Expected width=3, one of"):
        pack_words(jnp.zeros(3, jnp.uint8), 3)
    for width in (0, 33):
        with pytest.raises(ValueError, match=f"Expected width={width} in"):
            pack_interleaved(jnp.zeros(3, jnp.uint32), width)


def interleaved(values: np.ndarray, width: int) -> bytes:
    """The host's stream of the numbers in the documented order, words put in theirs."""
    group = group_of(width)
    stride = values.size // group.numbers
    first, rest = np.split(values, [stride * group.numbers])
    columns = first.reshape(group.numbers, stride).T
    words = np.frombuffer(stream(columns, width), "<u4").reshape(stride, group.words)
    return words.T.tobytes() + stream(rest, width)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "width",
    [
        width if width in SOME else pytest.param(width, marks=pytest.mark.slow)
        for width in range(1, 33)
    ],
)
def test_interleaved_words_are_the_stream_of_reordered_numbers(width: int):
    for n in (0, 1, 31, 32, 77, 3 * 32 + 5):
        values = drawn(n, width)
        words = pack_interleaved(jnp.asarray(values), width)
        assert words.shape == (-(-n * width // 32),)
        written = interleaved(values, width)
        assert np.asarray(words).astype("<u4").tobytes() == written + bytes(
            4 * words.size - len(written)
        )
        back = unpack_interleaved(words, n, width)
        np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("width", [3, 8, 13])
def test_a_number_too_wide_spoils_no_other(width: int):
    values = np.arange(70, dtype=np.uint32) % 2**width
    spoiled = values.copy()
    spoiled[[0, 40, 69]] += 2**width
    packed = jax.jit(pack_interleaved, static_argnums=1)(jnp.asarray(spoiled), width)
    np.testing.assert_array_equal(packed, pack_interleaved(jnp.asarray(values), width))


def test_what_follows_the_last_number_is_not_looked_at():
    words = pack_interleaved(jnp.asarray(drawn(37, 5)), 5)
    spoiled = words.at[-1].set(words[-1] | jnp.uint32(0xFE000000))
    assert spoiled[-1] != words[-1]
    np.testing.assert_array_equal(unpack_interleaved(spoiled, 37, 5), drawn(37, 5))
