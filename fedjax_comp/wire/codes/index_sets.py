"""Index sets: Golomb-coded gaps or a bitmap, whichever is shorter.

The gaps are coded with the parameter that is optimal for the density `p = k / bound`,
which both ends know (`fedjax_comp.wire.codes.golomb`). Where more than half the indices
are in the set, the gaps of the others are sent instead. One bit says which follows.

A Golomb code is not good at densities near a half: measured against the
`log2 C(bound, k)` bits that a random set needs at least, it costs under 1 % more at a
density of 0.01 and below, 1.4 % at 0.25 and, at its worst near 0.4, 3.1 %. In the
middle a third choice is therefore tried: the bytes of the bitmap by rANS with the
probabilities `p**ones * (1 - p)**zeros`, which need no table as both ends know `p`.

A set with a `count` has no density before it is known. Its gaps are coded with the
best power of two found in them, which is sent, and the alternative is a bitmap.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.fixed_width import (
    check_worst_bits,
    checked_values,
    count_bits,
    read_count,
    rebuilt,
    write_count,
)
from fedjax_comp.wire.codes.frequencies import SCALE_BITS, UInt32Array
from fedjax_comp.wire.codes.golomb import (
    gaps_on_host,
    golomb_bits,
    golomb_parameter,
    golomb_rice,
    indices_of,
    read_golomb,
    write_golomb,
)
from fedjax_comp.wire.codes.rans_length import words_in_jit
from fedjax_comp.wire.codes.rans_words import (
    num_lanes,
    read_words,
    write_words,
)
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, IndexSet
from fedjax_comp.wire.raw import size_of

_SYMBOLS_PER_LANE = 8192


# ---------------------------------------------------------------- bytes of a bitmap


def tries_bytes(k: int, bound: int) -> bool:
    """Whether to try coding the bitmap's bytes: not too few, nor too uneven.

    Below a seventh the least likely bytes no longer have a probability of `2**-14`,
    and Golomb is as good.

    >>> [tries_bytes(k, 10_000) for k in (1_000, 4_000, 9_000)]
    [False, True, False]
    """
    return bound >= 1024 and 7 * min(k, bound - k) > bound


@functools.cache
def byte_frequencies(k: int, bound: int) -> tuple[UInt32Array, UInt32Array]:
    """Starts and frequencies of the bytes of a random bitmap: uint32 `[256]` each.

    In integers alone, so that both ends come to the same ones. They sum to `2**14` and
    none is 0.
    """
    weights = [
        k ** value.bit_count() * (bound - k) ** (8 - value.bit_count())
        for value in range(256)
    ]
    total, share, running = sum(weights), (1 << SCALE_BITS) - 256, 0
    ends = [0]
    for rank, weight in enumerate(weights, start=1):
        running += weight
        ends.append(rank + running * share // total)
    edges = np.array(ends, np.uint32)
    return edges[:-1], np.diff(edges)


def _num_bytes(bound: int) -> int:
    return -(-bound // 8)


def _lanes(bound: int) -> int:
    return num_lanes(_num_bytes(bound), _SYMBOLS_PER_LANE)


def bytes_bits(indices: jax.Array, bound: int) -> jax.Array:
    """Bits of the coded bytes of the bitmap of `indices`, uint32 `[k]`: uint32 scalar.

    `indices` are distinct; which of each byte's bits they are does not matter here, so
    that the bytes are summed up directly.
    """
    ones = (jnp.uint32(1) << (indices % 8)).astype(jnp.uint32)
    place = (indices // 8).astype(jnp.int32)
    symbols = jnp.zeros(_num_bytes(bound), jnp.uint32).at[place].add(ones)
    starts, frequencies = map(jnp.asarray, byte_frequencies(indices.size, bound))
    lanes = _lanes(bound)
    words = words_in_jit(symbols, starts, frequencies, lanes)
    return 16 * words + 32 * lanes


def _write_bytes(present: np.ndarray, writer: BitWriter) -> None:
    bound, k = present.size, int(present.sum())
    packed = np.packbits(present, bitorder="little").astype(np.uint64)
    write_words(packed, *byte_frequencies(k, bound), _lanes(bound), writer)


def _read_bytes(k: int, bound: int, reader: BitReader) -> np.ndarray:
    starts, frequencies = byte_frequencies(k, bound)
    symbols = read_words(_num_bytes(bound), starts, frequencies, _lanes(bound), reader)
    bits = np.unpackbits(symbols.astype(np.uint8), bitorder="little")
    if bits[bound:].any():
        raise WireError("The bits that fill the bitmap's last byte are not zero.")
    return bits[:bound]


# ----------------------------------------------------------------------- the code


def _others(indices: jax.Array, bound: int) -> jax.Array:
    present = jnp.zeros(bound, bool).at[indices.astype(jnp.int32)].set(True)
    (others,) = jnp.nonzero(~present, size=bound - indices.size)
    return others.astype(jnp.uint32)


def _present(indices: UInt64Array, bound: int) -> np.ndarray:
    present = np.zeros(bound, bool)
    present[indices.astype(np.int64)] = True
    return present


def _listed(present: np.ndarray, count: int, template: IndexSet) -> IndexSet:
    listed = np.flatnonzero(present)
    if listed.size != count:
        raise WireError(f"Expected {count} indices, got {listed.size}.")
    return rebuilt(listed.astype(np.uint64), template)


@functools.cache
def shortest_index_set() -> Code:
    """The code of `IndexSet` that takes the shortest of Golomb gaps and bitmaps.

    At most two bits more than a bitmap, whatever the indices (and the count, where
    there is one).
    """

    def num_bits(field: IndexSet) -> Bits:
        k, bound = size_of(field.values), field.bound
        if k > bound:
            raise ValueError(f"Expected k={k} <= bound={bound}.")
        check_worst_bits(field, 2 * bound)
        if field.count is not None:
            return _counted_bits(field)
        if k in (0, bound):
            return Bits(0)
        flipped = 2 * k > bound
        indices = _others(field.values, bound) if flipped else field.values
        golomb = golomb_bits(indices, golomb_parameter(indices.size, bound))
        if not tries_bytes(k, bound):
            return Bits(1, (jnp.minimum(golomb, jnp.uint32(bound)),))
        # Golomb is told by one bit, the other two by one more.
        bitmap = jnp.minimum(bytes_bits(field.values, bound), jnp.uint32(bound))
        return Bits(1, (jnp.minimum(golomb, bitmap + 1),))

    def pack(field: IndexSet, writer: BitWriter) -> None:
        indices, bound, k = checked_values(field), field.bound, size_of(field.values)
        if field.count is not None:
            _pack_counted(field, indices, writer)
            return
        if k in (0, bound):
            return
        present = _present(indices, bound)
        sent = np.flatnonzero(~present) if 2 * k > bound else indices
        gaps, golomb = gaps_on_host(sent.astype(np.uint64)), BitWriter()
        write_golomb(gaps, golomb_parameter(sent.size, bound), golomb)
        coded, shortest = BitWriter(), bound
        if tries_bytes(k, bound):
            _write_bytes(present, coded)
            shortest = min(bound, coded.num_bits) + 1
        writer.write([golomb.num_bits > shortest], 1)
        if golomb.num_bits <= shortest:
            writer.extend(golomb)
            return
        if tries_bytes(k, bound):
            writer.write([coded.num_bits < bound], 1)
            if coded.num_bits < bound:
                writer.extend(coded)
                return
        writer.write(present, 1)

    def unpack(template: IndexSet, reader: BitReader) -> IndexSet:
        k, bound = size_of(template.values), template.bound
        if k > bound:
            raise WireError(f"Expected k={k} <= bound={bound}.")
        if template.count is not None:
            return _unpack_counted(template, reader)
        if k in (0, bound):
            return rebuilt(np.arange(k, dtype=np.uint64), template)
        if reader.read(1, 1)[0]:
            if tries_bytes(k, bound) and reader.read(1, 1)[0]:
                return _listed(_read_bytes(k, bound, reader), k, template)
            return _listed(reader.read(bound, 1), k, template)
        sent = min(k, bound - k)
        m = golomb_parameter(sent, bound)
        indices = indices_of(read_golomb(sent, m, sent + bound // m, reader))
        if indices[-1] >= bound:
            raise WireError(f"Expected {int(indices[-1])} < {bound}.")
        if 2 * k > bound:
            indices = np.flatnonzero(~_present(indices, bound)).astype(np.uint64)
        return rebuilt(indices, template)

    return Code("shortest_index_set", num_bits, pack, unpack, takes=(IndexSet,))


# ---------------------------------------------------------------- sets with a count


def _counted_bits(field: IndexSet) -> Bits:
    # One bit, the count, and then a bitmap, or the parameter and its Rice code.
    if size_of(field.values) == 0:
        return Bits(0)
    rice, count = golomb_rice().num_bits(field), count_bits(field)
    (variable,) = rice.variable
    rice_bits = variable + jnp.uint32(rice.fixed - count)
    return Bits(1 + count, (jnp.minimum(rice_bits, jnp.uint32(field.bound)),))


def _pack_counted(field: IndexSet, indices: UInt64Array, writer: BitWriter) -> None:
    if size_of(field.values) == 0:
        return
    rice = BitWriter()
    golomb_rice().pack(field, rice)
    is_bitmap = rice.num_bits > field.bound + count_bits(field)
    writer.write([is_bitmap], 1)
    if is_bitmap:
        write_count(field, writer)
        writer.write(_present(indices, field.bound), 1)
    else:
        writer.extend(rice)


def _unpack_counted(template: IndexSet, reader: BitReader) -> IndexSet:
    if size_of(template.values) == 0:
        return rebuilt(np.zeros(0, np.uint64), template)
    if not reader.read(1, 1)[0]:
        return golomb_rice().unpack(template, reader)
    count = read_count(template, reader)
    return _listed(reader.read(template.bound, 1), count, template)
