"""The random numbers of the compressors, in one place since they dominate the cost.

A stochastic quantizer spends nearly all of its time on these draws, so whatever makes
them cheaper is changed here and nowhere else.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def mix(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3: every bit of the result depends on all of `h`."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def counter_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random words: a hash of each one's place and of two words drawn from the key.

        mix(mix(i + k_0) ^ k_1),   i = 0, 1, ...

    For noise, not for secrets: some twenty times faster than threefry on a CPU, where
    it is fused into the program that uses it. `k_0` shifts the counter and `k_1` sets
    two keys' streams apart even where their shifted counters meet. That one bit of
    either changes every bit of the result half of the time, and that counts, pairs and
    streams of nearby keys look independent, is tested with computed bounds.

    Args:
      key: scalar key array.
      shape: at most `2**32` words.

    Returns:
      uint32 `shape`.

    >>> counter_bits(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    k = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return mix(mix(index + k[0]) ^ k[1]).reshape(shape)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1) from `counter_bits`, multiples of `2**-24`, float32 `shape`."""
    bits = counter_bits(key, shape) >> 8
    return bits.astype(jnp.float32) * jnp.float32(2.0**-24)


def bernoulli_round(key: jax.Array, t: jax.Array) -> jax.Array:
    """Rounds each `t` down or up at random so that its mean stays: `E q = t`.

        q = floor(t) + [u < t - floor(t)],   u uniform in [0, 1).

    `u` has 24 bits, so the probability of rounding up is the fraction itself rounded up
    to a multiple of `2**-24`: the bias of `q` is less than `2**-24`.

    Args:
      key: scalar key array.
      t: float32 of any shape.

    Returns:
      Whole numbers as float32, the shape of `t`.

    >>> import jax, jax.numpy as jnp
    >>> bernoulli_round(jax.random.key(0), jnp.array([2.0, -3.0]))
    Array([ 2., -3.], dtype=float32)
    """
    # Comparing the fraction, and not flooring t + u, keeps the probability exact to
    # 2**-24 where t is large and the sum would be rounded.
    low = jnp.floor(t)
    return low + (uniform(key, t.shape) < t - low).astype(jnp.float32)


def signs(key: jax.Array, n: int) -> jax.Array:
    """`n` independent fair signs, float32 `[n]`, 32 from each random word.

    >>> import jax
    >>> sorted(set(signs(jax.random.key(0), 100).tolist()))
    [-1.0, 1.0]
    """
    return signs_of(sign_words(key, n))[:n]


def sign_words(key: jax.Array, n: int) -> jax.Array:
    """The random words of `n` signs, uint32 `[ceil(n / 32)]`."""
    return jax.random.bits(key, (math.ceil(n / 32), 1), jnp.uint32).reshape(-1)


def signs_of(words: jax.Array) -> jax.Array:
    """A sign for each bit of words, the lowest first: -1 for a 1, float32 `[32 w]`.

    >>> signs_of(jnp.array([5], jnp.uint32))[:4].tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    bits = jax.lax.platform_dependent(words, tpu=_bits_in_lanes, default=_bits_of)
    return 1.0 - 2.0 * bits.astype(jnp.float32)


def _bits_of(words: jax.Array) -> jax.Array:
    """Bits of words `[w]`, the lowest first: uint32 `[32 w]`, zeros and ones."""
    shifts = np.arange(32, dtype=np.uint32)[None, :]
    return ((words[:, None] >> shifts) & jnp.uint32(1)).reshape(-1)


def _bits_in_lanes(words: jax.Array) -> jax.Array:
    """As `_bits_of`, four words to the 128 lanes of a TPU, which 32 would not fill."""
    count = words.shape[0]
    fours = jnp.pad(words, (0, -count % 4)).reshape(-1, 4)
    lane = np.arange(128, dtype=np.uint32)[None, :]
    chosen = fours[:, 3:]
    for place in (2, 1, 0):
        chosen = jnp.where(lane < 32 * (place + 1), fours[:, place : place + 1], chosen)
    bits = (chosen >> (lane % 32)) & jnp.uint32(1)
    return bits.reshape(-1)[: 32 * count]
