"""Projection onto a random subspace: one factor is sent, both ends draw the other.

Konečný, McMahan, Yu, Richtárik, Suresh and Bacon, "Federated learning: strategies for
improving communication efficiency", 2016, section 2.1, there with a subspace for each
client and training inside it.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.low_rank.decompositions import orthonormal
from fedjax_comp.compress.low_rank.factors import as_matrix, matrix_shape
from fedjax_comp.compress.low_rank.singular import matmul


def random_projection(
    rank: int, *, shared: bool = True, rescale: bool = False
) -> Compressor:
    """Sends `B = A' X`, `A` a random orthonormal basis that both ends draw.

        C(X) = A B,   A: [m, r],   or (m / r) A B when `rescale`.

    Contractive with `E||C(X) - X||^2 = (1 - r/m) ||X||^2`; rescaled, unbiased with
    `(m/r - 1) ||X||^2`. A matrix that lies in the subspace, as that of a client which
    trained inside it, is exact without `rescale`. Linear when `shared`. Leaves of fewer
    than two axes, or with `m <= r`, are left open and exact; `B` stays open.

    Args:
      rank: `r >= 1`.
      shared: whether the whole cohort draws the same basis in a round.
      rescale: whether the receiver multiplies by `m / r`.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when `rank` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = random_projection(2).encode(context, jnp.ones((8, 6)), ())
      >>> payload.parts[0].shape
      (2, 6)
    """
    rank = checks.integer("rank", rank, minimum=1)

    def accepts(like: jax.ShapeDtypeStruct) -> bool:
        return len(like.shape) >= 2 and matrix_shape(like.shape)[0] > rank

    def basis(context: Context, m: int) -> jax.Array:
        key = context.round_key if shared else context.client_key
        return orthonormal(jax.random.normal(key, (m, rank), jnp.float32))

    def encode(context: Context, x: jax.Array) -> jax.Array:
        matrix = as_matrix(x)
        return matmul(basis(context, matrix.shape[0]).T, matrix).astype(x.dtype)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        m = math.prod(like.shape[:-1])
        matrix = matmul(basis(context, m), payload.astype(jnp.float32))
        if rescale:
            matrix = matrix * (m / rank)
        return matrix.reshape(like.shape).astype(like.dtype)

    return leafwise(
        ArrayCode("random_projection", encode, decode, accepts, linear=shared)
    )
