"""A separate scale for every block of coordinates.

A quantizer with one scale per leaf is as coarse as the leaf's largest coordinate
demands. In blocks, a large coordinate makes only its own block coarse: Alistarh et al.,
"QSGD", 2017, section 4, who call the blocks buckets.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context, PyTree, fold_context, make_context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.keys import make_key
from fedjax_comp.wire.fields import Coded, IndexSet, fields


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """A vector in blocks.

    Attributes:
      full: payload of the full blocks, a leading axis on every array; `()` for none.
      rest: payload of what is left at the end; `()` when the blocks come out even.
    """

    full: PyTree
    rest: PyTree


def _require_fixed_shape(compressor: Compressor, size: int) -> None:
    # What is mapped over blocks must be as long for each of them.
    like = jax.ShapeDtypeStruct((size,), jnp.float32)
    state = checks.memoryless(
        compressor,
        like,
        "in blockwise(): put its memory around it, e.g. "
        "error_feedback(blockwise(256, scaled_sign())).",
    )
    payload = jax.eval_shape(
        lambda x: compressor.encode(make_context(make_key(0), 0), x, state.sender)[0],
        like,
    )
    for field in fields(payload):
        counted = getattr(field, "count", None) is not None
        varied = getattr(field, "width", None) is not None
        if isinstance(field, IndexSet | Coded) or counted or varied:
            raise ValueError(
                f"Expected a compressor of fixed length in blockwise(), got a "
                f"{type(field).__name__}: put entropy_coded() behind blockwise(), and "
                "use block_top_k or chunk_top_k for sparsity in blocks."
            )


def blockwise(size: int, compressor: Compressor) -> Compressor:
    """Compresses each leaf in blocks of `size` coordinates, each on its own.

        C(x) = (c(x_1..size), c(x_size+1..2 size), ...),   c = compressor.

    The last block may be shorter: nothing is padded. Bounds of `compressor`
    hold with `size` in place of `n`. An entropy code goes behind it, for all blocks
    together: `chain(blockwise(256, qsgd(7)), entropy_coded())`. A block may spend its
    share of the context's budget.

    Args:
      size: coordinates in a block, in raveled order.
      compressor: of a vector, without memory and without sets of indices.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when `size` is below 1, and when `compressor` is not a Compressor, has
        memory, or sends indices, coded fields or fields whose length depends on their
        values.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import scaled_sign
      >>> context = make_context(jax.random.key(0), 0)
      >>> signs = blockwise(2, scaled_sign())
      >>> payload, _ = signs.encode(context, jnp.array([9.0, -7, 0.5, 1.5, -2]), ())
      >>> signs.decode(context, payload, ())[0]
      Array([ 8., -8.,  1.,  1., -2.], dtype=float32)
    """
    size = checks.integer("size", size, minimum=1)
    _require_fixed_shape(checks.compressor("compressor", compressor), size)

    def context_of(
        context: Context, index: jax.typing.ArrayLike, share: float
    ) -> Context:
        own = context._replace(budget_bits=context.budget_bits * share)
        return fold_context(own, index)

    def encode_block(context: Context, x: jax.Array) -> PyTree:
        state = compressor.init(jax.ShapeDtypeStruct(x.shape, x.dtype))
        return compressor.encode(context, x, state.sender)[0]

    def decode_block(
        context: Context, payload: PyTree, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        return compressor.decode(context, payload, compressor.init(like).receiver)[0]

    def encode(context: Context, x: jax.Array) -> Blocks:
        flat, count = x.reshape(-1), x.size // size
        full: PyTree = ()
        rest: PyTree = ()
        if count:
            index = jnp.arange(count)
            full = jax.vmap(
                lambda i, part: encode_block(
                    context_of(context, i, size / x.size), part
                )
            )(index, flat[: count * size].reshape(count, size))
        if x.size % size:
            last = flat[count * size :]
            own = context_of(context, count, last.size / x.size)
            rest = encode_block(own, last)
        return Blocks(full, rest)

    def decode(
        context: Context, payload: Blocks, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        n = math.prod(like.shape)
        count, parts = n // size, []
        if count:
            block = jax.ShapeDtypeStruct((size,), like.dtype)
            decoded = jax.vmap(
                lambda i, part: decode_block(
                    context_of(context, i, size / n), part, block
                )
            )(jnp.arange(count), payload.full)
            parts.append(decoded.reshape(-1))
        if n % size:
            block = jax.ShapeDtypeStruct((n % size,), like.dtype)
            own = context_of(context, count, n % size / n)
            parts.append(decode_block(own, payload.rest, block))
        return trees.joined(parts).reshape(like.shape)

    return leafwise(ArrayCode("blockwise", encode, decode, linear=compressor.linear))
