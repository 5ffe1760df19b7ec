"""PowerSGD under secure aggregation: its two products are linear, one after the other.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for
distributed optimization", 2019, algorithm 1: both `P` and `Q` are means over workers.
"""

from collections.abc import Callable, Sequence

import jax

from fedjax_comp.compress.low_rank.decompositions import orthonormal
from fedjax_comp.compress.low_rank.singular import matmul

SumOfArrays = Callable[[Sequence[jax.Array]], jax.Array]
"""Sums one array of each client; by `secure_round`, for instance."""


def summed_power_step(
    sum_arrays: SumOfArrays, matrices: Sequence[jax.Array], right: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of subspace iteration on a sum whose terms nobody sees.

        P = orth(sum_i M_i Q),   Q <- sum_i M_i' P,   sum_i M_i ~ P Q'.

    It costs two secure sums, of `m r` and `n r` numbers. With the compressor
    `power_sgd` each client factorises its own update; here all clients share `Q`. A
    client that leaves between the sums is missing in `Q` alone: leave it out of both by
    starting over, or accept the error, which error feedback takes up.

    Args:
      sum_arrays: called twice.
      matrices: `M_i`, float32 `[m, n]`, one a client.
      right: `Q`, float32 `[n, r]`, known to all.

    Returns:
      `P` of orthonormal columns, `[m, r]`, and the new `Q`, `[n, r]`.

    >>> import jax.numpy as jnp
    >>> halves = [jnp.ones((4, 3)), jnp.ones((4, 3))]
    >>> left, right = summed_power_step(sum, halves, jnp.ones((3, 1)))
    >>> jnp.round(left @ right.T, 4)[0].tolist()
    [2.0, 2.0, 2.0]
    """
    left = orthonormal(sum_arrays([matmul(matrix, right) for matrix in matrices]))
    return left, sum_arrays([matmul(matrix.T, left) for matrix in matrices])
