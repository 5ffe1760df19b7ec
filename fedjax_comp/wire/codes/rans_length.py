"""The length of a field by rANS, inside jit: symbol counts and words that are emitted.

On a TPU scatters and gathers go number by number, so there a table is looked up by
comparing with all entries and adding up; results are integers, the same to the bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from fedjax_comp.wire.codes.rans_words import LOWER, SCALE, intervals_of, next_states

_MAX_COMPARED = 1 << 10
"""Entries of a table that is compared with; of larger ones they would be too many."""

_MAX_REPEATED = 32
"""Entries of a table that every lane has a copy of."""

_FULL_ROW = 128
"""Lanes that fill a row of a TPU's tile by themselves."""


def symbol_counts(
    symbols: jax.Array, alphabet: int, live: jax.Array | None = None
) -> jax.Array:
    """How often each symbol occurs: uint32 `[alphabet]`.

    Args:
      symbols: unsigned integers below `alphabet`, `[n]`.
      alphabet: number of symbols.
      live: bool `[n]`, which of them are counted; all by default.

    >>> symbol_counts(jnp.array([2, 0, 2, 1], jnp.uint8), 3).tolist()
    [1, 1, 2]
    """

    def scattered(symbols: jax.Array, live: jax.Array | None) -> jax.Array:
        index = _with_others(symbols.astype(jnp.int32), live, alphabet)
        counts = jnp.zeros(alphabet, jnp.uint32)
        return counts.at[index].add(jnp.uint32(1), mode="drop")

    def compared(symbols: jax.Array, live: jax.Array | None) -> jax.Array:
        index = _with_others(_narrow(symbols, alphabet), live, alphabet)
        found = index[None, :] == jnp.arange(alphabet, dtype=index.dtype)[:, None]
        return jnp.sum(found, axis=1, dtype=jnp.uint32)

    if alphabet > _MAX_COMPARED:
        return scattered(symbols, live)
    return jax.lax.platform_dependent(symbols, live, tpu=compared, default=scattered)


def _narrow(symbols: jax.Array, most: int) -> jax.Array:
    """Integers up to `most` in a byte or two: all clients' lie there at once."""
    return symbols.astype(jnp.uint8 if most < 1 << 8 else jnp.uint16)


def _with_others(symbols: jax.Array, live: jax.Array | None, other: int) -> jax.Array:
    """`symbols` where they are live, and `other` elsewhere."""
    if live is None:
        return symbols
    return jnp.where(live, symbols, jnp.array(other, symbols.dtype))


def words_in_jit(
    symbols: jax.Array,
    starts: jax.Array,
    frequencies: jax.Array,
    lanes: int,
    live: jax.Array | None = None,
) -> jax.Array:
    """Words of 16 bits that `symbols` emit: uint32 scalar.

    Args:
      symbols: integers of any type, `[n]`, below the alphabet's size `a`.
      starts: uint32 `[a]`.
      frequencies: uint32 `[a]`, summing to `2**14`.
      lanes: a power of two.
      live: bool `[n]`, which of them are coded, a prefix; all by default.
    """
    # A symbol of frequency 2**14 leaves the state alone: such symbols stand for those
    # that are not coded.
    nothing = starts.size
    table = jnp.pad(intervals_of(starts, frequencies), (0, 1), constant_values=SCALE)

    def looking_up(
        symbols: jax.Array, table: jax.Array, live: jax.Array | None
    ) -> jax.Array:
        # Looked up row by row: outside the loop compilers compute the table anew for
        # every symbol, divisions included.
        index = _with_others(symbols.astype(jnp.int32), live, nothing)
        rows = _in_rows(index, lanes, nothing)
        return _words(rows, lambda row: table.at[row].get(mode="clip"))

    def comparing(
        symbols: jax.Array, table: jax.Array, live: jax.Array | None
    ) -> jax.Array:
        index = _with_others(_narrow(symbols, nothing), live, nothing)
        return _words_by_comparing(_in_rows(index, lanes, nothing), table)

    few = table.size <= _MAX_COMPARED
    return jax.lax.platform_dependent(
        symbols, table, live, tpu=comparing if few else looking_up, default=looking_up
    )


