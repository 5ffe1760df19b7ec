"""Sparsity with structure: whole blocks are kept, or a fixed number in every chunk.

block_top_k is top-k (Aji and Heafield, 2017) over blocks instead of coordinates.
chunk_top_k: Peng, Quesnelle and Kingma, "DeMo: decoupled momentum optimization", 2024.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.compress.quantize.scalar import symbols_of
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.compress.sparsify.top_k import Sparse
from fedjax_comp.wire.fields import IndexSet, Symbols


def rows_of(x: jax.Array, width: int) -> jax.Array:
    """The raveled array as rows `[ceil(n / width), width]`, the last filled with 0."""
    flat = x.reshape(-1)
    return jnp.pad(flat, (0, -flat.shape[0] % width)).reshape(-1, width)


def _restored(rows: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    flat = rows.reshape(-1)[: math.prod(like.shape)]
    return flat.reshape(like.shape).astype(like.dtype)


def block_top_k(fraction: float, *, block: int) -> Compressor:
    """Keeps the runs of `block` coordinates whose norms are largest in every leaf.

    Contractive: `||C(x) - x||^2 <= (1 - k/b) ||x||^2`, `k` of `b` blocks being kept. An
    index is paid once for `block` numbers, and they lie side by side in memory. The
    values stay open, `[k, block]`; a last block that is short is padded.

    Args:
      fraction: `k = round(fraction * b)`, at least 1.
      block: coordinates in a block, at least 1; a leaf with fewer is one block.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> half = block_top_k(0.5, block=2)
      >>> payload, _ = half.encode(context, jnp.array([3.0, 3, 4, 0]), ())
      >>> half.decode(context, payload, ())[0]
      Array([3., 3., 0., 0.], dtype=float32)
    """
    fraction = checks.fraction("fraction", fraction)
    block = checks.integer("block", block, minimum=1)

    def encode(context: Context, x: jax.Array) -> Sparse:
        del context
        rows = rows_of(x, min(block, x.size))
        # The squares of tiny or huge numbers would leave the range of float32.
        unit, _ = in_units(rows.astype(jnp.float32))
        k = selection.num_kept(rows.shape[0], fraction=fraction, k=None)
        indices = selection.largest_indices(jnp.sum(jnp.square(unit), axis=1), k)
        return Sparse(rows[indices], IndexSet(indices, bound=rows.shape[0]))

    def decode(
        context: Context, payload: Sparse, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        width = payload.values.shape[1]
        zeros = jnp.zeros((-(-math.prod(like.shape) // width), width), like.dtype)
        rows = zeros.at[payload.indices.values].set(
            payload.values.astype(like.dtype), unique_indices=True
        )
        return _restored(rows, like)

    return leafwise(ArrayCode("block_top_k", encode, decode))


def largest_in_rows(rows: jax.Array, k: int) -> jax.Array:
    """Where the `k` largest magnitudes of every row are; of equal ones, the first.

    The `k`-th largest of all rows is found at once, bit by bit: on a CPU tens of times
    faster than sorting many short rows.

    Args:
      rows: float `[m, c]`.
      k: in `[1, c]`.

    Returns:
      Places in ascending order, int32 `[m, k]`.

    >>> largest_in_rows(jnp.array([[1.0, -3, 2], [0, 0, 0]]), 2).tolist()
    [[1, 2], [0, 1]]
    """
    m, width = rows.shape
    if k == width:
        return jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], (m, width))
    magnitudes = jnp.abs(rows.astype(jnp.float32))
    keys = jax.lax.bitcast_convert_type(magnitudes, jnp.uint32)

    def count(marks: jax.Array) -> jax.Array:
        return jnp.sum(marks, axis=1, keepdims=True, dtype=jnp.int32)

    def next_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1 << 30) >> i.astype(jnp.uint32))
        return jnp.where(count(keys >= tried) >= k, tried, found)

    kth = jax.lax.fori_loop(0, 31, next_bit, jnp.zeros((m, 1), jnp.uint32))
    above, ties = keys > kth, keys == kth
    tie_rank = jnp.cumsum(ties.astype(jnp.int32), axis=1)
    kept = above | (ties & (tie_rank <= k - count(above)))
    up_to = jnp.cumsum(kept.astype(jnp.int32), axis=1)
    ranks = jnp.arange(1, k + 1, dtype=jnp.int32)
    places = jax.vmap(lambda row: jnp.searchsorted(row, ranks))(up_to)
    return places.astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ChunkSparse:
    """The same number of coordinates of every chunk.

    Attributes:
      values: `[chunks, k]` in the array's dtype, open.
      places: where in its chunk each belongs, `[chunks, k]`, ascending in a chunk.
    """

    values: jax.Array
    places: Symbols


def chunk_top_k(k: int, *, chunk: int = 64) -> Compressor:
    """Keeps the `k` coordinates of largest magnitude of every run of `chunk`.

    Contractive: `||C(x) - x||^2 <= (1 - k/chunk) ||x||^2`. A place costs
    `ceil(log2(chunk))` bits, however large the leaf. The values stay open.

    Args:
      k: in `[1, chunk]`; all of a leaf with fewer coordinates.
      chunk: coordinates in a chunk, in `[1, 65536]`; a shorter leaf is one chunk.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> one = chunk_top_k(1, chunk=2)
      >>> payload, _ = one.encode(context, jnp.array([3.0, 2, 1, -1]), ())
      >>> one.decode(context, payload, ())[0]
      Array([3., 0., 1., 0.], dtype=float32)
    """
    chunk = checks.integer("chunk", chunk, minimum=1, maximum=1 << 16)
    k = checks.integer("k", k, minimum=1, maximum=chunk)

    def encode(context: Context, x: jax.Array) -> ChunkSparse:
        del context
        width = min(chunk, x.size)
        rows = rows_of(x, width)
        places = largest_in_rows(rows, min(k, width))
        values = jnp.take_along_axis(rows, places, axis=1)
        return ChunkSparse(values, symbols_of(places.astype(jnp.float32), width))

    def decode(
        context: Context, payload: ChunkSparse, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        places = payload.places.values.astype(jnp.uint32)
        shape = (places.shape[0], payload.places.cardinality)
        row = jnp.arange(shape[0], dtype=jnp.uint32)[:, None]
        rows = (
            jnp.zeros(shape, like.dtype)
            .at[row, places]
            .set(payload.values.astype(like.dtype), unique_indices=True)
        )
        return _restored(rows, like)

    return leafwise(ArrayCode("chunk_top_k", encode, decode))
