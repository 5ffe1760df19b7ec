"""`eigh`, `qr` and `svd` of one matrix that may be mapped over clients.

jaxlib 0.10 hands the matrices of one mapped call to the threads that run the program,
and waits for them on one of these: two such calls at once on two threads wait for ever
(`tests/reproductions/mapped_lapack.py`). On a CPU matrices are therefore taken one
after another, which LAPACK does anyway; elsewhere a batch stays a batch.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

T = TypeVar("T")


def _mapped_in_turn(function: Callable[[jax.Array], T]) -> Callable[[jax.Array], T]:
    in_turn = sequential_vmap(function)

    def decompose(x: jax.Array) -> T:
        result: T = jax.lax.platform_dependent(x, cpu=in_turn, default=function)
        return result

    return decompose


@_mapped_in_turn
def eigh(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix `[n, n]`.

    >>> eigh(jnp.diag(jnp.array([2.0, 1.0])))[0].tolist()
    [1.0, 2.0]
    """
    values, vectors = jnp.linalg.eigh(x)
    return values, vectors


@_mapped_in_turn
def orthonormal(x: jax.Array) -> jax.Array:
    """An orthonormal basis of (at least) the columns' span, `[m, r] -> [m, r]`."""
    return jnp.linalg.qr(x)[0]


@_mapped_in_turn
def qr(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`q` with orthonormal columns `[m, k]` and `r` `[k, n]`, `k = min(m, n)`."""
    q, r = jnp.linalg.qr(x)
    return q, r


@_mapped_in_turn
def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`u`, `s`, `v'` of a matrix `[m, n]`, with `min(m, n)` triples."""
    u, s, v = jnp.linalg.svd(x, full_matrices=False)
    return u, s, v
