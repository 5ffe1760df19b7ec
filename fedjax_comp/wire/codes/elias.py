"""Elias gamma, delta and omega codes of `symbol + 1`.

P. Elias, "Universal codeword sets and representations of the integers", 1975. Short
words for small symbols, without a table: what QSGD (Alistarh et al., 2017) sends.

For `x = symbol + 1` and `N = floor(log2 x)` the lengths are

    gamma  2 N + 1
    delta  N + gamma(N + 1)
    omega  1 + sum of (floor(log2 a) + 1) over a = x, floor(log2 x), ... while a > 1

The bits are those of the published codes, in planes (all symbols' lengths first, then
all their remaining bits), see `fedjax_comp.wire.bitstream`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.fixed_width import (
    check_worst_bits,
    checked_values,
    count_bits,
    read_count,
    rebuilt,
    refuse_width,
    travels,
    write_count,
)
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, Symbols
from fedjax_comp.wire.raw import size_of

_MAX_LOG = 31


def floor_log2(x: jax.Array) -> jax.Array:
    """`floor(log2(x))` of uint32 `x >= 1`, any shape, in integers alone."""
    return jnp.uint32(31) - jax.lax.clz(x)


def gamma_length(x: jax.Array) -> jax.Array:
    """Bits of the gamma code of uint32 `x >= 1`, any shape.

    >>> gamma_length(jnp.arange(1, 9, dtype=jnp.uint32))
    Array([1, 3, 3, 5, 5, 5, 5, 7], dtype=uint32)
    """
    return 2 * floor_log2(x) + 1


def delta_length(x: jax.Array) -> jax.Array:
    """Bits of the delta code of uint32 `x >= 1`, any shape.

    >>> delta_length(jnp.arange(1, 9, dtype=jnp.uint32))
    Array([1, 4, 4, 5, 5, 5, 5, 8], dtype=uint32)
    """
    log = floor_log2(x)
    return log + gamma_length(log + 1)


def omega_length(x: jax.Array) -> jax.Array:
    """Bits of the omega code of uint32 `x >= 1`, any shape.

    >>> omega_length(jnp.arange(1, 9, dtype=jnp.uint32))
    Array([1, 3, 3, 6, 6, 6, 6, 7], dtype=uint32)
    """
    length = jnp.ones_like(x)
    for _ in range(4):  # 2**32 - 1 -> 31 -> 4 -> 2 -> 1
        log = floor_log2(x)
        length += jnp.where(x > 1, log + 1, 0)
        x = jnp.maximum(log, 1)
    return length


def _log2(x: UInt64Array) -> npt.NDArray[np.int64]:
    return np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1


def _low_bits(x: UInt64Array, log: npt.NDArray[np.int64]) -> UInt64Array:
    return x - (np.uint64(1) << log.astype(np.uint64))


def _from_low_bits(low: UInt64Array, log: npt.NDArray[np.int64]) -> UInt64Array:
    return low + (np.uint64(1) << log.astype(np.uint64))


def _checked_log(log: UInt64Array) -> npt.NDArray[np.int64]:
    if log.size and int(log.max()) > _MAX_LOG:
        raise WireError(f"Expected an Elias code below 2**32, got 2**{int(log.max())}.")
    return log.astype(np.int64)


def write_gamma(x: UInt64Array, writer: BitWriter) -> None:
    """Writes `x >= 1`, `[n]`, in gamma code."""
    log = _log2(x)
    writer.write_unary(log.astype(np.uint64))
    writer.write_varied(_low_bits(x, log), log)


def read_gamma(count: int, reader: BitReader) -> UInt64Array:
    """Reads `count` numbers below 2**32 in gamma code: `[count]`."""
    log = _checked_log(reader.read_unary(count, count * (_MAX_LOG + 1)))
    return _from_low_bits(reader.read_varied(log), log)


def write_delta(x: UInt64Array, writer: BitWriter) -> None:
    """Writes `x >= 1`, `[n]`, in delta code."""
    log = _log2(x)
    write_gamma(log.astype(np.uint64) + np.uint64(1), writer)
    writer.write_varied(_low_bits(x, log), log)


def read_delta(count: int, reader: BitReader) -> UInt64Array:
    """Reads `count` numbers below 2**32 in delta code: `[count]`."""
    log = _checked_log(read_gamma(count, reader) - np.uint64(1))
    return _from_low_bits(reader.read_varied(log), log)


def write_omega(x: UInt64Array, writer: BitWriter) -> None:
    """Writes `x >= 1`, `[n]`, in omega code."""
    groups = [x]
    while np.any(groups[-1] > 1):
        groups.append(np.maximum(_log2(groups[-1]), 1).astype(np.uint64))
    table = np.stack(groups)
    depth = np.sum(table > 1, axis=0)
    for sent in range(int(depth.max(initial=0)) + 1):
        going = depth >= sent
        writer.write((depth > sent)[going], 1)
        (active,) = np.nonzero(depth > sent)
        group = table[depth[active] - 1 - sent, active]
        log = _log2(group)
        writer.write_varied(_low_bits(group, log), log)


def read_omega(count: int, reader: BitReader) -> UInt64Array:
    """Reads `count` numbers below 2**32 in omega code: `[count]`."""
    reader.require(count)
    x = np.ones(count, np.uint64)
    active = np.arange(count)
    while active.size:
        active = active[reader.read(active.size, 1) > 0]
        log = _checked_log(x[active])
        x[active] = _from_low_bits(reader.read_varied(log), log)
    return x


def _elias(
    name: str,
    length: Callable[[jax.Array], jax.Array],
    write: Callable[[UInt64Array, BitWriter], None],
    read: Callable[[int, BitReader], UInt64Array],
) -> Code:
    def num_bits(field: Symbols) -> Bits:
        refuse_width(name, field)
        size = size_of(field.values)
        if field.cardinality >= 1 << 32:
            raise ValueError(f"Expected cardinality={field.cardinality} < 2**32.")
        longest = 2 * field.cardinality.bit_length() + 2
        check_worst_bits(field, size * longest)
        if size == 0:
            return Bits(count_bits(field))
        lengths = length(field.values.ravel().astype(jnp.uint32) + 1)
        total = jnp.sum(lengths, dtype=jnp.uint32, where=travels(field))
        return Bits(count_bits(field), (total,))

    def pack(field: Symbols, writer: BitWriter) -> None:
        refuse_width(name, field)
        values = checked_values(field)
        write_count(field, writer)
        write(values + np.uint64(1), writer)

    def unpack(template: Symbols, reader: BitReader) -> Symbols:
        x = read(read_count(template, reader), reader)
        return rebuilt(x - np.uint64(1), template)

    return Code(name, num_bits, pack, unpack, takes=(Symbols,))


@functools.cache
def elias_gamma() -> Code:
    """Elias gamma of `symbol + 1`: best for probabilities near `1 / (2 x**2)`."""
    return _elias("elias_gamma", gamma_length, write_gamma, read_gamma)


@functools.cache
def elias_delta() -> Code:
    """Elias delta of `symbol + 1`: shorter than gamma for symbols above 30."""
    return _elias("elias_delta", delta_length, write_delta, read_delta)


@functools.cache
def elias_omega() -> Code:
    """Elias omega of `symbol + 1`: the recursive code that QSGD uses."""
    return _elias("elias_omega", omega_length, write_omega, read_omega)
