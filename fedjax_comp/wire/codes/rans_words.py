"""The states and words of interleaved rANS, given a table of frequencies.

Symbol `i` belongs to lane `i % lanes`. A lane's state `x` is a uint32 in
`[2**16, 2**32)`; encoding a symbol of frequency `f` (of `2**14`) that starts at `c` is

    x >= 2**18 f:  emit x mod 2**16,  x <- floor(x / 2**16)
    x <- 2**14 floor(x / f) + x mod f + c

from the last symbol to the first, so that decoding runs forwards. A row is a symbol of
each lane. In words of 16 bits and states of 32 bits:

    state of lane 0, ..., state of the last lane, words in the order they are read

A symbol's interval, its frequency and where it starts, is one uint32: the frequency in
the low 15 bits and the start above them. Symbols may share one table or have different
ones (`fedjax_comp.wire.codes.rans_by_class`): states and words use intervals alone.

Fields of many rows are written and read by compiled loops, those of few in NumPy, where
a row costs some 25 microseconds but nothing has to be compiled first.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.codes.frequencies import SCALE_BITS, UInt32Array
from fedjax_comp.wire.errors import WireError

SCALE = 1 << SCALE_BITS
LOWER = 1 << 16
"""The least state between two symbols."""

_MAX_LANES = 1024
_FEW_ROWS = 128
_SIDE_BY_SIDE = 128
"""Lanes of several messages in one loop: beyond, twice as many take twice as long."""
_AT_ONCE = 1 << 17
"""Symbols of several messages in one loop: more leave the cache, and nothing is won."""

A = TypeVar("A", jax.Array, UInt32Array)


def intervals_of(starts: A, frequencies: A) -> A:
    """Intervals from starts and frequencies, uint32 of any shape."""
    return frequencies + (starts << 15)


def num_lanes(n: int, symbols_per_lane: int) -> int:
    """Lanes for `n` symbols: the largest power of two that leaves each its share.

    >>> [num_lanes(n, 8192) for n in (0, 10_000, 20_000, 1_600_000)]
    [1, 1, 2, 128]
    """
    lanes = max(1, n // symbols_per_lane)
    return min(_MAX_LANES, 1 << (lanes.bit_length() - 1))


def next_states(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lanes' next states, and which of them emit a word before; `[lanes]`.

    Args:
      state: uint32.
      row: frequencies, and starts in the bits from 15, uint32.
    """
    frequency, start = row & 0x7FFF, row >> 15
    emit = (state >> (32 - SCALE_BITS)) >= frequency
    state = jnp.where(emit, state >> 16, state)
    # Processors divide no vectors of integers. The quotient is below 2**18, so that the
    # one of floats, rounded three times, is less than 0.1 from it.
    ratio = state.astype(jnp.float32) / frequency.astype(jnp.float32)
    quotient = ratio.astype(jnp.uint32)
    rest = (state - quotient * frequency).astype(jnp.int32)
    quotient += (rest >= frequency.astype(jnp.int32)).astype(jnp.uint32)
    quotient -= (rest < 0).astype(jnp.uint32)
    rest = state - quotient * frequency
    return (quotient << SCALE_BITS) + rest + start, emit


# ------------------------------------------------------------------------ on the host


def write_words(
    symbols: np.ndarray,
    starts: UInt32Array,
    frequencies: UInt32Array,
    lanes: int,
    writer: BitWriter,
) -> None:
    """Writes states and words of `symbols`.

    Args:
      symbols: unsigned integers `[n]`, `n >= 1`.
      starts: `[a]`, as in `rans_length.words_in_jit`.
      frequencies: `[a]`.
      lanes: a power of two.
      writer: takes them.
    """
    intervals = intervals_of(starts, frequencies).astype(np.uint32)[symbols]
    write_intervals([intervals], lanes, [writer])


