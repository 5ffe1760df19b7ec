"""rANS of symbols whose distributions both ends know from what is sent before them.

A field is two sets of symbols. `side` is sent first, coded by `rans`; a function that
both ends have computes from it the class of each of the `symbols`. Each symbol is then
coded under its class's table (`fedjax_comp.wire.codes.weibull`): no table is sent.

    side | states and words of the tokens | low bits | escapes

with `token = min(z >> shift, escape)`, the `shift` low bits of each `z` as they are,
and for each escape `(z >> shift) - escape + 1` in Elias gamma code. States and words
are those of `fedjax_comp.wire.codes.rans_words`, in the order of the symbols: every
symbol takes its interval from another table, and nothing is sorted.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.elias import gamma_length, read_gamma, write_gamma
from fedjax_comp.wire.codes.fixed_width import (
    bit_width,
    checked_values,
    rebuilt,
)
from fedjax_comp.wire.codes.frequencies import UInt32Array
from fedjax_comp.wire.codes.rans import rans
from fedjax_comp.wire.codes.rans_length import words_of_intervals
from fedjax_comp.wire.codes.rans_words import (
    Slots,
    intervals_of,
    num_lanes,
    read_slots,
    slots_of,
    write_intervals,
)
from fedjax_comp.wire.codes.weibull import Tables
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, Symbols, write_all
from fedjax_comp.wire.raw import size_of

_MOST_BITS = 1 << 31  # of one count, at the worst

A = TypeVar("A", jax.Array, np.ndarray)


class ClassOf(Protocol):
    """`(side values) -> class of each symbol`, int `[n]`; in integers alone.

    It returns a NumPy array for NumPy values. On a device, dozens of small programs
    would queue behind the rounds; when a log writes messages meanwhile, as many as XLA
    allows in its queue block a round on several devices for ever.
    """

    def __call__(self, side: A, /) -> A:
        """The classes."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classified:
    """Symbols, and those that tell their classes.

    Attributes:
      side: what the classes follow from; it travels first.
      symbols: `[n]`, `n >= 1`, without a count or a width.
    """

    side: Symbols
    symbols: Symbols