@custom_vmap
def _words_by_comparing(rows: jax.Array, table: jax.Array) -> jax.Array:
    """For a TPU, which gathers number by number; a sum takes all lanes at once."""
    return jnp.sum(_words_of_lanes(rows, table[:, None]), dtype=jnp.uint32)


@_words_by_comparing.def_vmap
def _(
    axis_size: int, batched: tuple[bool, bool], rows: jax.Array, table: jax.Array
) -> tuple[jax.Array, bool]:
    """The lanes of all side by side: each one's few would not fill a TPU's rows."""
    rows, table = (
        x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, is_batched in zip((rows, table), batched, strict=True)
    )
    lanes = rows.shape[2]
    if table.shape[1] > _MAX_REPEATED or lanes >= _FULL_ROW:
        words = jax.vmap(_words_of_lanes)(rows, table[:, :, None])
        return jnp.sum(words, axis=1, dtype=jnp.uint32), True
    together = _side_by_side(rows)
    tables = jnp.repeat(table.T, lanes, axis=1)
    # Without the barrier the compiler repeats them in every turn of the loop.
    tables = jax.lax.optimization_barrier(tables)
    return _of_each(_words_of_lanes(together, tables), axis_size), True


def _side_by_side(rows: jax.Array) -> jax.Array:
    """Rows of many, `[m, rows, lanes]`, as `[rows, m * lanes]`."""
    return jnp.moveaxis(rows, 0, 1).reshape(rows.shape[1], -1)


def _of_each(words: jax.Array, axis_size: int) -> jax.Array:
    return jnp.sum(words.reshape(axis_size, -1), axis=1, dtype=jnp.uint32)


def _words_of_lanes(rows: jax.Array, tables: jax.Array) -> jax.Array:
    """Words of each lane, `[l]`, from symbols `[rows, l]` and tables `[a, l or 1]`."""
    symbol = jnp.arange(tables.shape[0], dtype=rows.dtype)[:, None]

    def interval(row: jax.Array) -> jax.Array:
        found = jnp.where(row[None, :] == symbol, tables, jnp.uint32(0))
        return jnp.sum(found, axis=0, dtype=jnp.uint32)

    return _emitted(rows, interval)


def words_of_intervals(intervals: jax.Array, lanes: int) -> jax.Array:
    """Words of 16 bits that symbols of these intervals emit: uint32 scalar.

    Args:
      intervals: uint32 `[n]`.
      lanes: a power of two.
    """
    rows = _in_rows(intervals, lanes, SCALE)
    return jax.lax.platform_dependent(rows, tpu=_words_as_told, default=_as_told)


def _as_told(rows: jax.Array) -> jax.Array:
    return _words(rows, lambda row: row)


_words_as_told = custom_vmap(_as_told)


@_words_as_told.def_vmap
def _(axis_size: int, batched: tuple[bool], rows: jax.Array) -> tuple[jax.Array, bool]:
    """As of symbols: the lanes of all side by side."""
    if not batched[0]:
        return _as_told(rows), False
    if rows.shape[2] >= _FULL_ROW:
        return jax.vmap(_as_told)(rows), True
    words = _emitted(_side_by_side(rows), lambda row: row)
    return _of_each(words, axis_size), True


def _in_rows(x: jax.Array, lanes: int, filling: int) -> jax.Array:
    rows = -(-x.size // lanes)
    padded = jnp.pad(x, (0, rows * lanes - x.size), constant_values=filling)
    return padded.reshape(rows, lanes)


def _words(rows: jax.Array, interval: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return jnp.sum(_emitted(rows, interval), dtype=jnp.uint32)


def _emitted(rows: jax.Array, interval: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Words that rows, `[rows, lanes]`, emit, the last one first: uint32 `[lanes]`."""

    def step(
        carry: tuple[jax.Array, jax.Array], row: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        state, words = carry
        state, emit = next_states(state, interval(row))
        return (state, words + emit.astype(jnp.uint32)), None

    lanes = rows.shape[1]
    first = jnp.full(lanes, LOWER, jnp.uint32)
    carry = (first, jnp.zeros(lanes, jnp.uint32))
    (_, words), _ = jax.lax.scan(step, carry, rows, reverse=True)
    return words