def write_intervals(
    intervals: Sequence[UInt32Array],
    lanes: int,
    writers: Sequence[BitWriter],
    capacity: int | None = None,
) -> None:
    """Writes states and words of symbols of these intervals, message by message.

    The lanes of several messages lie side by side in one loop: where they are few, a
    row costs what a turn of the loop costs.

    Args:
      intervals: of each message's symbols, `[n]`, `n >= 1`.
      lanes: of each message, a power of two.
      writers: take them.
      capacity: the most symbols that a message has room for, one compiled loop for
        all their numbers; the most that occur when None. It changes nothing else.
    """
    rows = -(-max(x.size for x in intervals) // lanes)
    room = rows if capacity is None else -(-capacity // lanes)
    compiled = room > _FEW_ROWS
    tables = [_in_rows(x, lanes, room if compiled else rows) for x in intervals]
    coded = _written(tables, compiled=compiled)
    for writer, (state, words) in zip(writers, coded, strict=True):
        writer.write(state, 32)
        writer.write(words & np.uint32(0xFFFF), 16)


def _in_rows(intervals: UInt32Array, lanes: int, rows: int) -> UInt32Array:
    padding = (0, rows * lanes - intervals.size)
    filled = np.pad(intervals, padding, constant_values=SCALE)
    return filled.reshape(rows, lanes)


def _host() -> jax.Device:
    """A CPU where there is one: a row is far too little work for anything else."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _written(
    tables: Sequence[UInt32Array], *, compiled: bool
) -> list[tuple[UInt32Array, UInt32Array]]:
    """States and words of each message, from its intervals `[rows, lanes]`."""
    rows, lanes = tables[0].shape
    most_lanes = _SIDE_BY_SIDE if compiled else _MAX_LANES
    at_once = max(1, min(most_lanes // lanes, _AT_ONCE // (rows * lanes)))
    coded = []
    for first in range(0, len(tables), at_once):
        group = tables[first : first + at_once]
        # As many as a power of two, so that few programs are compiled.
        width = lanes << (len(group) - 1).bit_length()
        side_by_side = np.full((rows, width), SCALE, np.uint32)
        np.concatenate(group, axis=1, out=side_by_side[:, : lanes * len(group)])
        if compiled:
            with jax.default_device(_host()):
                state, emitted = map(np.asarray, _emitted(side_by_side))
        else:
            state, emitted = _emitted_in_numpy(side_by_side)
        for start in range(0, lanes * len(group), lanes):
            own = slice(start, start + lanes)
            words = emitted[:, own].ravel()
            coded.append((state[own], words[words > 0]))
    return coded


def _emitted_in_numpy(table: UInt32Array) -> tuple[UInt32Array, UInt32Array]:
    """As `_emitted`."""
    state = np.full(table.shape[1], LOWER, np.uint32)
    emitted = np.zeros_like(table)
    for row, words in zip(table[::-1], emitted[::-1], strict=True):
        frequency, start = row & 0x7FFF, row >> 15
        emit = (state >> (32 - SCALE_BITS)) >= frequency
        words[emit] = (state[emit] & 0xFFFF) | LOWER
        state = np.where(emit, state >> 16, state)
        quotient, rest = np.divmod(state, frequency)
        state = (quotient << SCALE_BITS) + rest + start
    return state, emitted


@jax.jit
def _emitted(table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """States, and for each symbol its word with a bit above it, or 0."""

    def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, emit = next_states(state, row)
        return after, jnp.where(emit, (state & 0xFFFF) | LOWER, 0)

    first = jnp.full(table.shape[1:], LOWER, jnp.uint32)
    return jax.lax.scan(step, first, table, reverse=True)


def read_words(
    n: int,
    starts: UInt32Array,
    frequencies: UInt32Array,
    lanes: int,
    reader: BitReader,
    capacity: int | None = None,
) -> UInt64Array:
    """Reads states and words of `n >= 1` symbols: `[n]`.

    Args:
      n: how many.
      starts: `[a]`, as in `rans_length.words_in_jit`.
      frequencies: `[a]`.
      lanes: a power of two.
      reader: has them.
      capacity: as in `write_words`.

    Raises:
      WireError: for words that end early or do not lead back to the first states.
    """
    return read_slots(n, slots_of(starts, frequencies), lanes, reader, capacity)


class Slots(NamedTuple):
    """What each of a table's `2**14` slots holds; tables one behind another, `[s]`.

    Attributes:
      symbol: uint16.
      frequency: of that symbol, uint32.
      offset: of the slot from where its symbol starts, uint32.
    """

    symbol: np.ndarray
    frequency: UInt32Array
    offset: UInt32Array


def slots_of(starts: UInt32Array, frequencies: UInt32Array) -> Slots:
    """The slots of one table, from starts and frequencies `[a]`."""
    symbol = np.repeat(np.arange(len(frequencies), dtype=np.uint16), frequencies)
    offset = np.arange(SCALE, dtype=np.uint32) - starts[symbol]
    return Slots(symbol, frequencies[symbol], offset)


def read_slots(
    n: int,
    slots: Slots,
    lanes: int,
    reader: BitReader,
    capacity: int | None = None,
    table: np.ndarray | None = None,
) -> UInt64Array:
    """Reads states and words of `n >= 1` symbols: `[n]`.

    Args:
      n: how many.
      slots: of all tables.
      lanes: a power of two.
      reader: has them.
      capacity: as in `write_words`; `n` where there are several tables.
      table: which table each symbol is of, uint32 `[n]`; the only one by default.

    Raises:
      WireError: as `read_words`.
    """
    room = n if capacity is None else capacity
    first = None
    if table is not None:
        rows = -(-room // lanes)
        padded = np.zeros(rows * lanes, np.uint32)
        padded[:n] = table.astype(np.uint32) << SCALE_BITS
        first = padded.reshape(rows, lanes)

    state = reader.read(lanes, 32).astype(np.uint32)
    words = reader.peek(min(reader.remaining // 16, n), 16).astype(np.uint32)
    if -(-room // lanes) <= _FEW_ROWS:
        symbols, state, used = _read_in_numpy(n, slots, state, words, first)
    else:
        padded = np.pad(words, (0, room - words.size))
        with jax.default_device(_host()):
            read = _read_compiled(n, slots, state, padded, first, room=room)
        symbols, state, used = np.asarray(read[0]), np.asarray(read[1]), int(read[2])
    if used > words.size:
        raise WireError(f"The message ends early: {words.size} words are too few.")
    if np.any(state != LOWER):
        raise WireError("The decoder does not end where the encoder began.")
    reader.skip(16 * used)
    return symbols.ravel()[:n].astype(np.uint64)


def _read_in_numpy(
    n: int,
    slots: Slots,
    state: UInt32Array,
    words: UInt32Array,
    first: UInt32Array | None,
) -> tuple[np.ndarray, UInt32Array, int]:
    lanes = state.size
    used, rows = 0, -(-n // lanes)
    symbols = np.zeros((rows, lanes), np.uint16)
    for row in range(rows):
        live = min(lanes, n - row * lanes)
        slot = state[:live] & (SCALE - 1)
        if first is not None:
            slot = slot + first[row, :live]
        symbols[row, :live] = slots.symbol[slot]
        part = slots.frequency[slot] * (state[:live] >> SCALE_BITS) + slots.offset[slot]
        refill = part < LOWER
        count = int(np.count_nonzero(refill))
        if used + count > words.size:
            return symbols, state, used + count
        part[refill] = (part[refill] << 16) | words[used : used + count]
        used += count
        state[:live] = part
    return symbols, state, used


@functools.partial(jax.jit, static_argnames="room")
def _read_compiled(
    n: jax.Array,
    slots: Slots,
    state: jax.Array,
    words: jax.Array,
    first: jax.Array | None,
    *,
    room: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `_read_in_numpy`, for any `n` up to `room`; goes on when words run out."""
    lanes = state.size
    lane = jnp.arange(lanes)

    def step(
        row: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        symbols, state, used = carry
        slot = state & (SCALE - 1)
        if first is not None:
            slot = slot + first[row]
        part = slots.frequency[slot] * (state >> SCALE_BITS) + slots.offset[slot]
        live = row * lanes + lane < n
        refill = live & (part < LOWER)
        place = used + jnp.cumsum(refill, dtype=jnp.int32) - 1
        word = words.at[place].get(mode="clip")
        part = jnp.where(refill, (part << 16) | word, part)
        return (
            symbols.at[row].set(slots.symbol[slot]),
            jnp.where(live, part, state),
            used + jnp.sum(refill, dtype=jnp.int32),
        )

    symbols = jnp.zeros((-(-room // lanes), lanes), jnp.uint16)
    carry = (symbols, state, jnp.int32(0))
    return jax.lax.fori_loop(0, -(-n // lanes), step, carry)