def rans_by_class(
    name: str, tables: Tables, class_of: ClassOf, *, symbols_per_lane: int
) -> Code:
    """The code of `Classified` symbols.

    A code is static metadata: make it once for each `class_of`, not in every `encode`.

    Args:
      name: of the code.
      tables: of all classes.
      class_of: gives every symbol's class, for all side values that fit their
        cardinality.
      symbols_per_lane: as for `rans`.

    Raises:
      ValueError: unless `symbols_per_lane >= 1`.
    """
    per_lane = checks.integer("symbols_per_lane", symbols_per_lane, minimum=1)
    intervals = intervals_of(tables.starts, tables.frequencies)

    def num_bits(field: Classified) -> Bits:
        n, lanes = size_of(field.symbols.values), _lanes(field, per_lane)
        side = rans().num_bits(field.side)
        classes = class_of(field.side.values)
        z = field.symbols.values.ravel().astype(jnp.uint32)
        shift, escape = (
            jnp.asarray(of_class).at[classes].get(mode="clip")
            for of_class in (tables.shifts, tables.escapes)
        )
        high = z >> shift
        token = jnp.minimum(high, escape)
        place = classes * jnp.int32(intervals.shape[1]) + token.astype(jnp.int32)
        chosen = jnp.asarray(intervals.reshape(-1)).at[place].get(mode="clip")
        words = words_of_intervals(chosen, lanes)
        escaped = jnp.where(high >= escape, gamma_length(high - token + 1), 0)
        rest = shift + escaped
        worst = 16 + 3 * bit_width(field.symbols.cardinality)
        counts = _in_counts(words, rest, 1 + n * worst // _MOST_BITS)
        return Bits(side.fixed + 32 * lanes, (*side.variable, *counts))

    def classes_on_host(side: Symbols) -> np.ndarray:
        # By the very function of the length inside jit; it is all integers.
        return class_of(np.asarray(side.values))

    def pack(field: Classified, writer: BitWriter) -> None:
        pack_all([field], [writer])

    def pack_all(fields: Sequence[Classified], writers: Sequence[BitWriter]) -> None:
        write_all(rans(), [field.side for field in fields], writers)
        split = [_split(field, tables, classes_on_host(field.side)) for field in fields]
        chosen = [intervals[one.classes, one.token.astype(np.int64)] for one in split]
        write_intervals(chosen, _lanes(fields[0], per_lane), writers)
        for one, writer in zip(split, writers, strict=True):
            writer.write_varied(one.low, one.shift)
            write_gamma(one.more[one.more > 0], writer)

    def unpack(template: Classified, reader: BitReader) -> Classified:
        side = rans().unpack(template.side, reader)
        classes = classes_on_host(side)
        slots, table = _slots(tables, classes)
        n, lanes = classes.size, _lanes(template, per_lane)
        high = read_slots(n, slots, lanes, reader, table=table)
        shift = tables.shifts[classes].astype(np.uint64)
        low = reader.read_varied(shift.astype(np.int64))
        escaped = high >= tables.escapes[classes]
        more = read_gamma(int(np.count_nonzero(escaped)), reader) - np.uint64(1)
        high[escaped] += more
        symbols: UInt64Array = (high << shift) | low
        if int(high.max()) >> 32:
            raise WireError("An escape is beyond every symbol.")
        return Classified(side, rebuilt(symbols, template.symbols))

    return Code(name, num_bits, pack, unpack, pack_all, takes=(Classified,))


def _in_counts(words: jax.Array, rest: jax.Array, number: int) -> list[jax.Array]:
    """Bits of words and of what follows them, in counts that each fit a uint32.

    Args:
      words: of 16 bits, uint32 scalar.
      rest: bits of each symbol, uint32 `[n]`.
      number: of counts that would do at the worst.

    >>> words, rest = jnp.uint32(5), jnp.arange(10, dtype=jnp.uint32)
    >>> [int(count) for count in _in_counts(words, rest, 1)]
    [125]
    >>> [int(count) for count in _in_counts(words, rest, 2)]
    [50, 75]
    """
    size = -(-rest.shape[0] // number)
    sums = [
        jnp.sum(rest[start : start + size], dtype=jnp.uint32)
        for start in range(0, rest.shape[0], size)
    ]
    # Sixteen equal counts are as many bits as one of words.
    shares = min(16, 1 << (number - 1).bit_length())
    of_words = [words * (16 // shares)] * shares
    return [
        a + b for a, b in itertools.zip_longest(sums, of_words, fillvalue=jnp.uint32(0))
    ]


class _Split(NamedTuple):
    """Symbols as they are written, each `[n]`.

    Attributes:
      classes: int.
      token: uint64.
      low: the bits that travel as they are, uint64.
      shift: how many these are, int64.
      more: what follows an escape, uint64; 0 where there is none.
    """

    classes: np.ndarray
    token: UInt64Array
    low: UInt64Array
    shift: np.ndarray
    more: UInt64Array


def _split(field: Classified, tables: Tables, classes: np.ndarray) -> _Split:
    z = checked_values(field.symbols)
    shift = tables.shifts[classes].astype(np.uint64)
    escape = tables.escapes[classes].astype(np.uint64)
    high = z >> shift
    token = np.minimum(high, escape)
    low = z & ((np.uint64(1) << shift) - np.uint64(1))
    more = np.where(high >= escape, high - token + np.uint64(1), np.uint64(0))
    return _Split(classes, token, low, shift.astype(np.int64), more)


def _lanes(field: Classified, per_lane: int) -> int:
    return num_lanes(size_of(field.symbols.values), per_lane)


def _slots(tables: Tables, classes: np.ndarray) -> tuple[Slots, UInt32Array]:
    """Slots of the classes that occur, and which of these each symbol is of."""
    used, table = np.unique(classes, return_inverse=True)
    # As many tables as a power of two, so that few programs are compiled.
    padded = np.resize(used, 1 << int(used.size - 1).bit_length())
    parts = [slots_of(tables.starts[c], tables.frequencies[c]) for c in padded]
    slots = Slots(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    return slots, table.astype(np.uint32)
