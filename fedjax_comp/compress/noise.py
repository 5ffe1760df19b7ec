"""The random numbers of the compressors, in one place because they are their cost.

Of a stochastic quantizer's time nearly all goes into these draws, so whatever makes
them cheaper is changed here and nowhere else.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent numbers in [0, 1), multiples of `2**-23`, float32 `shape`."""
    return jax.random.uniform(key, shape, jnp.float32)


def bernoulli_round(key: jax.Array, t: jax.Array) -> jax.Array:
    """Rounds each `t` down or up at random so that its mean stays: `E q = t`.

        q = floor(t) + [u < t - floor(t)],   u uniform in [0, 1).

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
    # 2**-23 where t is large and the sum would be rounded.
    low = jnp.floor(t)
    return low + (uniform(key, t.shape) < t - low).astype(jnp.float32)


def signs(key: jax.Array, n: int) -> jax.Array:
    """`n` independent fair signs, float32 `[n]`, 32 from each random word.

    >>> import jax
    >>> sorted(set(signs(jax.random.key(0), 100).tolist()))
    [-1.0, 1.0]
    """
    words = jax.random.bits(key, (math.ceil(n / 32), 1), jnp.uint32)
    bits = (words >> np.arange(32, dtype=np.uint32)[None, :]) & jnp.uint32(1)
    return 1.0 - 2.0 * bits.reshape(-1)[:n].astype(jnp.float32)
