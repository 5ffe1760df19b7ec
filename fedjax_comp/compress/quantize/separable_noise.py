"""The noise of unbiased `separable`, and how much of it the decoder subtracts.

Subtractive dither: Schuchman, "Dither signals and their effect on quantization noise",
1964. Both ends draw `u`, uniform in [0, 1), from the client's key.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.compress import noise
from fedjax_comp.wire.codes.weibull import DITHERED


def rounded_with(u: jax.Array, t: jax.Array) -> jax.Array:
    """`floor(t + u)`, exact where `t` is large, float32 in the shape of both."""
    low = jnp.floor(t)
    return low + (u + (t - low) >= 1).astype(jnp.float32)


def without_noise(key: jax.Array, q: jax.Array, sizes: jax.Array) -> jax.Array:
    """Subtracts from `q = floor(t + u)` a part of its noise: `q - w (u - 1/2)`.

    Args:
      key: which `u` was drawn from.
      q: float32 `[n]`.
      sizes: int32 `[n]`, from 0 at the least of `DITHERED`.
    """
    weight = jnp.asarray(noise_weights()).at[sizes].get(mode="clip")
    return q - weight * (noise.uniform(key, q.shape) - 0.5)


@functools.cache
def noise_weights() -> np.ndarray:
    """The `w` of least error for numbers of each size of `DITHERED`, float32.

    Every `w` that does not depend on `u` is unbiased. With `f = t - floor(t)`

        E (q - w (u - 1/2) - t)^2 = v - w v + w^2 / 12,   v = E f (1 - f),

    least at `w = 6 v`: 1, all of the noise, for sizes of a step and above, and next to
    nothing for those far below a step, which nearly all round to 0.

    >>> (100 * noise_weights()[[0, 14, 20, 26, 32]]).round().tolist()  # per cent
    [0.0, 7.0, 49.0, 100.0, 100.0]
    """
    k = 1.25
    chance = (np.arange(4096) + 0.5) / 4096
    unit = (-np.log(chance)) ** (1 / k) / math.sqrt(math.gamma(1 + 2 / k))
    t = unit * 2.0 ** ((DITHERED.least + np.arange(DITHERED.number)[:, None]) / 2)
    part = t - np.floor(t)
    weight = np.minimum(1.0, 6 * np.mean(part * (1 - part), axis=1))
    weight[0] = 0.0  # where all may be 0, and then shall stay so
    return weight.astype(np.float32)
