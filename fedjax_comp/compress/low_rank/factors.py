"""Approximations of low rank, sent as their two factors.

low_rank: Eckart and Young, "The approximation of one matrix by another of lower rank",
1936. randomized_low_rank: Halko, Martinsson and Tropp, "Finding structure with
randomness", 2011, algorithms 4.4 and 5.1.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.low_rank.decompositions import orthonormal
from fedjax_comp.compress.low_rank.singular import (
    Factors,
    matmul,
    multiplied,
    thin_times,
    times_thin,
    truncated_svd,
)
from fedjax_comp.compress.magnitude import in_units


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """An array's shape as a matrix: the last axis against all others.

    A convolution kernel `[H, W, I, O]` is the matrix `[H W I, O]`.

    >>> matrix_shape((5, 5, 32, 64))
    (800, 64)
    """
    return math.prod(shape[:-1]), shape[-1]


def factors_are_smaller(rank: int) -> Callable[[jax.ShapeDtypeStruct], bool]:
    """`(leaf) -> bool`: has it two axes or more and `r (m + n) < m n`?

    >>> factors_are_smaller(2)(jax.ShapeDtypeStruct((3, 3, 8), jnp.float32))
    True
    >>> factors_are_smaller(2)(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    False
    """

    def accepts(like: jax.ShapeDtypeStruct) -> bool:
        if len(like.shape) < 2:
            return False
        m, n = matrix_shape(like.shape)
        return rank * (m + n) < m * n

    return accepts


def as_matrix(x: jax.Array) -> jax.Array:
    """An array as float32 `[m, n]`, the last axis against all others."""
    return x.reshape(matrix_shape(x.shape)).astype(jnp.float32)


def in_dtype(factors: Factors, dtype: jax.typing.DTypeLike) -> Factors:
    """The same factors in another dtype."""
    return Factors(factors.left.astype(dtype), factors.right.astype(dtype))


def product(factors: Factors, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The array that two factors make, in the shape and dtype of `like`."""
    matrix = matmul(factors.left.astype(jnp.float32), factors.right.astype(jnp.float32))
    return matrix.reshape(like.shape).astype(like.dtype)


def decode_factors(
    context: Context, payload: Factors, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """`product`, as an `ArrayCode` decodes."""
    del context
    return product(payload, like)


def low_rank(rank: int) -> Compressor:
    """Sends every leaf of two axes or more as the factors of its truncated SVD.

    Contractive: `||C(x) - x||^2 = sum_{i > r} s_i^2 <= (1 - r / min(m, n)) ||x||^2`.
    A leaf is left open and exact where the factors would not be smaller,
    `r (m + n) >= m n`; so are scalars and vectors. The factors stay open.

    Args:
      rank: `r >= 1`.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when `rank` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = low_rank(1).encode(context, jnp.ones((8, 6)), ())
      >>> payload.parts[0].left.shape, payload.parts[0].right.shape
      ((8, 1), (1, 6))
    """
    rank = checks.integer("rank", rank, minimum=1)

    def encode(context: Context, x: jax.Array) -> Factors:
        del context
        return in_dtype(truncated_svd(as_matrix(x), rank), x.dtype)

    return leafwise(
        ArrayCode("low_rank", encode, decode_factors, factors_are_smaller(rank))
    )


def randomized_svd(
    key: jax.Array, x: jax.Array, rank: int, *, oversample: int, power_iterations: int
) -> Factors:
    """A truncated SVD inside a random subspace that holds most of the matrix.

        Q = orth((X X')^q X G),   G Gaussian [n, r + oversample],
        X ~ Q [Q' X]_r.

    Args:
      key: scalar key array.
      x: float32 `[m, n]`.
      rank: `r` in `[1, min(m, n)]`.
      oversample: columns more than `r`; never more than `min(m, n)` in all.
      power_iterations: `q >= 0`.

    Returns:
      `Factors` of float32.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.outer(jnp.arange(5.0), jnp.arange(4.0))
    >>> factors = randomized_svd(
    ...     jax.random.key(0), x, 1, oversample=1, power_iterations=0
    ... )
    >>> bool(jnp.allclose(factors.left @ factors.right, x, atol=1e-4))
    True
    """
    width = min(rank + oversample, *x.shape)
    # Powers of tiny or huge matrices would leave the range of float32.
    unit, power = in_units(x)
    gaussian = jax.random.normal(key, (x.shape[1], width), jnp.float32)
    basis = orthonormal(times_thin(unit, gaussian))
    for _ in range(power_iterations):
        other = orthonormal(thin_times(basis, unit).T)
        basis = orthonormal(times_thin(unit, other))
    inside = truncated_svd(thin_times(basis, unit), rank)
    return multiplied(Factors(matmul(basis, inside.left), inside.right), power)


def randomized_low_rank(
    rank: int, *, oversample: int = 4, power_iterations: int = 1
) -> Compressor:
    """`low_rank` by a randomised range finder: matrix products and thin factorizations.

    Contractive only in the weak sense `||C(x) - x||^2 <= ||x||^2` in every draw, since
    the subspace may miss; the mean error is near that of `low_rank`, nearer for more
    power iterations. Leaves are left open as by `low_rank`; the factors stay open.

    Args:
      rank: `r >= 1`.
      oversample: columns of the random subspace beyond `r`, at least 0.
      power_iterations: at least 0; each costs two more passes over the matrix.

    Returns:
      A stateless `Compressor`. Each client draws its own subspace.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = randomized_low_rank(1).encode(context, jnp.ones((8, 6)), ())
      >>> payload.parts[0].left.shape, payload.parts[0].right.shape
      ((8, 1), (1, 6))
    """
    rank = checks.integer("rank", rank, minimum=1)
    oversample = checks.integer("oversample", oversample, minimum=0)
    power_iterations = checks.integer("power_iterations", power_iterations, minimum=0)

    def encode(context: Context, x: jax.Array) -> Factors:
        factors = randomized_svd(
            context.client_key,
            as_matrix(x),
            rank,
            oversample=oversample,
            power_iterations=power_iterations,
        )
        return in_dtype(factors, x.dtype)

    accepts = factors_are_smaller(rank)
    return leafwise(ArrayCode("randomized_low_rank", encode, decode_factors, accepts))
