"""Convolution that stays fast inside `lax.scan` and under `jax.vmap`.

XLA's CPU backend has one fast convolution, NHWC by HWIO. The gradient that JAX derives
with respect to the kernel is written in another layout, which inside a loop falls back
to code about twelve times slower; and `jax.vmap` over the kernels of several clients
turns every convolution into a grouped one, which is slower still. So the way of
computing is an argument here, a `ConvFn`, and all ways have the same parameters:

* `conv_direct`: output and both gradients are ordinary NHWC/HWIO convolutions, and
  kernels with a client axis are taken one at a time. The default on CPU, where it took
  the least time of the three (figures in `experiments/benchmark`).
* `conv_lax`: `jax.lax.conv_general_dilated` and whatever JAX makes of it. The default
  on every other backend, where the vendor's kernels need no such care.
* `conv_patches`: im2col and one matrix product, batched under `jax.vmap`. For mapped
  clients on an accelerator, where grouped convolutions are known to be slow; whether it
  is faster there has not been measured.

Convolution here means what it means in deep learning: stride one, zero padding to the
size of the input ("SAME"), the kernel not flipped,
`out[b, i, j, o] = sum_{u, v, c} x[b, i + u - p, j + v - q, c] kernel[u, v, c, o]`.

Letters in shapes: `B` examples, `H`, `W` height and width, `C` channels in, `O` out.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fedjax_comp.models.strided import strided

ConvFn = Callable[[jax.Array, jax.Array], jax.Array]
"""`(x [B, H, W, C], kernel [KH, KW, C, O]) -> [B, H, W, O]`."""

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after, for height and for width."""

# ----------------------------------------------------------------- ways of computing


def conv_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by `jax.lax.conv_general_dilated`, differentiated by JAX.

    Args:
      x: images, `[B, H, W, C]`.
      kernel: `[KH, KW, C, O]`, same dtype.

    Returns:
      `[B, H, W, O]`.

    >>> conv_lax(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))).shape
    (1, 4, 4, 5)
    """
    return _convolve(_same_padding(kernel), x, kernel)


def conv_direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves; both gradients are convolutions of the same kind as the output.

    With `g` the cotangent of the output and `*` the convolution above,
    `dx = g * flip(kernel)^T` and `dkernel = (x^T * g^T)^T`, where the second reads the
    batch as channels. It may be differentiated in reverse mode any number of times, not
    in forward mode. Under `jax.vmap` a shared kernel sees one larger batch, and kernels
    of their own are taken one after the other.

    Args:
      x: images, `[B, H, W, C]`.
      kernel: `[KH, KW, C, O]`, same dtype.

    Returns:
      `[B, H, W, O]`.

    >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
    >>> bool((conv_direct(x, kernel) == conv_lax(x, kernel)).all())
    True
    """
    return _direct(_same_padding(kernel), x, kernel)


