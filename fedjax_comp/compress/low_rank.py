"""The best approximation of given rank, sent as its two factors.

Eckart and Young, "The approximation of one matrix by another of lower rank", 1936.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import _checks
from fedjax_comp.compress.leafwise import ArrayCode, leafwise


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


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """An array's shape as a matrix: the last axis against all others.

    A convolution kernel `[H, W, I, O]` is the matrix `[H W I, O]`.

    >>> matrix_shape((5, 5, 32, 64))
    (800, 64)
    """
    return math.prod(shape[:-1]), shape[-1]


def truncated_svd(x: jax.Array, rank: int) -> Factors:
    """The two factors of the nearest matrix of a rank, `U sqrt(S)` and `sqrt(S) V'`.

    The singular values are shared between the factors so that both are of like size,
    which suits whatever quantizes them.

    Args:
      x: float32 `[m, n]`.
      rank: `r` in `[1, min(m, n)]`.

    Returns:
      `Factors` of float32.

    >>> import jax.numpy as jnp
    >>> factors = truncated_svd(jnp.ones((4, 3)), 1)
    >>> jnp.round(factors.left @ factors.right, 4)[0].tolist()
    [1.0, 1.0, 1.0]
    """
    u, s, v = jnp.linalg.svd(x, full_matrices=False)
    root = jnp.sqrt(s[:rank])
    return Factors(u[:, :rank] * root[None, :], root[:, None] * v[:rank])


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
      ValueError: when `rank` is not such a number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = low_rank(1).encode(context, jnp.ones((8, 6)), ())
      >>> payload.parts[0].left.shape, payload.parts[0].right.shape
      ((8, 1), (1, 6))
    """
    rank = _checks.integer("rank", rank, minimum=1)

    def accepts(like: jax.ShapeDtypeStruct) -> bool:
        if len(like.shape) < 2:
            return False
        m, n = matrix_shape(like.shape)
        return rank * (m + n) < m * n

    def encode(context: Context, x: jax.Array) -> Factors:
        del context
        matrix = x.reshape(matrix_shape(x.shape)).astype(jnp.float32)
        factors = truncated_svd(matrix, rank)
        return jax.tree.map(lambda factor: factor.astype(x.dtype), factors)

    def decode(
        context: Context, payload: Factors, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        product = jnp.matmul(
            payload.left.astype(jnp.float32),
            payload.right.astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        return product.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("low_rank", encode, decode, accepts))
