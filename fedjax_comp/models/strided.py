"""Convolution with a stride, made of one without.

The convolutions that are fast inside a loop (`convolution.py`) have stride one. Pixels
that lie together in one block of `s` by `t` become channels of one pixel ("space to
depth"), and so do the kernel's taps: then a convolution with strides `(s, t)` is one of
stride one on an image of that many times fewer pixels, with the same products and a few
zeros more.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def space_to_depth(x: jax.Array, block: tuple[int, int]) -> jax.Array:
    """Every block of `s` by `t` pixels as one pixel, its channels side by side.

    Args:
      x: `[B, s H, t W, C]`.
      block: `(s, t)`.

    Returns:
      `[B, H, W, s t C]`.

    >>> space_to_depth(jnp.arange(4).reshape(1, 2, 2, 1), (2, 2)).tolist()
    [[[[0, 1, 2, 3]]]]
    """
    (s, t), (count, height, width, channels) = block, x.shape
    blocks = x.reshape(count, height // s, s, width // t, t, channels)
    shape = (count, height // s, width // t, s * t * channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def strided(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
) -> jax.Array:
    """Every `s`-th row and `t`-th column of a convolution, without computing the rest.

    Equal to `convolve(x, kernel)[:, ::s, ::t]` but for rounding.

    Args:
      convolve: a convolution of stride one and "SAME" padding, such as `conv_direct`.
      x: images, `[B, H, W, C]`.
      kernel: `[KH, KW, C, O]`, same dtype.
      strides: `(s, t)`, each at least 1.

    Returns:
      `[B, ceil(H / s), ceil(W / t), O]`.

    >>> from fedjax_comp.models.convolution import conv_direct
    >>> x, kernel = jnp.ones((1, 6, 5, 2)), jnp.ones((3, 3, 2, 4))
    >>> strided(conv_direct, x, kernel, (2, 2)).shape
    (1, 3, 3, 4)
    """
    if strides == (1, 1):
        return convolve(x, kernel)
    if kernel.shape[:2] == (1, 1):
        return convolve(x[:, :: strides[0], :: strides[1]], kernel)
    taps, size = kernel.shape[:2], x.shape[1:3]
    # Before the image zeros as in "SAME"; behind it, and behind the kernel, zeros up
    # to whole blocks.
    before = [(k - 1) // 2 for k in taps]
    behind = [-(p + n) % s for p, n, s in zip(before, size, strides, strict=True)]
    padded = jnp.pad(x, ((0, 0), *zip(before, behind, strict=True), (0, 0)))
    missing = [(0, -k % s) for k, s in zip(taps, strides, strict=True)]
    whole = jnp.pad(kernel, (*missing, (0, 0), (0, 0)))
    # A kernel is an image of its taps, with the output channels for a batch.
    blocks = space_to_depth(whole.transpose(3, 0, 1, 2), strides).transpose(1, 2, 3, 0)
    out = convolve(space_to_depth(padded, strides), blocks)
    # A block's window begins at the block itself, not half a kernel before it.
    row, column = ((k - 1) // 2 for k in blocks.shape[:2])
    height, width = (-(-n // s) for n, s in zip(size, strides, strict=True))
    return out[:, row : row + height, column : column + width]
