"""Group normalisation: statistics of one image, so that clients share none.

Wu and He, "Group normalization", ECCV 2018. Batch normalisation takes its statistics
from a client's batch, and its running means are neither weights nor gradients; with
skewed clients it is known to fail (Hsieh, Phanishayee, Mutlu and Gibbons, "The non-IID
data quagmire of decentralized machine learning", ICML 2020).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

GROUP_SIZE = 8
"""Channels that share a mean and a variance."""


def group_norm(x: jax.Array, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Zero mean and unit variance over every image's pixels and groups of channels.

        y = (x - mean) / sqrt(variance + epsilon)

    Args:
      x: `[B, H, W, C]`.
      groups: number of groups, a divisor of `C`; they are of adjacent channels.
      epsilon: what keeps a constant image finite.

    Returns:
      `[B, H, W, C]`.

    >>> x = jnp.arange(4.0).reshape(1, 1, 1, 4)
    >>> jnp.round(group_norm(x, 2).ravel(), 3).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    count, height, width, channels = x.shape
    # Channels first sum up as whole rows of pixels; groups are then small matrices.
    pixels = x.reshape(count, height * width, channels)
    shape = (count, groups, channels // groups)

    def over_groups(of_channels: jax.Array) -> jax.Array:
        means = of_channels.reshape(shape).mean(axis=2, keepdims=True)
        return jnp.broadcast_to(means, shape).reshape(count, 1, channels)

    centred = pixels - over_groups(pixels.mean(axis=1))
    variance = over_groups(jnp.square(centred).mean(axis=1))
    return (centred * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)


class GroupNorm(nn.Module):
    """Group normalisation, then a scale and a shift of every channel.

    Groups have `GROUP_SIZE` channels; there is one of all where that does not divide.
    Parameters: `scale` and `bias`, `[C]`.

    >>> params = GroupNorm().init(jax.random.key(0), jnp.ones((1, 2, 2, 16)))["params"]
    >>> params["scale"].shape, params["bias"].shape
    ((16,), (16,))
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`."""
        channels = x.shape[-1]
        groups = 1 if channels % GROUP_SIZE else channels // GROUP_SIZE
        scale = self.param(
            "scale", nn.initializers.ones_init(), (channels,), jnp.float32
        )
        bias = self.param(
            "bias", nn.initializers.zeros_init(), (channels,), jnp.float32
        )
        normal = group_norm(x, groups)
        return normal * scale[None, None, None] + bias[None, None, None]
