"""Residual networks for small images, with group normalisation.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016: one
3x3 convolution, then stages of blocks of two 3x3 convolutions. A stage after the first
halves height and width and doubles the channels. `resnet` is their network for CIFAR
(section 4.2): three stages of `n` blocks, `6 n + 2` layers in all, whose shortcut
across a step takes every second pixel and fills up with zero channels (their option A),
so it has no parameters. `resnet18` is the smallest of those for ImageNet (table 1):
four stages of two blocks, with a 1x1 convolution in that shortcut (option B). Here
batch normalisation is replaced by group normalisation (see `normalization.py`).
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
"""Of the network for CIFAR."""


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
      projected: whether the shortcut to other channels is a normalised 1x1 convolution.
    """

    features: int
    stride: int
    convolve: ConvFn | None
    projected: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), O]`."""
        conv = functools.partial(
            Conv, self.features, (3, 3), convolve=self.convolve, use_bias=False
        )
        inner = nn.relu(GroupNorm()(conv(strides=(self.stride, self.stride))(x)))
        inner = GroupNorm()(conv()(inner))
        if self.projected and x.shape[-1] != self.features:
            # A 1x1 convolution at a stride sees the pixels that are kept, and no other.
            kept = x[:, :: self.stride, :: self.stride]
            project = Conv(
                self.features, (1, 1), convolve=self.convolve, use_bias=False
            )
            return nn.relu(GroupNorm()(project(kept)) + inner)
        return nn.relu(shortcut(x, self.stride, self.features) + inner)


class ResNet(nn.Module):
    """Stages of residual blocks, the mean over pixels, a dense layer.

    Attributes:
      num_classes: `L`.
      blocks: how many each stage has.
      width: channels of the first stage.
      convolve: the way of computing a convolution; None for the backend's default.
      projected: as in `Block`.
    """

    num_classes: int
    blocks: tuple[int, ...]
    width: int
    convolve: ConvFn | None
    projected: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, L]`."""
        first = Conv(self.width, (3, 3), convolve=self.convolve, use_bias=False)
        x = nn.relu(GroupNorm()(first(x)))
        for stage, count in enumerate(self.blocks):
            features = self.width * 2**stage
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = Block(features, stride, self.convolve, self.projected)(x)
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
        raise ValueError(
            f"Expected depth={depth} to be 6 n + 2: 8, 14, 20, 32, ...; resnet18() is "
            "another network."
        )
    checks.integer("width", width, minimum=1)
    blocks = STAGES * ((depth - 2) // (2 * STAGES),)
    return functools.partial(ResNet, blocks=blocks, width=width, convolve=convolve)


def resnet18(*, width: int = 64, convolve: ConvFn | None = None) -> ModelFn:
    """ResNet-18 of He et al. 2016, with group normalisation, for small images.

    As is usual for these, the first convolution is 3x3 at stride 1 and no pooling
    follows it.

    Args:
      width: channels of the first stage, at least 1; two, four and eight times as many
        in the next ones. Multiples of eight are best.
      convolve: as in `resnet`.

    Returns:
      `(num_classes) -> module` from `[B, H, W, C]` to logits `[B, num_classes]`.

    Raises:
      ValueError: for a width below one.

    >>> params = jax.eval_shape(
    ...     resnet18()(10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    ... )
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    11173962
    """
    checks.integer("width", width, minimum=1)
    return functools.partial(
        ResNet, blocks=(2, 2, 2, 2), width=width, convolve=convolve, projected=True
    )
