"""A few singular triples of a matrix: drawn at random, or as many as hold its energy.

spectral_sample: Wang et al., "ATOMO: communication-efficient learning via atomic
sparsification", 2018, algorithm 1 with the atoms of the SVD. There each atom is drawn
independently, and their number varies; here systematic sampling (Madow, "On the theory
of systematic sampling, II", 1949) has the same probabilities and a fixed number.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.low_rank.decompositions import svd
from fedjax_comp.compress.low_rank.factors import (
    as_matrix,
    decode_factors,
    factors_are_smaller,
    in_dtype,
    product,
)
from fedjax_comp.compress.low_rank.singular import (
    Factors,
    leading_factors,
    multiplied,
    spectrum,
)
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.rank import rank_for_energy
from fedjax_comp.wire.fields import Raw, keep_prefix


def inclusion_probabilities(s: jax.Array, count: int) -> jax.Array:
    """The probabilities of least variance that add up to `count`.

        p_i = 1 for i < t,   p_i = (count - t) s_i / sum_{j >= t} s_j from t on,

    with the least `t` for which none exceeds 1: what minimises `sum_i s_i^2 / p_i`.

    Args:
      s: float32 `[r]`, nonnegative, in descending order.
      count: in `[1, r]`.

    Returns:
      float32 `[r]`.

    >>> import jax.numpy as jnp
    >>> inclusion_probabilities(jnp.array([8.0, 1.0, 1.0, 0.0]), 2).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    r = s.shape[0]
    tails = jnp.cumsum(s[::-1])[::-1]
    left = np.maximum(count - np.arange(r), 0).astype(np.float32)
    # Descending values are certain one after another until one is not.
    is_full = (left > 0) & (left * s >= tails)
    certain = jnp.cumprod(is_full.astype(jnp.int32)).astype(bool)
    t = jnp.sum(certain, dtype=jnp.int32)
    tail = tails[jnp.minimum(t, r - 1)]
    rest = (count - t).astype(jnp.float32)
    uniform = rest / jnp.maximum(r - t, 1).astype(jnp.float32)
    shared = jnp.where(tail > 0, rest * s / jnp.where(tail > 0, tail, 1.0), uniform)
    return jnp.where(certain, 1.0, jnp.minimum(shared, 1.0))


def systematic_sample(key: jax.Array, p: jax.Array, count: int) -> jax.Array:
    """`count` distinct positions, position `i` among them with probability `p_i`.

    The probabilities are laid end to end on `[0, count)`; the positions are those in
    which `u, u + 1, ..., u + count - 1` fall, `u` uniform in [0, 1).

    Args:
      key: scalar key array.
      p: float32 `[r]`, in [0, 1], with sum `count`.
      count: how many.

    Returns:
      Positions in ascending order, int32 `[count]`.

    >>> import jax, jax.numpy as jnp
    >>> systematic_sample(jax.random.key(0), jnp.array([1.0, 0.0, 1.0]), 2).tolist()
    [0, 2]
    """
    points = jax.random.uniform(key, (), jnp.float32) + np.arange(
        count, dtype=np.float32
    )
    found = jnp.searchsorted(jnp.cumsum(p), points, side="right").astype(jnp.int32)
    return jnp.minimum(found, p.shape[0] - 1)


def spectral_sample(rank: int) -> Compressor:
    """Sends `rank` singular triples, drawn so that the mean is the matrix.

        C(X) = sum_{i drawn} (s_i / p_i) u_i v_i',   sum_i p_i = rank.

    Unbiased with

        E||C(X) - X||^2 = sum_i s_i^2 (1 / p_i - 1) <= (d / rank - 1) ||X||^2,

    `d = min(m, n)`, and zero when the matrix has no higher rank. Leaves are left open
    as by `low_rank`; the factors stay open.

    Args:
      rank: triples sent, at least 1.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when `rank` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> one, x = spectral_sample(1), jnp.ones((8, 6))
      >>> payload, _ = one.encode(context, x, ())
      >>> bool(jnp.allclose(one.decode(context, payload, ())[0], x, atol=1e-5))
      True
    """
    rank = checks.integer("rank", rank, minimum=1)

    def encode(context: Context, x: jax.Array) -> Factors:
        unit, power = in_units(as_matrix(x))
        u, s, v = svd(unit)
        p = inclusion_probabilities(s, rank)
        drawn = systematic_sample(context.client_key, p, rank)
        kept = p[drawn]
        scale = jnp.sqrt(s[drawn] / jnp.where(kept > 0, kept, 1.0))
        factors = Factors(u[:, drawn] * scale[None, :], scale[:, None] * v[drawn])
        return in_dtype(multiplied(factors, power), x.dtype)

    return leafwise(
        ArrayCode("spectral_sample", encode, decode_factors, factors_are_smaller(rank))
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CountedFactors:
    """Factors of which only the first triples travel, closed.

    Attributes:
      left: `[max_rank, m]`, one column of the left factor a row.
      right: `[max_rank, n]`.
    """

    left: Raw
    right: Raw


def energy_low_rank(energy: float, *, max_rank: int) -> Compressor:
    """The truncated SVD of the least rank that holds a share of the matrix's energy.

        r = min{r : sum_{i <= r} s_i^2 >= energy * ||X||^2}, at most `max_rank`.

    Contractive: `||C(X) - X||^2 <= max(1 - energy, 1 - max_rank / d) ||X||^2` with
    `d = min(m, n)`. The rank depends on the data: what travels is `r` columns of both
    factors and their number, not `max_rank` of them. Leaves are left open as by
    `low_rank(max_rank)`; the factors are closed, in the leaf's dtype.

    Args:
      energy: in (0, 1]; at 1 it is `max_rank` for all but zeros.
      max_rank: at least 1; what fixes the shapes and the most that is paid.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.diag(jnp.array([3.0, 1, 1, 1, 1, 1, 1, 1]))
      >>> payload, _ = energy_low_rank(0.5, max_rank=3).encode(context, x, ())
      >>> int(payload.parts[0].left.count) // 8  # 9 of 16 is half and more
      1
    """
    energy = checks.fraction("energy", energy)
    max_rank = checks.integer("max_rank", max_rank, minimum=1)

    def encode(context: Context, x: jax.Array) -> CountedFactors:
        del context
        matrix = as_matrix(x)
        # Shares of the energy need no unit, in which the values might not be finite.
        values, vectors = spectrum(in_units(matrix)[0])
        rank = jnp.minimum(rank_for_energy(values, energy), jnp.uint32(max_rank))
        factors = leading_factors(matrix, vectors, max_rank)

        def counted(rows: jax.Array) -> Raw:
            count = (rank * jnp.uint32(rows.shape[1])).astype(jnp.uint32)
            return Raw(keep_prefix(rows.astype(x.dtype), count), count)

        return CountedFactors(counted(factors.left.T), counted(factors.right))

    def decode(
        context: Context, payload: CountedFactors, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        return product(Factors(payload.left.values.T, payload.right.values), like)

    return leafwise(
        ArrayCode("energy_low_rank", encode, decode, factors_are_smaller(max_rank))
    )