def conv_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by one matrix product with the `KH KW C` values each pixel sees.

    Needs `KH KW` times the memory of `x`.

    Args:
      x: images, `[B, H, W, C]`.
      kernel: `[KH, KW, C, O]`, same dtype.

    Returns:
      `[B, H, W, O]`.

    >>> conv_patches(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))).shape
    (1, 4, 4, 5)
    """
    height, width, channels, features = kernel.shape
    vertical, horizontal = _same_padding(kernel)
    padded = jnp.pad(x, ((0, 0), vertical, horizontal, (0, 0)))
    patches = jnp.concatenate(
        [
            padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            for i in range(height)
            for j in range(width)
        ],
        axis=-1,
    )
    rows = patches.reshape(-1, height * width * channels)
    return (rows @ kernel.reshape(-1, features)).reshape(*x.shape[:3], features)


def default_conv() -> ConvFn:
    """The way of computing for JAX's default backend: direct on CPU, else `conv_lax`.

    >>> default_conv() is (
    ...     conv_direct if jax.default_backend() == "cpu" else conv_lax
    ... )
    True
    """
    return conv_direct if jax.default_backend() == "cpu" else conv_lax


def _same_padding(kernel: jax.Array) -> Padding:
    height, width = kernel.shape[:2]
    return ((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2)


def _convolve(padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# ------------------------------------------------- the direct way and its derivatives
#
# Two bilinear maps, each the derivative of the other, so that the pair is closed under
# reverse-mode differentiation:
#   _direct(x, kernel) -> out        _correlate(x, g) -> the kernel's gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _direct(padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _one_kernel_at_a_time(padding)(x, kernel)


def _direct_forward(
    padding: Padding, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct(padding, x, kernel), (x, kernel)


def _direct_backward(
    padding: Padding, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _towards_input(padding, g, kernel), _correlate(padding, x, g)


_direct.defvjp(_direct_forward, _direct_backward)


def _towards_input(padding: Padding, g: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose of `_direct` in `x`, `[B, H', W', O] -> [B, H, W, C]`."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    (top, bottom), (left, right) = padding
    height, width = kernel.shape[:2]
    reversed_padding = (
        (height - 1 - top, height - 1 - bottom),
        (width - 1 - left, width - 1 - right),
    )
    return _direct(reversed_padding, g, flipped)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(padding: Padding, x: jax.Array, g: jax.Array) -> jax.Array:
    return _one_pair_at_a_time(padding)(x, g)


def _correlate_forward(
    padding: Padding, x: jax.Array, g: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _correlate(padding, x, g), (x, g)


def _correlate_backward(
    padding: Padding, residuals: tuple[jax.Array, jax.Array], kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, g = residuals
    return _towards_input(padding, g, kernel), _direct(padding, x, kernel)


_correlate.defvjp(_correlate_forward, _correlate_backward)


@functools.cache
def _one_kernel_at_a_time(padding: Padding) -> ConvFn:
    @jax.custom_batching.custom_vmap
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(padding, x, kernel)

    @convolve.def_vmap
    def _(
        axis_size: int, batched: tuple[bool, bool], x: jax.Array, kernel: jax.Array
    ) -> tuple[jax.Array, bool]:
        if not batched[1]:
            out = convolve(x.reshape(axis_size * x.shape[1], *x.shape[2:]), kernel)
            return out.reshape(*x.shape[:2], *out.shape[1:]), True
        if not batched[0]:
            return lax.map(lambda one: convolve(x, one), kernel), True
        return lax.map(lambda pair: convolve(*pair), (x, kernel)), True

    return convolve


@functools.cache
def _one_pair_at_a_time(padding: Padding) -> ConvFn:
    @jax.custom_batching.sequential_vmap
    def correlate(x: jax.Array, g: jax.Array) -> jax.Array:
        images = x.transpose(3, 1, 2, 0)
        kernels = g.transpose(1, 2, 0, 3)
        # Without the barrier XLA folds the transposes into the convolution's dimension
        # numbers and is back in the layout that has no fast code inside a loop.
        images, kernels = lax.optimization_barrier((images, kernels))
        return _convolve(padding, images, kernels).transpose(1, 2, 0, 3)

    return correlate


class Conv(nn.Module):
    """A convolution with "SAME" padding.

    Parameters: `kernel` `[KH, KW, C, O]` and `bias` `[O]`, as those of `nn.Conv`.

    Attributes:
      features: `O`.
      kernel_size: `(KH, KW)`.
      convolve: the way of computing; `default_conv()` when it is traced if None.
      strides: `(s, t)`: every `s`-th row and `t`-th column is kept, the first included.
      use_bias: whether there is a bias.
      add_bias: `(images, bias) -> images`, the way of adding it; None for a plain sum.

    >>> params = Conv(7).init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))["params"]
    >>> params["kernel"].shape, params["bias"].shape
    ((5, 5, 2, 7), (7,))
    """

    features: int
    kernel_size: tuple[int, int] = (5, 5)
    convolve: ConvFn | None = None
    strides: tuple[int, int] = (1, 1)
    use_bias: bool = True
    add_bias: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / s), ceil(W / t), O]`."""
        if x.ndim != 4:
            raise ValueError(
                f"Expected images [B, H, W, C] to convolve, got inputs {list(x.shape)}:"
                " mlp() and linear() take any shape, and images of one channel are "
                "[H, W, 1]."
            )
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (*self.kernel_size, x.shape[-1], self.features),
            jnp.float32,
        )
        dtype = jnp.promote_types(x.dtype, kernel.dtype)  # as `nn.Conv` has it
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        out = strided(self.convolve or default_conv(), x, kernel, self.strides)
        if not self.use_bias:
            return out
        zeros = nn.initializers.zeros_init()
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        if self.add_bias is not None:
            return self.add_bias(out, bias)
        return out + lax.broadcast_in_dim(bias, (1, 1, 1, self.features), (3,))
