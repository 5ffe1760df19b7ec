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


def symbol_counts(index: jax.Array, alphabet: int) -> jax.Array:
    """How often each symbol occurs: uint32 `[alphabet]`.

    Args:
      index: int32 `[n]`; what is not below `alphabet` is not counted.
      alphabet: number of symbols.

    >>> symbol_counts(jnp.array([2, 0, 2, 3], jnp.int32), 3).tolist()
    [1, 0, 2]
    """

    def scattered(index: jax.Array) -> jax.Array:
        counts = jnp.zeros(alphabet, jnp.uint32)
        return counts.at[index].add(jnp.uint32(1), mode="drop")

    def compared(index: jax.Array) -> jax.Array:
        found = index[None, :] == jnp.arange(alphabet, dtype=jnp.int32)[:, None]
        return jnp.sum(found, axis=1, dtype=jnp.uint32)

    if alphabet > _MAX_COMPARED:
        return scattered(index)
    return jax.lax.platform_dependent(index, tpu=compared, default=scattered)


def words_in_jit(
    symbols: jax.Array,
    starts: jax.Array,
    frequencies: jax.Array,
    lanes: int,
    live: jax.Array | None = None,
) -> jax.Array:
    """Words of 16 bits that `symbols`, int32 `[n]`, emit: uint32 scalar.

    Args:
      symbols: below the alphabet's size `a`.
      starts: uint32 `[a]`.
      frequencies: uint32 `[a]`, summing to `2**14`.
      lanes: a power of two.
      live: bool `[n]`, which of them are coded, a prefix; all by default.
    """
    # A symbol of frequency 2**14 leaves the state alone: such symbols stand for those
    # that are not coded.
    nothing = starts.size
    table = jnp.pad(intervals_of(starts, frequencies), (0, 1), constant_values=SCALE)
    if live is not None:
        symbols = jnp.where(live, symbols, nothing)
    rows = _in_rows(symbols, lanes, nothing)
    # Looked up row by row: outside the loop compilers compute the table anew for every
    # symbol, divisions included.
    few = table.size <= _MAX_COMPARED
    by_table = _words_by_comparing if few else _words_by_looking_up
    return jax.lax.platform_dependent(
        rows, table, tpu=by_table, default=_words_by_looking_up
    )


def _words_by_looking_up(rows: jax.Array, table: jax.Array) -> jax.Array:
    return _words(rows, lambda row: table.at[row].get(mode="clip"))


@custom_vmap
def _words_by_comparing(rows: jax.Array, table: jax.Array) -> jax.Array:
    """For a TPU, which gathers number by number; a sum takes all lanes at once."""
    rows = _narrow(rows, table.size)
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
    rows = _narrow(rows, table.shape[1])
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


def _narrow(rows: jax.Array, entries: int) -> jax.Array:
    """Symbols below `entries` in a byte or two: all clients' lie there at once."""
    return rows.astype(jnp.uint8 if entries <= 1 << 8 else jnp.uint16)


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
