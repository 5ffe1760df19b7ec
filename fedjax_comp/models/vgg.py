"""Plain deep convolutional networks for small images, with group normalisation.

After Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", ICLR 2015: stages of 3x3 convolutions, 2x2 max-pooling after each, dense
layers. Narrower and shorter than theirs, so that it trains on a few cores, and with
group normalisation (see `normalization.py`), which theirs do without.
"""

import functools

import jax
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.convolution import Conv, ConvFn
from fedjax_comp.models.normalization import GroupNorm
from fedjax_comp.models.pooling import max_pool_2x2
from fedjax_comp.models.task import ModelFn


class VGG(nn.Module):
    """Stages of normalised convolutions and pooling, then two dense layers.

    Attributes:
      num_classes: `L`.
      channels: of each stage's convolutions.
      repeats: convolutions in a stage.
      hidden: width of the hidden dense layer.
      convolve: the way of computing a convolution; None for the backend's default.
    """

    num_classes: int
    channels: tuple[int, ...]
    repeats: int
    hidden: int
    convolve: ConvFn | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, L]`."""
        for features in self.channels:
            for _ in range(self.repeats):
                conv = Conv(features, (3, 3), convolve=self.convolve, use_bias=False)
                x = nn.relu(GroupNorm()(conv(x)))
            x = max_pool_2x2(x)
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)


def vgg(
    channels: tuple[int, ...] = (32, 64, 128),
    *,
    repeats: int = 2,
    hidden: int = 256,
    convolve: ConvFn | None = None,
) -> ModelFn:
    """A VGG-like network for images `[H, W, C]`.

    Args:
      channels: of each stage's convolutions; every stage halves height and width.
      repeats: convolutions in a stage, at least 1.
      hidden: width of the hidden dense layer, at least 1.
      convolve: the way of computing a convolution, `conv_direct`, `conv_lax` or
        `conv_patches`; the parameters are the same. None takes the backend's default.

    Returns:
      `(num_classes) -> module` from `[B, H, W, C]` to logits `[B, num_classes]`.

    Raises:
      ValueError: if a size is below one or there is no stage.

    >>> params = jax.eval_shape(
    ...     vgg()(10).init, jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3))
    ... )
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    814570
    """
    channels = checks.sizes("channels", channels)
    checks.integer("repeats", repeats, minimum=1)
    checks.integer("hidden", hidden, minimum=1)
    return functools.partial(
        VGG,
        channels=channels,
        repeats=repeats,
        hidden=hidden,
        convolve=convolve,
    )
