"""Randomised Hadamard rotation of a vector of any length.

Suresh, Yu, Kumar and McMahan, "Distributed mean estimation with limited communication",
2017, section 3: after a rotation the coordinates are of like size, which is what a
quantizer with one scale wants. The transform exists for powers of two; here any other
length is covered exactly, without padding, by overlapping windows.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise

_BLOCK_BITS = 5  # measured on a CPU, faster than 4 and 6 and than butterflies


def hadamard_matrix(num_bits: int) -> np.ndarray:
    """The orthonormal, symmetric Hadamard matrix, float32 `[2**b, 2**b]`.

    >>> hadamard_matrix(0).tolist()
    [[1.0]]
    """
    index = np.arange(1 << num_bits)
    odd = np.bitwise_count(index[:, None] & index[None, :]) % 2
    signs = 1.0 - 2.0 * odd
    return (signs / math.sqrt(1 << num_bits)).astype(np.float32)


def _product(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> jax.Array:
    return jnp.matmul(
        jnp.asarray(a), jnp.asarray(b), precision=jax.lax.Precision.HIGHEST
    )


def hadamard(x: jax.Array) -> jax.Array:
    """The orthonormal Walsh-Hadamard transform of a vector; it is its own inverse.

    The matrix is a Kronecker product, so that each factor of it is a product with a
    small matrix along one axis of the vector seen as an array.

    Args:
      x: float32 `[n]`, `n` a power of two.

    Returns:
      float32 `[n]`.

    >>> import jax.numpy as jnp
    >>> hadamard(jnp.array([1.0, 0.0, 0.0, 0.0]))
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    left = x.shape[0].bit_length() - 1
    while left > 0:
        num_bits = min(_BLOCK_BITS, left)
        # Transposing moves the axis just done to the end: after all factors every
        # axis is where it was.
        matrix = x.reshape(1 << num_bits, -1).T
        x = _product(matrix, hadamard_matrix(num_bits)).reshape(-1)
        left -= num_bits
    return x


def _riffle(x: jax.Array) -> jax.Array:
    return jnp.concatenate([x[0::2], x[1::2]])


def _unriffle(x: jax.Array) -> jax.Array:
    half = (x.shape[0] + 1) // 2
    odd = jnp.pad(x[half:], (0, x.shape[0] % 2))
    return jnp.stack([x[:half], odd], axis=1).reshape(-1)[: x.shape[0]]


def rotation(key: jax.Array, x: jax.Array, *, inverse: bool = False) -> jax.Array:
    """A random orthogonal transform of a vector, or its inverse.

    With `m = 2**floor(log2 n)` a pass gives the first or the last `m` coordinates
    random signs and transforms them. A power of two takes one pass. Any other length
    takes four with fresh signs: first, last, then, after even and odd coordinates were
    parted so that both windows hold some of all, first and last again.

    Args:
      key: scalar key array, the same at both ends.
      x: float32 `[n]`.
      inverse: whether to undo the transform.

    Returns:
      float32 `[n]` of the same norm.

    >>> import jax, jax.numpy as jnp
    >>> key, x = jax.random.key(0), jnp.arange(5.0)
    >>> rotated = rotation(key, x)
    >>> round(float(jnp.sum(rotated**2)), 3)  # 0 + 1 + 4 + 9 + 16
    30.0
    >>> bool(jnp.allclose(rotation(key, rotated, inverse=True), x, atol=1e-5))
    True
    """
    n = x.shape[0]
    m = 1 << (n.bit_length() - 1)
    starts = (0,) if m == n else (0, n - m, 0, n - m)
    signs = noise.signs(key, m * len(starts)).reshape(-1, m)

    def one_pass(i: int, x: jax.Array) -> jax.Array:
        window = x[starts[i] : starts[i] + m]
        if inverse:
            window = hadamard(window) * signs[i]
        else:
            window = hadamard(window * signs[i])
        return jnp.concatenate([x[: starts[i]], window, x[starts[i] + m :]])

    if m == n:
        return one_pass(0, x)
    if inverse:
        x = one_pass(2, one_pass(3, x))
        return one_pass(0, one_pass(1, _unriffle(x)))
    x = one_pass(1, one_pass(0, x))
    return one_pass(3, one_pass(2, _riffle(x)))


def rotate() -> Compressor:
    """Rotates every leaf by a random orthogonal matrix that the cohort shares.

    It loses and saves nothing: put it before a quantizer, and `flattened` around both
    to rotate all leaves as one. What it sends is open, `[n]` numbers for `n`.

    Returns:
      A stateless `Compressor` with `decode(encode(x)) = x` up to rounding.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = rotate().encode(context, jnp.array([4.0, 0, 0, 0]), ())
      >>> jnp.abs(payload.parts[0]).tolist()
      [2.0, 2.0, 2.0, 2.0]
    """

    def encode(context: Context, x: jax.Array) -> jax.Array:
        vector = x.reshape(-1).astype(jnp.float32)
        return rotation(context.round_key, vector).astype(x.dtype)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        vector = payload.astype(jnp.float32)
        x = rotation(context.round_key, vector, inverse=True)
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("rotate", encode, decode, linear=True))
