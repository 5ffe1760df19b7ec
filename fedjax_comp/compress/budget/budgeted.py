"""Compressors that spend at most `Context.budget_bits`, decided inside jit.

A leaf's share of the budget (`fedjax_comp.compress.budget.shares`) decides how many
coordinates or bits it gets. The budget is traced, so a controller may change it every
round without a second compilation. The decision travels in the message, and is paid
for, as a `count` or a `width` of a wire field. Without a budget (`inf`) every leaf gets
the most that the compressor allows.

No message is shorter than the headers of its leaves; each docstring says how long these
are. A budget below that is exceeded, and the leaves are sent as zeros. Any larger
budget pays the headers first. A leaf that is not finite sends one number whatever it
costs: zeros in its place would be trained on.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.budget.shares import affordable
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import (
    extrema,
    number_at,
    steps_above,
    symbols_of,
)
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.compress.sparsify.counted import (
    CountedSparse,
    decode_counted,
    largest,
)
from fedjax_comp.compress.sparsify.top_k import poison, scatter
from fedjax_comp.wire.codes.fixed_width import bit_width
from fedjax_comp.wire.fields import Raw, Symbols, keep_prefix
from fedjax_comp.wire.raw import dtype_bits


def _count(fits: jax.Array, capacity: int, x: jax.Array) -> jax.Array:
    """How many of a leaf travel, uint32: one of a broken one, which shall show."""
    # Not a minimum of floats: float32 rounds some capacities above 2^24 up.
    below = jnp.clip(fits, 0.0, 2.0**31).astype(jnp.uint32)
    count = jnp.minimum(below, jnp.uint32(capacity))
    least = jnp.where(jnp.all(jnp.isfinite(x)), jnp.uint32(0), jnp.uint32(1))
    return jnp.maximum(count, jnp.minimum(least, jnp.uint32(capacity)))


def _count_bits(max_fraction: float, like: jax.ShapeDtypeStruct) -> int:
    n = math.prod(like.shape)
    return selection.num_kept(n, fraction=max_fraction, k=None).bit_length()


def budgeted_top_k(max_fraction: float) -> Compressor:
    """Keeps as many of the largest coordinates of every leaf as its budget allows.

    A coordinate costs its value and `ceil(log2(n))` bits of index; that a code behind
    this stage usually shortens the indices is not taken into account. Contractive:
    `||C(x) - x||^2 <= (1 - k/n) ||x||^2` for the `k` of the round. Closed.

    The least message is two counts a leaf, `2 * capacity.bit_length()` bits with
    `capacity = round(max_fraction * n)`, and decodes to zeros.

    Args:
      max_fraction: of a leaf's `n` coordinates that are kept at most, at least 1.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: unless `max_fraction` lies in (0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> context = context._replace(budget_bits=jnp.float32(80))
      >>> x = jnp.array([1.0, -4, 3, 2])
      >>> payload, _ = budgeted_top_k(1.0).encode(context, x, ())
      >>> budgeted_top_k(1.0).decode(context, payload, ())[0]  # 2 * 3 + 2 * (32 + 2)
      Array([ 0., -4.,  3.,  0.], dtype=float32)
    """
    max_fraction = checks.fraction("max_fraction", max_fraction)

    def encode(context: Context, x: jax.Array) -> CountedSparse:
        flat, n = x.reshape(-1), x.size
        capacity = selection.num_kept(n, fraction=max_fraction, k=None)
        fits = affordable(
            context.budget_bits,
            2 * capacity.bit_length(),
            dtype_bits(x.dtype) + bit_width(n),
        )
        return largest(flat, capacity, _count(fits, capacity, x))

    def least_bits(like: jax.ShapeDtypeStruct) -> int:
        return 2 * _count_bits(max_fraction, like)

    return leafwise(
        ArrayCode("budgeted_top_k", encode, decode_counted, least_bits=least_bits)
    )


def budgeted_random_k(max_fraction: float, *, shared: bool = False) -> Compressor:
    """Keeps as many random coordinates of every leaf as its budget allows.

    No index is sent. Unbiased, with `E||C(x) - x||^2 = (n/k - 1) ||x||^2`, whenever the
    budget allows one coordinate of every leaf. All values are NaN when a number of the
    leaf is not finite. Closed.

    The least message is a count a leaf, `capacity.bit_length()` bits with `capacity =
    round(max_fraction * n)`, and decodes to zeros.

    Args:
      max_fraction: of a leaf's `n` coordinates that are kept at most, at least 1.
      shared: whether the whole cohort draws the same coordinates in a round.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: unless `max_fraction` lies in (0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> context = context._replace(budget_bits=jnp.float32(70))
      >>> payload, _ = budgeted_random_k(1.0).encode(context, jnp.ones(4), ())
      >>> decoded, _ = budgeted_random_k(1.0).decode(context, payload, ())
      >>> sorted(decoded.tolist())  # a count of 3 bits and 2 numbers of 32
      [0.0, 0.0, 2.0, 2.0]
    """
    max_fraction = checks.fraction("max_fraction", max_fraction)

    def draw(context: Context, n: int) -> jax.Array:
        key = context.round_key if shared else context.client_key
        capacity = selection.num_kept(n, fraction=max_fraction, k=None)
        return selection.random_indices(key, n, capacity)

    def encode(context: Context, x: jax.Array) -> Raw:
        positions = draw(context, x.size)
        capacity = positions.size
        fits = affordable(
            context.budget_bits, capacity.bit_length(), dtype_bits(x.dtype)
        )
        count = _count(fits, capacity, x)
        values = poison(x.reshape(-1)[positions], x)
        return Raw(keep_prefix(values, count), count)

    def decode(context: Context, payload: Raw, like: jax.ShapeDtypeStruct) -> jax.Array:
        n = math.prod(like.shape)
        if payload.count is None:
            raise ValueError("Expected a payload of budgeted_random_k, with a count.")
        factor = jnp.float32(n) / jnp.maximum(payload.count, 1).astype(jnp.float32)
        scaled = payload.values.astype(jnp.float32) * factor
        return scatter(scaled, draw(context, n), like, payload.count)

    def least_bits(like: jax.ShapeDtypeStruct) -> int:
        return _count_bits(max_fraction, like)

    return leafwise(
        ArrayCode("budgeted_random_k", encode, decode, least_bits=least_bits)
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BudgetedLevels:
    """An array whose number of bits per coordinate was decided inside jit.

    Attributes:
      scale: the least and the largest number, float32 `[2]`.
      symbols: one a coordinate, the shape of the array, with a width.
    """

    scale: Raw
    symbols: Symbols


def budgeted_quantize(max_bits: int = 8) -> Compressor:
    """`stochastic_quantize` with `2**b` levels, `b` what the budget allows.

    Every coordinate of a leaf travels in `b` bits, `0 <= b <= max_bits`. Unbiased for
    `b >= 1` with `E||C(x) - x||^2 <= n / (2 (2**b - 1)^2) ||x||^2`; a leaf with `b = 0`
    is decoded as zeros. Closed. Behind a stage that leaves fewer numbers open, such as
    `top_k`, the cost of the other fields is subtracted from the budget first.

    The least message is 64 bits of scale and `max_bits.bit_length()` of width a leaf.

    Args:
      max_bits: in `[1, 16]`.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: unless `max_bits` is an integer in [1, 16].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> context = context._replace(budget_bits=jnp.float32(64 + 4 + 4 * 2 + 1))
      >>> payload, _ = budgeted_quantize().encode(context, jnp.arange(4.0), ())
      >>> int(payload.parts[0].symbols.width), payload.parts[0].symbols.values.tolist()
      (2, [0, 1, 2, 3])
    """
    max_bits = checks.integer("max_bits", max_bits, minimum=1, maximum=16)
    header_bits = 64 + bit_width(1 << max_bits).bit_length()

    def last_level(width: jax.Array) -> jax.Array:
        return ((jnp.uint32(1) << width) - 1).astype(jnp.float32)

    def encode(context: Context, x: jax.Array) -> BudgetedLevels:
        x = x.astype(jnp.float32)
        low, high = extrema(x)
        fits = affordable(context.budget_bits, header_bits, x.size)
        width = jnp.minimum(fits, jnp.float32(max_bits)).astype(jnp.uint32)
        t = steps_above(x, low, high, jnp.maximum(last_level(width), 1.0))
        q = noise.bernoulli_round(context.client_key, t)
        q = jnp.minimum(q, last_level(width))
        symbols = symbols_of(q, 1 << max_bits)
        return BudgetedLevels(
            Raw(jnp.stack([low, high])), dataclasses.replace(symbols, width=width)
        )

    def decode(
        context: Context, payload: BudgetedLevels, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        low, high = payload.scale.values
        width = payload.symbols.width
        if width is None:
            raise ValueError("Expected a payload of budgeted_quantize, with a width.")
        t = payload.symbols.values.astype(jnp.float32)
        x = number_at(t, low, high, jnp.maximum(last_level(width), 1.0))
        # Not multiplied by zero: a scale that is not finite still shows.
        finite = jnp.isfinite(low) & jnp.isfinite(high)
        empty = jnp.where(finite, 0.0, jnp.nan)
        return jnp.where(width > 0, x, empty).astype(like.dtype)

    return leafwise(
        ArrayCode(
            "budgeted_quantize", encode, decode, least_bits=lambda like: header_bits
        )
    )
