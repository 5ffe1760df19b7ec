"""The two factors of each dense layer's gradient: its inputs, and its outputs' errors.

For a layer `z = x W + b` and a batch of B rows the gradients are products of the
layer's inputs X and of the errors D, the derivatives of the loss by its outputs,

    dL/dW = X' D,   dL/db = sum over rows of D,   X [B, m],   D = dL/dZ [B, n],

so that `B (m + n)` numbers determine all `m n + n` of the gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from fedjax_comp.base import Examples, PyTree, Task

Path = tuple[str, ...]
"""Where a layer's parameters are in the tree of all."""


class Factors(NamedTuple):
    """What determines a batch's gradient.

    Attributes:
      inputs: X of each dense layer, `[B, m]`, in the order of `dense_layers`.
      errors: D of each, `[B, n]`.
      rest: gradients of all other parameters, in the order of the tree.
    """

    inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]
    rest: tuple[jax.Array, ...]


def dense_layers(
    task: Task, params: PyTree, examples: Examples, mask: jax.Array
) -> dict[Path, jax.ShapeDtypeStruct]:
    """The dense layers that the loss goes through: path to what comes out, `[B, n]`.

    Args:
      task: the model and its loss, of a flax module.
      params: its parameters, arrays or `jax.ShapeDtypeStruct`.
      examples: a batch, or its shapes.
      mask: bool `[B]`, or its shape.

    Raises:
      ValueError: when there is none, or one is used twice.
    """
    outputs: dict[Path, jax.ShapeDtypeStruct] = {}

    def seen(path: Path, x: jax.Array, out: jax.Array) -> jax.Array:
        del x
        if path in outputs:
            raise ValueError(
                f"Expected layer {'/'.join(path)} to be used once in a pass: the "
                "factors of a layer that is used again are not one product."
            )
        outputs[path] = jax.ShapeDtypeStruct(out.shape, out.dtype)
        return out

    key = jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(_watched(task, seen), params, examples, mask, key)
    if not outputs:
        raise ValueError(
            "Expected a model with a flax Dense layer, such as mlp(200, 200): without "
            "one a gradient has no factors to send."
        )
    return outputs


def factors_of(
    task: Task, params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, Factors]:
    """The loss of a batch and its gradient's factors, by one backward pass.

    Args:
      task: the model and its loss, of a flax module.
      params: its parameters.
      examples: `[B, ...]`.
      mask: bool `[B]`; the errors of what is masked are 0.
      key: what the loss draws by.

    Returns:
      The loss and the `Factors`; axes before a layer's last one are rows.

    Raises:
      ValueError: as `dense_layers`.
    """
    layers = dense_layers(task, params, examples, mask)
    found = flatten_dict(params)
    others = _others(found, layers)

    def loss(
        rest: dict[Path, jax.Array], added: dict[Path, jax.Array]
    ) -> tuple[jax.Array, dict[Path, jax.Array]]:
        inputs: dict[Path, jax.Array] = {}

        def watch(path: Path, x: jax.Array, out: jax.Array) -> jax.Array:
            inputs[path] = x
            return out + added[path]

        whole = unflatten_dict({**found, **rest})
        return _watched(task, watch)(whole, examples, mask, key), inputs

    # Nothing is added: the gradient with respect to it is that of the layer's output.
    nothing = {path: jnp.zeros(out.shape, out.dtype) for path, out in layers.items()}
    rest = {path: found[path] for path in others}
    (value, inputs), (gradients, errors) = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True
    )(rest, nothing)
    return value, Factors(
        tuple(_rows(inputs[path]) for path in layers),
        tuple(_rows(errors[path]) for path in layers),
        tuple(gradients[path] for path in others),
    )


def gradient_of(factors: Factors, layers: dict[Path, Any], params: PyTree) -> PyTree:
    """The gradient that factors, as they are or as they were decoded, stand for.

    Args:
      factors: of one batch.
      layers: as of `dense_layers`.
      params: the tree that it is the gradient of, or its shapes.

    >>> one = Factors((jnp.array([[1.0, 2.0]]),), (jnp.array([[3.0]]),), ())
    >>> layer = {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}
    >>> made = gradient_of(one, {("d",): None}, {"d": layer})["d"]
    >>> made["kernel"].tolist(), made["bias"].tolist()
    ([[3.0], [6.0]], [3.0])
    """
    found = flatten_dict(params)
    made = dict(zip(_others(found, layers), factors.rest, strict=True))
    for path, x, d in zip(layers, factors.inputs, factors.errors, strict=True):
        made[(*path, "kernel")] = jnp.matmul(
            x.T, d, precision=jax.lax.Precision.HIGHEST
        )
        if (*path, "bias") in found:
            made[(*path, "bias")] = d.sum(0)
    # In the order of the parameters, so that both are one structure.
    return unflatten_dict({path: made[path] for path in found})


def _others(found: dict[Path, Any], layers: dict[Path, Any]) -> list[Path]:
    own = {(*path, name) for path in layers for name in ("kernel", "bias")}
    return [path for path in found if path not in own]


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _watched(
    task: Task, watch: Callable[[Path, jax.Array, jax.Array], jax.Array]
) -> Callable[[PyTree, Examples, jax.Array, jax.Array], jax.Array]:
    """The loss, with what `watch` makes of each dense layer's output in its place."""

    def intercept(
        call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        out = call(*args, **kwargs)
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            return watch(context.module.path, args[0], out)
        return out

    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        with nn.intercept_methods(intercept):
            return task.loss(params, examples, mask, key)

    return loss
