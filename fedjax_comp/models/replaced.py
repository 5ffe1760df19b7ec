"""A network run with other weights in some of its layers."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp.models.convolution import Conv
from fedjax_comp.models.network import takes_train

Replace = Callable[[nn.Module, str, jax.Array], jax.Array | None]
"""`(layer, its path, input) -> output`, or None for the layer's own."""


def run_replaced(
    module: nn.Module,
    network: nn.Module,
    replace: Replace,
    x: jax.Array,
    *,
    train: bool = False,
    only: Collection[str] = (),
) -> jax.Array:
    """Runs a network of `Conv` and `nn.Dense` layers, some of them replaced.

    Args:
      module: the one that runs it, whose scope is the network's (`nn.share_scope`).
      network: the network.
      replace: asked at every `Conv` and `nn.Dense`; it may make parameters of the
        layer in place of the layer's own.
      x: the network's input.
      train: whether it is training, for a network that is told.
      only: paths of layers that are to be `Conv` or `nn.Dense`.

    Returns:
      Its output.

    Raises:
      ValueError: for another layer at one of these paths.
    """

    def intercept(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        layer = context.module
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        path = "/".join(layer.path[len(module.path) :])
        if isinstance(layer, Conv | nn.Dense):
            out = replace(layer, path, *args)
            if out is not None:
                return out
        elif path in only:
            raise ValueError(
                f"Expected {'/'.join(layer.path)} to be nn.Dense or the package's Conv "
                f"(fedjax_comp.models.convolution), not {type(layer).__name__}: its "
                "kernel was taken apart, and nothing else runs without one."
            )
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        told = {"train": train} if takes_train(network) else {}
        return network(x, **told)  # type: ignore[no-any-return]


def with_bias(layer: nn.Dense | Conv, out: jax.Array) -> jax.Array:
    """A layer's output with its bias, where it has one."""
    if not layer.use_bias:
        return out
    bias = layer.param(
        "bias", nn.initializers.zeros_init(), (layer.features,), jnp.float32
    )
    return out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)
