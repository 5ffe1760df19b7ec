"""The leading singular triples of a matrix, from the Gram matrix of its smaller side.

One product and a small symmetric eigenproblem take the place of a singular value
decomposition, in a fraction of the time. The accuracy that is lost is that of singular
values too small to be sent (see `spectrum`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_comp.compress.low_rank.decompositions import eigh
from fedjax_comp.compress.magnitude import in_units


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factors:
    """A matrix as the product of two thin ones, both open.

    Attributes:
      left: `[m, r]`.
      right: `[r, n]`.
    """

    left: jax.Array
    right: jax.Array


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product at the full precision of float32 on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def times_thin(x: jax.Array, thin: jax.Array) -> jax.Array:
    """`x @ thin` for a thin matrix, `[m, n]` and `[n, k]`.

    A barrier keeps compilers from turning the product around, and with it `x`: to
    transpose that takes several times as long as the product.
    """
    return jax.lax.optimization_barrier(matmul(x, thin))


def thin_times(thin: jax.Array, x: jax.Array) -> jax.Array:
    """`thin.T @ x`, `[m, k]` and `[m, n]`; as `times_thin`."""
    return jax.lax.optimization_barrier(matmul(thin.T, x))


def spectrum(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Singular values, and singular vectors of a matrix's smaller side.

    From the Gram matrix of that side: one product and a small symmetric eigenproblem, a
    fraction of the time of a singular value decomposition. Singular values below about
    `3e-4` of the largest are lost in its rounding; what each holds of the energy is
    less than 1e-7. The vectors are orthonormal to rounding whatever the matrix is.

    Args:
      x: float32 `[m, n]`.

    Returns:
      `s`, float32 `[d]` in descending order with `d = min(m, n)`, infinite where a
      value is beyond the range of float32, and the vectors
      `[d, d]`, one a column: right ones when `m >= n`, else left ones.

    >>> values, vectors = spectrum(jnp.diag(jnp.array([1.0, 3.0, 2.0])))
    >>> jnp.round(values, 4).tolist()
    [3.0, 2.0, 1.0]
    """
    unit, power = in_units(x)
    gram = matmul(unit.T, unit) if x.shape[0] >= x.shape[1] else matmul(unit, unit.T)
    squares, vectors = eigh(gram)
    return power * jnp.sqrt(jnp.maximum(squares[::-1], 0.0)), vectors[:, ::-1]


def leading_factors(x: jax.Array, vectors: jax.Array, count: int) -> Factors:
    """The leading singular triples as two factors, `U sqrt(S)` and `sqrt(S) V'`.

    With `V` orthonormal `x V V'` is the projection of `x` whatever the rounding of `V`.
    The singular values are shared between the factors so that both are of like size,
    which suits whatever quantizes or trains them.

    Args:
      x: float32 `[m, n]`.
      vectors: from `spectrum`.
      count: `r`, triples.

    Returns:
      `Factors` of float32; zeros for triples of no size.

    >>> x = jnp.diag(jnp.array([1.0, 3.0, 2.0]))
    >>> factors = leading_factors(x, spectrum(x)[1], 2)
    >>> jnp.round(jnp.diag(factors.left @ factors.right), 4).tolist()
    [0.0, 3.0, 2.0]
    """
    is_tall = x.shape[0] >= x.shape[1]
    # Squares of tiny or huge numbers would leave the range of float32.
    unit, power = in_units(x)
    known = vectors[:, :count]
    # Singular vectors times their values.
    other = matmul(unit if is_tall else unit.T, known)
    root = jnp.sqrt(jnp.sqrt(jnp.sum(jnp.square(other), axis=0)))[None]
    other, known = other / jnp.where(root > 0, root, 1.0), known * root
    factors = Factors(other, known.T) if is_tall else Factors(known, other.T)
    return multiplied(factors, power)


def multiplied(factors: Factors, power: jax.Array) -> Factors:
    """The factors of `power` times the matrix, each with its square root."""
    root = jnp.sqrt(power)
    return Factors(root * factors.left, root * factors.right)


def truncated_svd(x: jax.Array, rank: int) -> Factors:
    """The factors of the nearest matrix of a rank, see `leading_factors`.

    Args:
      x: float32 `[m, n]`.
      rank: `r` in `[1, min(m, n)]`.

    Returns:
      `Factors` of float32.

    >>> factors = truncated_svd(jnp.ones((4, 3)), 1)
    >>> jnp.round(factors.left @ factors.right, 4)[0].tolist()
    [1.0, 1.0, 1.0]
    """
    return leading_factors(x, spectrum(x)[1], rank)
