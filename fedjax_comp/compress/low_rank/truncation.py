"""The nearest matrix of the least sufficient rank, as factors if these are smaller.

Eckart and Young, "The approximation of one matrix by another of lower rank", 1936, with
the rank chosen by energy, for whole models: Qiao, Yu, Zhang and Letaief,
"Communication-efficient federated learning with dual-side low-rank compression", 2021
(arXiv 2104.12416). Only the abstract of that paper was at hand. The rank's rule, the
two ways of seeing a convolution as a matrix and the dense fallback are a
reconstruction.

`energy_low_rank` sends the same factors and never falls back to a dense matrix: it must
be told a largest rank, which alone decides whether a matrix is left exact.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise, shape_of
from fedjax_comp.compress.low_rank.singular import (
    leading_factors,
    matmul,
    spectrum,
    truncated_svd,
)
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.rank import rank_for_energy
from fedjax_comp.wire.fields import Raw, keep_prefix

SCHEMES = ("channel", "spatial")


def scheme_shape(shape: tuple[int, ...], scheme: str) -> tuple[int, int]:
    """An array's shape as a matrix.

    In the channel scheme the last axis makes the columns, all others the rows: a kernel
    `[H, W, I, O]` of rank `r` is a convolution to `r` channels, then one of 1x1. In the
    spatial scheme it is `[H I, W O]`: a convolution of `H x 1` to `r` channels, then
    one of `1 x W`. Arrays that are no kernels are the same in both.

    >>> scheme_shape((5, 5, 32, 64), "channel"), scheme_shape((5, 5, 32, 64), "spatial")
    ((800, 64), (160, 320))
    """
    if scheme == "spatial" and len(shape) == 4:
        height, width, inputs, outputs = shape
        return height * inputs, width * outputs
    return math.prod(shape[:-1]), shape[-1]


def to_matrix(x: jax.Array, scheme: str) -> jax.Array:
    """An array of two axes or more as a float32 matrix, see `scheme_shape`."""
    shape = scheme_shape(x.shape, scheme)
    if scheme == "spatial" and x.ndim == 4:
        x = x.transpose(0, 2, 1, 3)
    return x.astype(jnp.float32).reshape(shape)


def from_matrix(
    matrix: jax.Array, like: jax.ShapeDtypeStruct, scheme: str
) -> jax.Array:
    """The array that `to_matrix` was given."""
    if scheme == "spatial" and len(like.shape) == 4:
        height, width, inputs, outputs = like.shape
        matrix = matrix.reshape(height, inputs, width, outputs).transpose(0, 2, 1, 3)
    return matrix.reshape(like.shape).astype(like.dtype)


def largest_rank(m: int, n: int) -> int:
    """The largest `r` with `r (m + n) < m n`, that is with factors that are fewer.

    >>> largest_rank(800, 64), largest_rank(25, 32), largest_rank(2, 2)
    (59, 14, 0)
    """
    return max((m * n - 1) // (m + n), 0)


def low_rank_start(params: PyTree, max_rank: int, *, scheme: str = "channel") -> PyTree:
    """Initial matrices, truncated to a low rank and rescaled to their own norm.

        W <- (||W|| / ||W_r||) W_r,   W_r the nearest matrix of rank r.

    A random matrix is of nearly full rank, so that truncating one takes most of its
    norm, and what a network computes dies away layer by layer. This keeps the norm.

    Args:
      params: freshly drawn parameters.
      max_rank: `r`, at least 1. Matrices for which factors of that rank are no fewer
        numbers stay as they are.
      scheme: of convolutions, see `scheme_shape`.

    Returns:
      Parameters of the same structure, shapes and dtypes.

    Raises:
      ValueError: when an argument is not as above.

    Source: the idea is that of spectral initialization, Khodak, Tenenholtz, Mackey and
    Fusi, "Initialization and regularization of factorized neural layers", 2021.

    >>> w = low_rank_start(jnp.diag(jnp.arange(1.0, 7.0)), 1)
    >>> jnp.linalg.matrix_rank(w), jnp.round(jnp.square(w).sum())
    (Array(1, dtype=int32), Array(91., dtype=float32))
    """
    max_rank = checks.integer("max_rank", max_rank, minimum=1)
    _check_scheme(scheme)

    def start(x: jax.Array) -> jax.Array:
        if x.ndim < 2 or largest_rank(*scheme_shape(x.shape, scheme)) < max_rank:
            return x
        matrix = to_matrix(x, scheme)
        factors = truncated_svd(matrix, max_rank)
        nearest = matmul(factors.left, factors.right)
        norm = jnp.linalg.norm(nearest)
        scale = jnp.linalg.norm(matrix) / jnp.where(norm > 0, norm, 1.0)
        return from_matrix(scale * nearest, shape_of(x), scheme)

    return jax.tree.map(start, params)


def _check_scheme(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"Expected scheme={scheme!r} to be one of {SCHEMES}.")


def truncation(
    energy: float = 1.0, *, max_rank: int | None = None, scheme: str = "channel"
) -> Compressor:
    """Sends a matrix as the factors of its truncated SVD, or dense where that is less.

        r = min{r : sum_{i <= r} s_i^2 >= energy * ||X||^2}, at most `max_rank`;
        r (m + n) numbers if that is less than m n, else all m n of them, exactly.

    Contractive: `||C(x) - x||^2 <= max(1 - energy, 1 - max_rank / d) ||x||^2` with
    `d = min(m, n)`. The rank depends on the data and shapes do not, so ranks may change
    without a new compilation; what travels, and is paid for, is `r` pairs of rows and
    their count. A fixed rank is `energy=1.0` with a `max_rank`. Scalars, vectors and
    matrices for which factors can never be fewer are left open, as they are.

    Args:
      energy: in (0, 1]. At 1, without `max_rank`, every matrix travels exactly.
      max_rank: the most triples that are sent, at least 1; with None the only bound is
        the rank beyond which the dense matrix is smaller.
      scheme: how a convolution's kernel is seen as a matrix, "channel" or "spatial";
        see `scheme_shape`.

    Returns:
      A stateless `Compressor`; what it sends is closed, in the leaf's dtype, since only
      the message tells how many factors there are. To quantize factors, put
      `low_rank(rank)` before the quantizer, whose rank is fixed.

    Raises:
      ValueError: when an argument is not as above.

    Source: Qiao et al. 2021, reconstructed; see the module.

    Example:
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.diag(jnp.array([3.0, 1, 1, 1, 1, 1, 1, 1]))
      >>> payload, _ = truncation(0.5).encode(context, x, ())
      >>> int(payload.parts[0].count)  # 9 of 16 is half: one pair of eight and eight
      16
      >>> exact, _ = truncation(0.99).encode(context, x, ())
      >>> int(exact.parts[0].count)
      64
    """
    energy = checks.fraction("energy", energy)
    if max_rank is not None:
        max_rank = checks.integer("max_rank", max_rank, minimum=1)
    _check_scheme(scheme)

    def sizes(like: jax.ShapeDtypeStruct) -> tuple[int, int, int, bool]:
        """`m`, `n`, the most triples that travel, and whether dense may be less."""
        m, n = scheme_shape(like.shape, scheme)
        worth = largest_rank(m, n)
        return m, n, min(worth, max_rank or worth), max_rank is None or max_rank > worth

    def accepts(like: jax.ShapeDtypeStruct) -> bool:
        return len(like.shape) >= 2 and largest_rank(*sizes(like)[:2]) >= 1

    def encode(context: Context, x: jax.Array) -> Raw:
        del context
        m, n, most, may_be_dense = sizes(shape_of(x))
        matrix = to_matrix(x, scheme)
        # Shares of the energy need no unit, in which the values might not be finite.
        values, vectors = spectrum(in_units(matrix)[0])
        rank = rank_for_energy(values, energy)
        if max_rank is not None:
            rank = jnp.minimum(rank, jnp.uint32(max_rank))
        factors = leading_factors(matrix, vectors, most)
        rows = jnp.concatenate([factors.left.T, factors.right], axis=1)
        rows = rows.astype(x.dtype).ravel()
        # What is not finite has no rank; all of it is sent, so that it shows.
        finite = jnp.isfinite(values[0])
        if not may_be_dense:
            count = jnp.where(finite, rank, jnp.uint32(most)) * jnp.uint32(m + n)
            return Raw(keep_prefix(rows, count), count)
        dense = (rank > most) | ~finite
        count = jnp.where(dense, jnp.uint32(m * n), rank * jnp.uint32(m + n))
        rows = jnp.pad(rows, (0, m * n - rows.size))
        flat = jnp.where(dense, matrix.astype(x.dtype).ravel(), rows)
        return Raw(keep_prefix(flat, count), count)

    def decode(context: Context, payload: Raw, like: jax.ShapeDtypeStruct) -> jax.Array:
        del context
        m, n, most, may_be_dense = sizes(like)
        values = payload.values.astype(jnp.float32)

        def from_factors(values: jax.Array) -> jax.Array:
            rows = values[: most * (m + n)].reshape(most, m + n)
            return matmul(rows[:, :m].T, rows[:, m:])

        matrix = (
            jax.lax.cond(
                payload.count == m * n, lambda v: v.reshape(m, n), from_factors, values
            )
            if may_be_dense
            else from_factors(values)
        )
        return from_matrix(matrix, like, scheme)

    return leafwise(ArrayCode("truncation", encode, decode, accepts))
