"""Index sets: Golomb-coded gaps or a bitmap, whichever is shorter.

S. Golomb, "Run-length encodings", 1966, with the parameter that is optimal for a random
set (R. Gallager and D. van Voorhis, 1975): for a density `p` of indices

    m = ceil(-log2(2 - p) / log2(1 - p))

and a gap `g` costs `g // m` zeros, a one, and `g % m` in truncated binary. Both ends
know `k` and the bound, so `m` is free. Where more than half the indices are in the set,
it is the gaps of the others that travel. Against the `log2 C(bound, k)` bits that a
random set needs at least, this was measured to cost under 1 % more at a density of
0.01 and below, 1 % at 0.1, 1.4 % at 0.25 and, at its worst near 0.4, 3.1 %.

One bit says which of the two follows.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.fixed_width import (
    bit_width,
    check_worst_bits,
    checked_values,
    rebuilt,
)
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, IndexSet
from fedjax_comp.wire.raw import size_of


def golomb_parameter(k: int, bound: int) -> int:
    """The optimal Golomb parameter for `k` random indices of `bound`, `0 < k < bound`.

    >>> [golomb_parameter(k, 1000) for k in (1, 10, 100, 500)]
    [693, 69, 7, 1]
    """
    density = k / bound
    return max(1, math.ceil(-math.log2(2 - density) / math.log1p(-density) * _LN2))


_LN2 = math.log(2)


def golomb_bits(indices: jax.Array, m: int) -> jax.Array:
    """Bits of the Golomb code of ascending `indices`, uint32 `[k]`: uint32 scalar."""
    gaps = jnp.concatenate([indices[:1], indices[1:] - indices[:-1] - 1])
    quotient = gaps // m
    width = bit_width(m)
    length = 1 + max(width - 1, 0)
    total = jnp.sum(quotient, dtype=jnp.uint32) + jnp.uint32(indices.size * length)
    if width:
        long = gaps - quotient * m >= (1 << width) - m
        total += jnp.sum(long, dtype=jnp.uint32)
    return total


def write_golomb(indices: UInt64Array, m: int, writer: BitWriter) -> None:
    """Writes ascending `indices`, `[k]`, with Golomb parameter `m`."""
    gaps = np.diff(indices.astype(np.int64), prepend=-1).astype(np.uint64)
    quotient, rest = np.divmod(gaps - np.uint64(1), np.uint64(m))
    writer.write_unary(quotient)
    width = bit_width(m)
    if width:
        # Truncated binary: the first `short` remainders need one bit less.
        short = np.uint64((1 << width) - m)
        long = rest >= short
        full = rest + short
        writer.write(np.where(long, full >> np.uint64(1), rest), width - 1)
        writer.write(full[long] & np.uint64(1), 1)


def read_golomb(k: int, bound: int, m: int, reader: BitReader) -> UInt64Array:
    """Reads `k` ascending indices below `bound`: `[k]`, not yet checked."""
    gaps = reader.read_unary(k, k + bound // m) * np.uint64(m)
    width = bit_width(m)
    if width:
        short = np.uint64((1 << width) - m)
        rest = reader.read(k, width - 1)
        long = rest >= short
        last = reader.read(int(long.sum()), 1)
        rest[long] = (rest[long] << np.uint64(1)) + last - short
        gaps += rest
    return np.cumsum(gaps + np.uint64(1), dtype=np.uint64) - np.uint64(1)


def _others(indices: jax.Array, bound: int) -> jax.Array:
    present = jnp.zeros(bound, bool).at[indices.astype(jnp.int32)].set(True)
    (others,) = jnp.nonzero(~present, size=bound - indices.size)
    return others.astype(jnp.uint32)


@functools.cache
def shortest_index_set() -> Code:
    """The code of `IndexSet` that takes the shorter of Golomb gaps and a bitmap."""

    def num_bits(field: IndexSet) -> Bits:
        k, bound = size_of(field.values), field.bound
        if k > bound:
            raise ValueError(f"Expected k={k} <= bound={bound}.")
        check_worst_bits(field, 2 * bound)
        if k in (0, bound):
            return Bits(0)
        flipped = 2 * k > bound
        indices = _others(field.values, bound) if flipped else field.values
        golomb = golomb_bits(indices, golomb_parameter(indices.size, bound))
        return Bits(1, (jnp.minimum(golomb, jnp.uint32(bound)),))

    def pack(field: IndexSet, writer: BitWriter) -> None:
        indices, bound = checked_values(field), field.bound
        if indices.size in (0, bound):
            return
        present = np.zeros(bound, bool)
        present[indices.astype(np.int64)] = True
        sent = np.flatnonzero(~present) if 2 * indices.size > bound else indices
        golomb = BitWriter()
        write_golomb(sent.astype(np.uint64), golomb_parameter(sent.size, bound), golomb)
        bitmap = golomb.num_bits >= bound
        writer.write([bitmap], 1)
        if bitmap:
            writer.write(present, 1)
        else:
            writer.extend(golomb)

    def unpack(template: IndexSet, reader: BitReader) -> IndexSet:
        k, bound = size_of(template.values), template.bound
        if k in (0, bound):
            return rebuilt(np.arange(k, dtype=np.uint64), template)
        if k > bound:
            raise WireError(f"Expected k={k} <= bound={bound}.")
        if reader.read(1, 1)[0]:
            listed = np.flatnonzero(reader.read(bound, 1))
            if listed.size != k:
                raise WireError(f"Expected {k} indices, got {listed.size}.")
            return rebuilt(listed.astype(np.uint64), template)
        count = min(k, bound - k)
        m = golomb_parameter(count, bound)
        indices = read_golomb(count, bound, m, reader)
        if indices[-1] >= bound:
            raise WireError(f"Expected {int(indices[-1])} < {bound}.")
        if 2 * k > bound:
            absent = np.ones(bound, bool)
            absent[indices.astype(np.int64)] = False
            indices = np.flatnonzero(absent).astype(np.uint64)
        return rebuilt(indices, template)

    return Code("shortest_index_set", num_bits, pack, unpack)
