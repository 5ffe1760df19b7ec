"""Unsigned integers in words of 32 bits, on the device.

Two orders, of exactly the same length:

- `pack_words` is the layout of the bit stream itself: neighbours share a word. A
  message is written on the host, from `Symbols` at one byte or more each. Where the
  transfer from the device to the host takes most time, symbols can be packed first.
- `pack_interleaved` puts numbers into one word that lie a stride apart, so that packing
  is shifts of contiguous slices: no number changes its lane. In the stream's order a
  TPU's compiler pads rows of 8 symbols to 128, or takes minutes. Payloads that stay
  inside compiled programs use this order (`fedjax_comp.wire.payload_words`).

    interleaved(values) = stream(values with `p` rows of `n // p` read column by column,
        then the `n % p` that are left),   in groups of p = 32 / gcd(32, width),

except that the words of a group also lie a stride apart.
"""

import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

WORD_BITS = 32


def pack_words(values: jax.Array, width: int) -> jax.Array:
    """Packs unsigned integers into words, the first in the lowest bits.

    As bytes, little-endian, the words are what `fedjax_comp.wire.bitstream` writes for
    `values` at this width.

    Args:
      values: unsigned integers below `2**width`, `[n]`.
      width: 1, 2, 4, 8, 16 or 32.

    Returns:
      uint32 `[ceil(n * width / 32)]`, the last one filled up with zeros.

    Raises:
      ValueError: for any other width.

    >>> [hex(word) for word in pack_words(jnp.arange(9, dtype=jnp.uint8), 4).tolist()]
    ['0x76543210', '0x8']
    """
    if width not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"Expected width={width!r}, one of 1, 2, 4, 8, 16 and 32.")
    each = 32 // width
    rows = jnp.pad(values, (0, -values.size % each)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint32)[None, :] * np.uint32(width)
    return jnp.sum(rows.astype(jnp.uint32) << shifts, axis=1, dtype=jnp.uint32)


class Group(NamedTuple):
    """The least number of integers that fill whole words.

    Attributes:
      numbers: `p = 32 / gcd(32, width)`.
      words: `q = width / gcd(32, width)`, which they fill.
    """

    numbers: int
    words: int


def group_of(width: int) -> Group:
    """The group of integers of `width` bits.

    Raises:
      ValueError: when `width` is not in [1, 32].

    >>> group_of(5), group_of(8)
    (Group(numbers=32, words=5), Group(numbers=4, words=1))
    """
    if not 1 <= width <= WORD_BITS:
        raise ValueError(
            f"Expected width={width!r} in [1, {WORD_BITS}]: wider symbols do not fit a "
            "word; send them as Raw."
        )
    common = math.gcd(WORD_BITS, width)
    return Group(WORD_BITS // common, width // common)


def words_for(num_bits: int) -> int:
    """`ceil(num_bits / 32)`."""
    return -(-num_bits // WORD_BITS)


def pack_interleaved(values: jax.Array, width: int) -> jax.Array:
    """Packs unsigned integers into words; numbers in one word lie a stride apart.

    Number `i (n // p) + g` of the first `p (n // p)` is number `i` of group `g`, whose
    `q` words lie a stride of `n // p` apart as well; the rest follow as one stream.

    Args:
      values: unsigned integers, `[n]`; of each the lowest `width` bits are packed.
      width: in [1, 32].

    Returns:
      uint32 `[ceil(n * width / 32)]`, the last one filled up with zeros.

    Raises:
      ValueError: when `width` is not as above.

    >>> packed = pack_interleaved(jnp.arange(17, dtype=jnp.uint8), 4)
    >>> [hex(word) for word in packed.tolist()]
    ['0xeca86420', '0xfdb97531', '0x0']
    """
    group = group_of(width)
    stride, rest = divmod(values.size, group.numbers)
    parts = []
    if stride:
        parts.append(_pack_groups(values[: values.size - rest], width))
    if rest:
        tail = jnp.pad(values[values.size - rest :], (0, group.numbers - rest))
        parts.append(_pack_groups(tail, width)[: words_for(rest * width)])
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.uint32)


def unpack_interleaved(words: jax.Array, count: int, width: int) -> jax.Array:
    """What `pack_interleaved` packed.

    Args:
      words: uint32 `[ceil(count * width / 32)]`; bits behind the last number are
        not looked at.
      count: `n`.
      width: in [1, 32].

    Returns:
      uint8, uint16 or uint32 `[n]`, the narrowest that holds `width` bits.

    Raises:
      ValueError: when `width` is not as above.

    >>> packed = pack_interleaved(jnp.arange(5, dtype=jnp.uint8), 3)
    >>> unpack_interleaved(packed, 5, 3).tolist()
    [0, 1, 2, 3, 4]
    """
    group = group_of(width)
    stride, rest = divmod(count, group.numbers)
    parts = []
    if stride:
        parts.append(_unpack_groups(words[: stride * group.words], width))
    if rest:
        tail = words[stride * group.words :]
        tail = jnp.pad(tail, (0, group.words - tail.size))
        parts.append(_unpack_groups(tail, width)[:rest])
    return jnp.concatenate(parts) if parts else jnp.zeros(0, _holds(width))


def _pack_groups(values: jax.Array, width: int) -> jax.Array:
    """`[p G] -> [q G]`; slices, so that nothing is read twice from memory."""
    numbers, words = group_of(width)
    stride = values.size // numbers
    mask = np.uint32((1 << width) - 1)
    rows = [
        values[i * stride : (i + 1) * stride].astype(jnp.uint32) & mask
        for i in range(numbers)
    ]
    packed = []
    for j in range(words):
        starts = [(i, i * width - j * WORD_BITS) for i in range(numbers)]
        inside = [(i, s) for i, s in starts if -width < s < WORD_BITS]
        packed.append(
            functools.reduce(operator.or_, [_shifted(rows[i], s) for i, s in inside])
        )
    return jnp.concatenate(packed)


def _shifted(word: jax.Array, left: int) -> jax.Array:
    if left < 0:
        return word >> np.uint32(-left)
    return word << np.uint32(left) if left else word


def _unpack_groups(words: jax.Array, width: int) -> jax.Array:
    """`[q G] -> [p G]`: the numbers that begin in one word make one operation."""
    group = group_of(width)
    rows = words.reshape(group.words, -1)
    mask = np.uint32((1 << width) - 1)
    runs = []
    for j in range(group.words):
        starts = [i * width - j * WORD_BITS for i in range(group.numbers)]
        inside = [s for s in starts if 0 <= s < WORD_BITS]
        shifts = np.array(inside, np.uint32)[:, None]
        run = rows[j][None] >> shifts
        if inside[-1] + width > WORD_BITS:
            # In two steps, since a shift by 32 is not defined; what the numbers within
            # one word get from the next one is behind the mask.
            run |= (rows[j + 1][None] << (np.uint32(31) - shifts)) << np.uint32(1)
        runs.append((run & mask).astype(_holds(width)))
    return jnp.concatenate(runs).reshape(-1)


def _holds(width: int) -> jax.typing.DTypeLike:
    return jnp.uint8 if width <= 8 else jnp.uint16 if width <= 16 else jnp.uint32
