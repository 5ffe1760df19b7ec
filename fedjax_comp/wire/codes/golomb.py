"""Golomb codes: a quotient in unary, a remainder in truncated binary.

S. Golomb, "Run-length encodings", 1966, with the parameter that is optimal for a random
set (R. Gallager and D. van Voorhis, 1975): for a density `p` of indices

    m = ceil(-log2(2 - p) / log2(1 - p))

and a gap `g` costs `g // m` zeros, a one, and `g % m` in truncated binary. Where both
ends know the density, `m` is free. Where they do not, `golomb_rice` finds the best
power of two `m = 2**r` in the data (R. Rice, "Some practical universal noiseless coding
techniques", 1979) and sends `r`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.fixed_width import (
    F,
    alphabet,
    bit_width,
    check_worst_bits,
    checked_values,
    count_bits,
    length_in_jit,
    read_count,
    rebuilt,
    refuse_width,
    travels,
    write_count,
)
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, IndexSet, Symbols
from fedjax_comp.wire.raw import size_of

_LN2 = math.log(2)


def golomb_parameter(k: int, bound: int) -> int:
    """The optimal Golomb parameter for `k` random indices of `bound`, `0 < k < bound`.

    >>> [golomb_parameter(k, 1000) for k in (1, 10, 100, 500)]
    [693, 69, 7, 1]
    """
    density = k / bound
    return max(1, math.ceil(-math.log2(2 - density) / math.log1p(-density) * _LN2))


def golomb_bits(indices: jax.Array, m: int) -> jax.Array:
    """Bits of the Golomb code of ascending `indices`, uint32 `[k]`: uint32 scalar."""
    gaps = gaps_of(indices)
    quotient = gaps // m
    width = bit_width(m)
    length = 1 + max(width - 1, 0)
    total = jnp.sum(quotient, dtype=jnp.uint32) + jnp.uint32(indices.size * length)
    if width:
        long = gaps - quotient * m >= (1 << width) - m
        total += jnp.sum(long, dtype=jnp.uint32)
    return total


def gaps_of(indices: jax.Array) -> jax.Array:
    """Absent indices before each of ascending `indices`, uint32 `[k]`.

    >>> gaps_of(jnp.array([2, 3, 7], jnp.uint32)).tolist()
    [2, 0, 3]
    """
    return jnp.concatenate([indices[:1], indices[1:] - indices[:-1] - 1])


def write_golomb(gaps: UInt64Array, m: int, writer: BitWriter) -> None:
    """Writes `gaps`, `[k]`, with Golomb parameter `m`."""
    quotient, rest = np.divmod(gaps, np.uint64(m))
    writer.write_unary(quotient)
    width = bit_width(m)
    if width:
        # Truncated binary: the first `short` remainders need one bit less.
        short = np.uint64((1 << width) - m)
        long = rest >= short
        full = rest + short
        writer.write(np.where(long, full >> np.uint64(1), rest), width - 1)
        writer.write(full[long] & np.uint64(1), 1)


def read_golomb(k: int, m: int, max_unary: int, reader: BitReader) -> UInt64Array:
    """Reads `k` numbers, `[k]`, whose unary parts take at most `max_unary` bits."""
    numbers = reader.read_unary(k, max_unary) * np.uint64(m)
    width = bit_width(m)
    if width:
        short = np.uint64((1 << width) - m)
        rest = reader.read(k, width - 1)
        long = rest >= short
        last = reader.read(int(long.sum()), 1)
        rest[long] = (rest[long] << np.uint64(1)) + last - short
        numbers += rest
    return numbers


def indices_of(gaps: UInt64Array) -> UInt64Array:
    """The ascending indices between which `gaps`, `[k]`, lie."""
    return np.cumsum(gaps + np.uint64(1), dtype=np.uint64) - np.uint64(1)


def gaps_on_host(indices: UInt64Array) -> UInt64Array:
    """`gaps_of` for NumPy."""
    before = np.diff(indices.astype(np.int64), prepend=-1)
    return before.astype(np.uint64) - np.uint64(1)


# ------------------------------------------------------------------- from the data


def rice_costs(numbers: jax.Array, count: jax.Array, width: int) -> jax.Array:
    """Bits of `numbers` for every `r` in `[0, width]`: uint32 `[width + 1]`.

    Args:
      numbers: uint32 `[n]` below `2**width`; zeros from `count` on.
      count: uint32 scalar, how many are coded.
      width: of the largest number; `n * (width + 1) < 2**30`, so that the least of
        the costs is below it.

    >>> rice_costs(jnp.array([4, 0], jnp.uint32), jnp.uint32(2), 3).tolist()
    [6, 6, 7, 8]
    """
    costs = []
    for r in range(width + 1):
        quotient = numbers >> r
        ones = jnp.sum(quotient, dtype=jnp.uint32)
        # A sum that wraps belongs to no candidate: the best stays far below it.
        fits = jnp.sum(quotient.astype(jnp.float32)) < 2.0**31
        cost = ones + count * jnp.uint32(r + 1)
        costs.append(jnp.where(fits, cost, jnp.uint32(0xFFFFFFFF)))
    return jnp.stack(costs)


def best_rice(numbers: UInt64Array, width: int) -> tuple[int, int]:
    """The best `r` in `[0, width]` and its bits, on the host."""
    costs = [
        int(np.sum(numbers >> np.uint64(r))) + numbers.size * (r + 1)
        for r in range(width + 1)
    ]
    r = int(np.argmin(costs))
    return r, costs[r]


@functools.cache
def golomb_rice() -> Code:
    """Golomb-Rice with the parameter chosen from the data, for symbols and index sets.

    `r` is sent in `width.bit_length()` bits, `width` being that of fixed width. So the
    code costs at most these bits, and one per number, more than fixed width. For an
    index set the gaps are coded. A `count` is paid as at fixed width.

    >>> field = Symbols(jnp.arange(8, dtype=jnp.uint8) % 2, 256)
    >>> int(golomb_rice().num_bits(field).variable[0])  # r = 0: 8 ones and 4 zeros
    12
    """

    def width_of(field: Symbols | IndexSet) -> int:
        width = bit_width(alphabet(field))
        if size_of(field.values) * (width + 1) >= 1 << 30:
            check_worst_bits(field, 1 << 32)
        return width

    def num_bits(field: Symbols | IndexSet) -> Bits:
        refuse_width("golomb_rice()", field)
        width = width_of(field)
        fixed = count_bits(field) + width.bit_length()
        if size_of(field.values) == 0:
            return Bits(fixed)
        numbers = field.values.ravel().astype(jnp.uint32)
        if isinstance(field, IndexSet):
            numbers = gaps_of(numbers)
        mask = travels(field)
        if mask is not None:
            numbers = jnp.where(mask, numbers, jnp.uint32(0))
        costs = rice_costs(numbers, length_in_jit(field), width)
        return Bits(fixed, (jnp.min(costs),))

    def pack(field: Symbols | IndexSet, writer: BitWriter) -> None:
        refuse_width("golomb_rice()", field)
        numbers, width = checked_values(field), width_of(field)
        write_count(field, writer)
        if isinstance(field, IndexSet):
            numbers = gaps_on_host(numbers)
        r, _ = best_rice(numbers, width)
        writer.write([r], width.bit_length())
        write_golomb(numbers, 1 << r, writer)

    def unpack(template: F, reader: BitReader) -> F:
        count, width = read_count(template, reader), width_of(template)
        r = int(reader.read(1, width.bit_length())[0])
        if r > width:
            raise WireError(f"Expected r={r} <= {width}.")
        numbers = read_golomb(count, 1 << r, count * (width + 1), reader)
        if isinstance(template, IndexSet):
            # Before they are added up, which might wrap round to an allowed index.
            if numbers.size and int(numbers.max()) >= template.bound:
                raise WireError(f"Expected {int(numbers.max())} < {template.bound}.")
            numbers = indices_of(numbers)
        return rebuilt(numbers, template)

    return Code("golomb_rice", num_bits, pack, unpack)
