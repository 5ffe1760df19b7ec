"""The Walsh-Hadamard transform as products with small matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

PRECISION = jax.lax.Precision.HIGHEST
"""Of the products: a TPU's own would round their operands to bfloat16."""

LARGEST = 64
"""Side of the matrices that a long transform is multiplied out of."""


def sign_matrix(num_bits: int) -> np.ndarray:
    """The symmetric Hadamard matrix of ones and minus ones, float32 `[2**b, 2**b]`.

    >>> sign_matrix(1).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    index = np.arange(1 << num_bits)
    odd = np.bitwise_count(index[:, None] & index[None, :]) % 2
    return (1.0 - 2.0 * odd).astype(np.float32)


def hadamard_matrix(num_bits: int) -> np.ndarray:
    """The orthonormal, symmetric Hadamard matrix, float32 `[2**b, 2**b]`.

    >>> hadamard_matrix(0).tolist()
    [[1.0]]
    """
    root = math.sqrt(1 << num_bits)
    return (sign_matrix(num_bits).astype(np.float64) / root).astype(np.float32)


def hadamard(x: jax.Array) -> jax.Array:
    """The orthonormal Walsh-Hadamard transform along the middle; its own inverse.

    The matrix is a Kronecker product, so the transform is products with small matrices.

    Args:
      x: float32 `[a, s, b]`, `s` a power of two.

    Returns:
      float32 `[a, s, b]`.

    >>> import jax.numpy as jnp
    >>> hadamard(jnp.array([1.0, 0.0, 0.0, 0.0])[None, :, None]).ravel()
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    a, size, b = x.shape
    if size > LARGEST:
        coarse = hadamard(x.reshape(a, size // LARGEST, LARGEST * b))
        # Two products made one would be several times as slow.
        coarse = jax.lax.optimization_barrier(coarse)
        fine = hadamard(coarse.reshape(a * size // LARGEST, LARGEST, b))
        return fine.reshape(a, size, b)
    matrix = hadamard_matrix(size.bit_length() - 1)
    if b == 1:
        rows = jnp.matmul(x.reshape(a, size), matrix, precision=PRECISION)
        return rows.reshape(a, size, 1)
    if a == 1:
        columns = jnp.matmul(matrix, x.reshape(size, b), precision=PRECISION)
        return columns.reshape(1, size, b)
    return jnp.einsum("ij,ajb->aib", matrix, x, precision=PRECISION)
