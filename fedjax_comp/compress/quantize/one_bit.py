"""One bit a coordinate, two numbers a leaf or a column.

one_bit: Seide, Fu, Droppo, Li and Yu, "1-bit stochastic gradient descent and its
application to data-parallel distributed training of speech DNNs", 2014, section 3.2:
the two values are the means of what they stand for. sign_sgd: Bernstein, Wang,
Azizzadenesheli and Anandkumar, "signSGD: compressed optimisation for non-convex
problems", 2018, algorithm 1, for `fedjax_comp.server.aggregate.majority_vote`.
"""

import jax
import jax.numpy as jnp

from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.compress.quantize.scalar import Quantized, decode_signs, symbols_of
from fedjax_comp.wire.fields import Raw


def means_by_sign(x: jax.Array) -> jax.Array:
    """Means of the negative and of the other numbers of each column.

    Args:
      x: float32 `[rows, columns]`.

    Returns:
      float32 `[2, columns]`, 0 where a column has no number of that sign.

    >>> means_by_sign(jnp.array([[1.0, -1.0], [3.0, -2.0]])).tolist()
    [[0.0, -1.5], [2.0, 0.0]]
    """
    positive = x >= 0
    x, power = in_units(x)
    sums = jnp.stack([jnp.sum(jnp.minimum(x, 0), 0), jnp.sum(jnp.maximum(x, 0), 0)])
    counts = jnp.stack([jnp.sum(~positive, 0), jnp.sum(positive, 0)])
    return power * (sums / jnp.maximum(counts, 1).astype(jnp.float32))


def one_bit(*, columns: bool = False) -> Compressor:
    """1-bit SGD: each sign as the mean of the numbers that have it.

        C(x)_i = mean of all x_j of the sign of x_i.

    The nearest to `x` of all arrays with one value for each sign, so contractive:
    `||C(x) - x||^2 <= (1 - 1/n) ||x||^2`. Use it under `error_feedback`.

    Args:
      columns: whether a matrix has its own two means for each column (the last axis),
        as in the paper, instead of two in all. Vectors have two in all.

    Returns:
      A stateless `Compressor` that closes the means and the signs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = one_bit().encode(context, jnp.array([-3.0, 1.0, 2.0]), ())
      >>> one_bit().decode(context, payload, ())[0]
      Array([-3. ,  1.5,  1.5], dtype=float32)
    """

    def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
        return (-1, shape[-1] if columns and len(shape) > 1 else 1)

    def encode(context: Context, x: jax.Array) -> Quantized:
        del context
        matrix = x.astype(jnp.float32).reshape(matrix_shape(x.shape))
        positive = (x >= 0).astype(jnp.float32)
        return Quantized(Raw(means_by_sign(matrix)), symbols_of(positive, 2))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        below, above = payload.scale.values[:, None, :]
        signs = payload.symbols.values.reshape(matrix_shape(like.shape))
        x = jnp.where(signs > 0, above, below)
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("one_bit", encode, decode))


def sign_sgd() -> Compressor:
    """The bare signs of a leaf, for a server that takes a vote on them.

        C(x) = sign(x),   sign(0) = 1;   0 everywhere for a leaf of zeros.

    One bit a coordinate, and a float16 that is 1, 0 for a leaf of zeros, or NaN for one
    that is not finite. What it decodes has no size: its error has no bound, and the
    learning rate sets the step.

    Returns:
      A stateless `Compressor` that closes both.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = sign_sgd().encode(context, jnp.array([-3.0, 1.0]), ())
      >>> sign_sgd().decode(context, payload, ())[0]
      Array([-1.,  1.], dtype=float32)
    """

    def encode(context: Context, x: jax.Array) -> Quantized:
        del context
        positive = (x >= 0).astype(jnp.float32)
        nonzero = jnp.any(x != 0).astype(jnp.float16)
        size = jnp.where(jnp.all(jnp.isfinite(x)), nonzero, jnp.nan)
        return Quantized(Raw(size), symbols_of(positive, 2))

    return leafwise(ArrayCode("sign_sgd", encode, decode_signs))
