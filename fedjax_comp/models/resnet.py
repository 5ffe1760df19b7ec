"""Residual networks for small images, with group normalisation.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016,
section 4.2: one 3x3 convolution, then three stages of `n` blocks of two 3x3
convolutions, `6 n + 2` layers in all. A stage after the first halves height and width
and doubles the channels; the shortcut across that step takes every second pixel and
fills up with zero channels (their option A), so it has no parameters. Here batch
normalisation is replaced by group normalisation (see `normalization.py`).
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.convolution import Conv, ConvFn
from fedjax_comp.models.normalization import GroupNorm
from fedjax_comp.models.task import ModelFn

STAGES = 3


def shortcut(x: jax.Array, stride: int, features: int) -> jax.Array:
    """Every `stride`-th pixel, and zeros for the channels that are new.

    Args:
      x: `[B, H, W, C]`.
      stride: at least 1.
      features: `O`, at least `C`.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), O]`.

    >>> shortcut(jnp.ones((1, 5, 4, 2)), 2, 6).sum((1, 2)).tolist()
    [[6.0, 6.0, 0.0, 0.0, 0.0, 0.0]]
    """
    kept = x[:, ::stride, ::stride]
    return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class Block(nn.Module):
    """`relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`.

    Attributes:
      features: `O`.
      stride: of the first convolution, in both directions.
      convolve: the way of computing a convolution; None for the backend's default.
    """

    features: int
    stride: int
    convolve: ConvFn | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), O]`."""
        conv = functools.partial(
            Conv, self.features, (3, 3), convolve=self.convolve, use_bias=False
        )
        inner = nn.relu(GroupNorm()(conv(strides=(self.stride, self.stride))(x)))
        inner = GroupNorm()(conv()(inner))
        return nn.relu(shortcut(x, self.stride, self.features) + inner)


class ResNet(nn.Module):
    """Three stages of residual blocks, the mean over pixels, a dense layer.

    Attributes:
      num_classes: `L`.
      depth: layers with weights, `6 n + 2`.
      width: channels of the first stage.
      convolve: the way of computing a convolution; None for the backend's default.
    """

    num_classes: int
    depth: int
    width: int
    convolve: ConvFn | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, L]`."""
        first = Conv(self.width, (3, 3), convolve=self.convolve, use_bias=False)
        x = nn.relu(GroupNorm()(first(x)))
        for stage in range(STAGES):
            for i in range((self.depth - 2) // (2 * STAGES)):
                stride = 2 if stage > 0 and i == 0 else 1
                x = Block(self.width * 2**stage, stride, self.convolve)(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def resnet(
    depth: int = 20, *, width: int = 16, convolve: ConvFn | None = None
) -> ModelFn:
    """The residual network of He et al. 2016 for CIFAR, with group normalisation.

    Args:
      depth: 8, 14, 20, 32, 44, ...: `6 n + 2`.
      width: channels of the first stage, at least 1; twice and four times as many in
        the next ones. Group normalisation has groups of eight channels, so multiples of
        eight are best.
      convolve: the way of computing a convolution, `conv_direct`, `conv_lax` or
        `conv_patches`; the parameters are the same. None takes the backend's default.

    Returns:
      `(num_classes) -> module` from `[B, H, W, C]` to logits `[B, num_classes]`.

    Raises:
      ValueError: for another depth, or a width below one.

    >>> params = jax.eval_shape(
    ...     resnet(20)(10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    ... )
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    269722
    """
    if depth < 8 or (depth - 2) % (2 * STAGES):
        raise ValueError(f"Expected depth={depth} to be 6 n + 2: 8, 14, 20, 32, ...")
    checks.integer("width", width, minimum=1)
    return functools.partial(ResNet, depth=depth, width=width, convolve=convolve)
