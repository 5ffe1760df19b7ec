"""Quantizes distributions to few bits per probability; they stay distributions.

Sattler, Marban, Rischke and Samek 2021, "CFD: communication-efficient federated
distillation via soft-label quantization and delta coding" (arXiv 2012.00632), section
on constrained quantization. How the nearest such distribution is found, by largest
remainders, is Hamilton's method of apportionment.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import power_of_two
from fedjax_comp.compress.quantize.lattice import OnLattice
from fedjax_comp.compress.quantize.scalar import symbols_of
from fedjax_comp.wire.fields import Raw


def simplex_quantize(bits: int) -> Compressor:
    """Rounds each row of probabilities to the nearest one in multiples of 1 / u.

        C(p) = argmin ||q - p||_2   over   q = k / u,  k >= 0 whole,  sum k = u,

    with `u = 2^bits - 1`. One bit says which class is the likeliest and no more; of
    equal ones it is the first. A row is the last axis. A row that is no distribution is
    first made one (`on_simplex`); a row with nothing above 0 is decoded as zeros.

    Args:
      bits: a probability, in [1, 16].

    Returns:
      A stateless `Compressor` that closes the symbols, and one bit a leaf that is 0
      when some number is not finite. `[P, L]` costs `P L bits + 1` bits;
      `entropy_coded` after it takes advantage of classes that are never likely.

    Raises:
      ValueError: when `bits` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> p = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
      >>> for bits in (1, 2):
      ...     payload, _ = simplex_quantize(bits).encode(context, p, ())
      ...     payload.parts[0].symbols.values.tolist()
      [[1, 0, 0], [0, 0, 1]]
      [[1, 1, 1], [0, 0, 3]]
    """
    bits = checks.integer("bits", bits, minimum=1, maximum=16)
    units = (1 << bits) - 1

    def encode(context: Context, x: jax.Array) -> OnLattice:
        del context  # nothing random here
        x = x.astype(jnp.float32)
        finite = jnp.all(jnp.isfinite(x))
        counts = apportioned(on_simplex(jnp.where(finite, x, 0)), units)
        return OnLattice(Raw(finite), symbols_of(counts, units + 1))

    def decode(
        context: Context, payload: OnLattice, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        p = payload.symbols.values.astype(jnp.float32) / units
        return jnp.where(payload.finite.values, p, jnp.nan).astype(like.dtype)

    return leafwise(ArrayCode("simplex_quantize", encode, decode))


def on_simplex(x: jax.Array) -> jax.Array:
    """Rows as distributions: negative numbers become 0, then each row is over its sum.

    Args:
      x: float `[..., L]`; a scalar is a row of one.

    Returns:
      float32, the same shape; zeros where a row has nothing above 0, NaN where it has
      one.

    >>> on_simplex(jnp.array([[1.0, 3.0], [-1.0, 2.0], [0.0, -1.0]])).tolist()
    [[0.25, 0.75], [0.0, 1.0], [0.0, 0.0]]
    """
    rows = jnp.maximum(jnp.atleast_1d(x).astype(jnp.float32), 0)
    # Numbers near the largest float would add up to infinity.
    _, inverse = power_of_two(jnp.max(rows, axis=-1, keepdims=True, initial=0))
    rows = rows * inverse
    total = jnp.sum(rows, axis=-1, keepdims=True)
    return (rows / jnp.where(total == 0, 1, total)).reshape(x.shape)


def apportioned(p: jax.Array, units: int) -> jax.Array:
    """Whole numbers that add up to `units` in every row, nearest to `units * p`.

    Each gets what it has in full; those with the largest remainders one more, until
    none is left. Of equal remainders the first comes first.

    Args:
      p: rows that add up to 1, or to 0, float32 `[..., L]`; a scalar is a row of one.
      units: at least 1.

    Returns:
      float32, the same shape.

    >>> apportioned(jnp.array([0.42, 0.32, 0.26]), 7).tolist()
    [3.0, 2.0, 2.0]
    """
    shares = units * jnp.atleast_1d(p)
    full = jnp.floor(shares)
    left = jnp.sum(shares, axis=-1, keepdims=True).round() - jnp.sum(
        full, axis=-1, keepdims=True
    )
    order = jnp.argsort(full - shares, axis=-1, stable=True)
    place = jnp.argsort(order, axis=-1).astype(jnp.float32)
    return (full + (place < left).astype(jnp.float32)).reshape(p.shape)
