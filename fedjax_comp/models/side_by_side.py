"""What is done to each channel of images by itself, for the channels of all clients.

Under `jax.vmap`, a convolution whose kernel differs from client to client becomes a
grouped convolution: the channels of all clients lie side by side in the fastest axis.
The steps after it would get the clients as an axis of their own, and a TPU, whose
arrays are made of tiles of 8 x 128 numbers, would fill 32 channels up to 128. Functions
from `side_by_side` leave the channels as the convolution has them. For a round of the
CNN, ten clients at once, that is 153 MB of temporary memory in place of 381, and 2.4
times fewer bytes of main memory (compiled for a TPU v5e, not run;
`experiments/benchmark`).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.custom_batching import custom_vmap

from fedjax_comp.models.pooling import max_pool_2x2

Arrays = tuple[jax.Array, ...]
ChannelFn = Callable[..., jax.Array]
"""`(images [B, H, W, C], *vectors [C]) -> images`, each channel by itself."""


def side_by_side(function: ChannelFn) -> ChannelFn:
    """A function of channels that `jax.vmap` gives more channels, and no new axis.

    It may be differentiated twice in reverse mode, not in forward mode, and computes
    its result once more for the gradient.

    Args:
      function: of images and vectors of as many numbers as they have channels, which
        it treats alike and each by itself.

    Returns:
      `function`, computing the same.

    >>> double = side_by_side(lambda x, scale: x * scale[None, None, None])
    >>> x, scale = jnp.ones((3, 1, 2, 2, 4)), jnp.arange(12.0).reshape(3, 4)
    >>> jax.vmap(double)(x, scale)[:, 0, 0, 0].tolist()
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]
    """

    def gradients(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, cotangent = arguments
        found: tuple[jax.Array, ...] = jax.vjp(function, *inputs)[1](cotangent)
        return found

    forward = _channels_merged(lambda *inputs: (function(*inputs),))
    backward = _with_plain_gradient(_channels_merged(gradients), gradients)

    @jax.custom_vjp
    def call(*inputs: jax.Array) -> jax.Array:
        return forward(*inputs)[0]

    call.defvjp(
        lambda *inputs: (call(*inputs), inputs),
        lambda inputs, cotangent: tuple(backward(*inputs, cotangent)),
    )
    return functools.wraps(function)(call)


def _channels_merged(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Of images and vectors, any number in and out; a mapped axis becomes channels."""

    @custom_vmap
    def once(*arrays: jax.Array) -> Arrays:
        return function(*arrays)

    @once.def_vmap
    def mapped(
        size: int, batched: Sequence[bool], *arrays: jax.Array
    ) -> tuple[Arrays, tuple[bool, ...]]:
        every = [
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(arrays, batched, strict=True)
        ]
        # Once more the wrapped one: an outer `jax.vmap` becomes channels as well.
        results = once(*(_merged(x) for x in every))
        return tuple(_apart(x, size) for x in results), (True,) * len(results)

    return once


def _merged(x: jax.Array) -> jax.Array:
    """`[K, ..., C] -> [..., K C]`."""
    beside = jnp.moveaxis(x, 0, -2)
    return beside.reshape(*beside.shape[:-2], -1)


def _apart(x: jax.Array, size: int) -> jax.Array:
    """`[..., K C] -> [K, ..., C]`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)


def _with_plain_gradient(
    mapped: Callable[..., Arrays], function: Callable[..., Arrays]
) -> Callable[..., Arrays]:
    """`mapped`, with the derivative of `function`: a `custom_vmap` has none."""

    @jax.custom_vjp
    def call(*arrays: jax.Array) -> Arrays:
        return mapped(*arrays)

    call.defvjp(
        lambda *arrays: (call(*arrays), arrays),
        lambda arrays, cotangents: jax.vjp(function, *arrays)[1](cotangents),
    )
    return call


@side_by_side
def plus_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Images `[B, H, W, C]` and a number for each channel, `[C]`, added."""
    return x + bias.reshape(1, 1, 1, -1)


@side_by_side
def pooled_relu(x: jax.Array) -> jax.Array:
    """`max_pool_2x2(relu(x))`, `[B, H, W, C] -> [B, H // 2, W // 2, C]`."""
    return max_pool_2x2(nn.relu(x))
