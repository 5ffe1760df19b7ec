"""The floating-point operations of a client, by XLA's own count.

The count is of the program before it is optimised, for one batch: forward and backward
through the layers that the client has.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.split_learning.methods import Method
from experiments.split_learning.problem import Setting, build_split
from fedjax_comp.base import Examples, PyTree
from fedjax_comp.keys import make_key
from fedjax_comp.models.split import Part, params_of


def flops(f: Callable[..., PyTree], *arguments: PyTree) -> float:
    """Operations of one call.

    Args:
      f: a function of arrays.
      *arguments: arrays, or their shapes and dtypes.

    >>> square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    >>> flops(lambda a, b: a @ b, square, square)
    1024.0
    """
    analysis = jax.jit(f).lower(*arguments).cost_analysis()
    if analysis is None:
        raise ValueError("Expected a backend whose compiler counts operations.")
    return float(analysis["flops"])


KEY = jax.eval_shape(lambda: make_key(0))
"""The shape of a key, which is all that counting operations needs."""


def client_flops(method: Method, setting: Setting, batch_size: int) -> float:
    """Operations of a client for one of its batches."""
    dataset = setting.dataset
    x = jax.ShapeDtypeStruct(
        (batch_size, *dataset.train.x.shape[1:]), dataset.train.x.dtype
    )
    y = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    mask = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
    params = jax.eval_shape(setting.task.init, make_key(0))
    if not method.cuts:
        return flops(
            jax.value_and_grad(setting.task.loss), params, Examples(x, y), mask, KEY
        )
    task = build_split(setting, method.cuts)
    bottom, *rest = task.parts
    hidden, total = part_flops(bottom, params, x, of_inputs=False)
    if len(rest) == 1:
        return total
    middle, tail = rest
    outputs = jax.eval_shape(middle.apply, params_of(middle.names, params), hidden)
    own = params_of(tail.names, params)

    def loss(
        params: PyTree, outputs: jax.Array, y: jax.Array, mask: jax.Array
    ) -> jax.Array:
        return task.loss(tail.apply(params, outputs), y, mask)

    both = jax.value_and_grad(loss, argnums=(0, 1))
    return total + flops(both, own, outputs, y, mask)


def part_flops(
    part: Part, params: PyTree, x: jax.ShapeDtypeStruct, *, of_inputs: bool
) -> tuple[jax.ShapeDtypeStruct, float]:
    """Shape of a part's outputs, and operations of a pass forward and back.

    Args:
      part: the layers.
      params: of the whole model.
      x: what the part takes.
      of_inputs: whether the gradient goes on to what was before.
    """
    own = params_of(part.names, params)
    out = jax.eval_shape(part.apply, own, x)

    def forward_and_back(params: PyTree, x: jax.Array, cotangent: jax.Array) -> PyTree:
        if of_inputs:
            outputs, pull = jax.vjp(part.apply, params, x)
        else:
            outputs, pull = jax.vjp(lambda params: part.apply(params, x), params)
        return outputs, pull(cotangent)

    return out, flops(forward_and_back, own, x, out)
