"""Masks that cancel, inside a compiled round: how a run simulates a secure sum.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, section 4: client `i` adds, modulo `2**bits`,

    PRG(b_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)

over the clients `j` that agreed on a seed with it. In the sum of all, the pairs cancel;
the server removes each `b_i`, and the pairs of those who left before they sent.

The sum is that of the protocol, bit for bit. The masks are not: they come from a fast
hash under the run's key, which whoever starts the run knows, and hide nothing.
`fedjax_comp.privacy.secure_sum` has real keys, ChaCha20, shares and bytes, on the host.
"""

import jax
import jax.numpy as jnp

from fedjax_comp.compress import noise


def modulus_mask(bits: int) -> jax.Array:
    """`2**bits - 1`, uint32 scalar; `bits` in [1, 32]."""
    return jnp.uint32((1 << bits) - 1)


def _pair(key: jax.Array, i: jax.Array, j: jax.Array, n: int) -> jax.Array:
    """What one of a pair adds and the other subtracts; `i == j` has the client's own.

    Whoever comes first in the cohort adds: negative at the other.
    """
    first, second = jnp.minimum(i, j), jnp.maximum(i, j)
    own = jax.random.fold_in(jax.random.fold_in(key, first), second)
    stream = noise.counter_bits(own, (n,))
    return jnp.where(i <= j, stream, -stream)


def mask_of(
    key: jax.Array, place: jax.Array, agreed: jax.Array, n: int, *, bits: int
) -> jax.Array:
    """What the client at `place` adds to its vector.

    Args:
      key: the round's, for masks alone, scalar key array.
      place: in the cohort, int32 scalar.
      agreed: bool `[C]`, who agreed on seeds.
      n: integers in a vector.
      bits: of the modulus, in [1, 32].

    Returns:
      Residues, uint32 `[n]`.

    >>> both = [
    ...     mask_of(jax.random.key(0), jnp.int32(i), jnp.ones(2, bool), 3, bits=8)
    ...     for i in (0, 1)
    ... ]
    >>> left = left_over(
    ...     jax.random.key(0), jnp.ones(2, bool), jnp.ones(2, bool), 3, bits=8
    ... )
    >>> ((both[0] + both[1] - left) & modulus_mask(8)).tolist()
    [0, 0, 0]
    """

    def add(j: jax.Array, total: jax.Array) -> jax.Array:
        counts = agreed[j] | (j == place)
        return total + jnp.where(counts, _pair(key, place, j, n), 0)

    zeros = jnp.zeros(n, jnp.uint32)
    return jax.lax.fori_loop(0, agreed.shape[0], add, zeros) & modulus_mask(bits)


def left_over(
    key: jax.Array, sent: jax.Array, agreed: jax.Array, n: int, *, bits: int
) -> jax.Array:
    """What stays in the sum of those who sent, and the server removes.

        sum_{i sent} (PRG(b_i) + sum_{j agreed and not sent} +-PRG(s_ij))

    In the protocol it learns these seeds, and no other, from the shares of those who
    stay.

    Args:
      key: as in `mask_of`.
      sent: bool `[C]`, whose vectors are in the sum.
      agreed: bool `[C]`.
      n: integers in a vector.
      bits: of the modulus.

    Returns:
      Residues, uint32 `[n]`.
    """
    gone = agreed & ~sent
    clients = agreed.shape[0]

    def of_client(i: jax.Array, total: jax.Array) -> jax.Array:
        def of_pair(j: jax.Array, total: jax.Array) -> jax.Array:
            def add(total: jax.Array) -> jax.Array:
                return total + _pair(key, i, j, n)

            return jax.lax.cond(gone[j] | (i == j), add, lambda total: total, total)

        return jax.lax.cond(
            sent[i],
            lambda total: jax.lax.fori_loop(0, clients, of_pair, total),
            lambda total: total,
            total,
        )

    zeros = jnp.zeros(n, jnp.uint32)
    return jax.lax.fori_loop(0, clients, of_client, zeros) & modulus_mask(bits)


def centred_in_jit(residues: jax.Array, bits: int) -> jax.Array:
    """The integers in `[-2**(bits-1), 2**(bits-1))` that residues stand for, int32.

    >>> centred_in_jit(jnp.array([1, 255], jnp.uint32), 8).tolist()
    [1, -1]
    """
    up = jnp.uint32(32 - bits)
    moved = jax.lax.bitcast_convert_type(residues << up, jnp.int32)
    return moved >> up.astype(jnp.int32)
