"""How long a field is by rANS, inside jit: counts of symbols, words that are emitted.

On a TPU a table's entries are compared with and summed up, where scatters and gathers
go number by number; the numbers are integers and the same to the bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp.wire.codes.rans_words import LOWER, SCALE, intervals_of, next_states

_MAX_COMPARED = 1 << 10
"""Entries of a table that is compared with; of larger ones they would be too many."""


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
    return jax.lax.platform_dependent(
        rows, table, tpu=_words_by_comparing, default=_words_by_looking_up
    )


def _words_by_looking_up(rows: jax.Array, table: jax.Array) -> jax.Array:
    return _words(rows, lambda row: table.at[row].get(mode="clip"))


def _words_by_comparing(rows: jax.Array, table: jax.Array) -> jax.Array:
    """For a TPU, which gathers number by number; a sum takes all lanes at once."""
    if table.size > _MAX_COMPARED:
        return _words_by_looking_up(rows, table)
    symbol = jnp.arange(table.size, dtype=rows.dtype)[:, None]

    def interval(row: jax.Array) -> jax.Array:
        found = jnp.where(row[None, :] == symbol, table[:, None], jnp.uint32(0))
        return jnp.sum(found, axis=0, dtype=jnp.uint32)

    return _words(rows, interval)


def words_of_intervals(intervals: jax.Array, lanes: int) -> jax.Array:
    """Words of 16 bits that symbols of these intervals emit: uint32 scalar.

    Args:
      intervals: uint32 `[n]`.
      lanes: a power of two.
    """
    return _words(_in_rows(intervals, lanes, SCALE), lambda row: row)


def _in_rows(x: jax.Array, lanes: int, filling: int) -> jax.Array:
    rows = -(-x.size // lanes)
    padded = jnp.pad(x, (0, rows * lanes - x.size), constant_values=filling)
    return padded.reshape(rows, lanes)


def _words(rows: jax.Array, interval: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Words that rows, `[rows, lanes]`, emit, the last one first: uint32 scalar."""

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
    return jnp.sum(words, dtype=jnp.uint32)
