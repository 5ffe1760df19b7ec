"""Supervised classification as a `Task`: a flax module and its cross-entropy.

The module maps inputs `[B, ...]` to logits `[B, L]` (one label an example) or
`[B, T, L]` (one label a token). Examples arrive in the dtype they are stored in; what
the module sees is `scale * x` in float32, or the integers themselves when it begins
with an embedding.
"""

import math
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.errors import InvalidRngError

from fedjax_comp.base import Examples, PyTree, Task
from fedjax_comp.tree import along


class ModelFn(Protocol):
    """`(num_classes) -> module`: hyperparameters are chosen, the data are yet to come.

    What the factories `cnn`, `mlp`, ... return. The module maps `[B, ...]` to logits.
    """

    def __call__(self, num_classes: int) -> nn.Module:
        """The module for data with `num_classes` labels."""
        ...


def classification(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    scale: float = 1.0,
    input_dtype: jax.typing.DTypeLike = jnp.float32,
    ignore_label: int | None = None,
) -> Task:
    """A classifier with mean softmax cross-entropy `-log p(y | x)`.

    The loss is the mean over the labels that count: those of unmasked examples, every
    token of a sequence being one, except `ignore_label`. It and its gradient are
    exactly 0 when none counts, whatever the masked rows hold.

    Args:
      module: maps `[B, *input_shape]` to logits `[B, L]` or `[B, T, L]`. Only
        deterministic modules with nothing but `params` are taken.
      input_shape: of one example, without `B`.
      scale: floating inputs are multiplied by it, e.g. `1 / 255` for uint8 images.
      input_dtype: what the module takes; an integer type leaves the values as they are.
      ignore_label: a label that is padding and never counts, such as that which fills
        up a short sequence; None where every label counts.

    Returns:
      A `Task` whose `params` are the module's.

    Raises:
      ValueError: if `scale` is not finite or zero, or is given for integer inputs, or
        `input_shape` holds a size below one; from `init`, if the module draws (Dropout)
        or holds more than `params` (BatchNorm).

    >>> from fedjax_comp.models.linear import linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    >>> params = task.init(jax.random.key(0))
    >>> digits = Examples(x=jnp.ones((3, 8, 8, 1), jnp.uint8), y=jnp.array([1, 2, 3]))
    >>> task.loss(params, digits, jnp.ones(3, bool)).shape
    ()
    """
    dtype = jnp.dtype(input_dtype)
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"Expected scale={scale} finite and not zero.")
    if not floating and scale != 1.0:
        raise ValueError(
            f"Expected scale=1.0 with input_dtype={dtype.name}: only floating inputs "
            f"are scaled, and scale={scale} was given."
        )
    if any(size < 1 for size in input_shape):
        raise ValueError(f"Expected every size in input_shape={input_shape} >= 1.")

    def init(key: jax.Array) -> PyTree:
        blank = jnp.zeros((1, *input_shape), dtype)
        variables = module.init(key, blank)
        try:
            jax.eval_shape(
                lambda kept: module.apply(kept, blank, mutable=True), variables
            )
        except InvalidRngError as error:
            raise ValueError(
                f"Expected a deterministic module, got a {type(module).__name__} that "
                "draws, as Dropout does: make it with deterministic=True."
            ) from error
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f"Expected a module with nothing but params, got {', '.join(others)} "
                "in it, as BatchNorm keeps: use GroupNorm or LayerNorm instead."
            )
        # A module without parameters has no such collection.
        return variables.get("params", {})

    def each_label(
        params: PyTree, examples: Examples, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Losses, hits and what counts, all in the shape of the labels."""
        x = examples.x.astype(dtype)
        inputs = x * jnp.asarray(scale, dtype) if floating else x
        per_example = along(mask, inputs)
        # A masked row may hold anything: zero times the gradient of an overflow is NaN,
        # so such a row is replaced before it meets the parameters.
        inputs = jnp.where(per_example, inputs, jnp.zeros((), dtype))
        logits = cast(jax.Array, module.apply({"params": params}, inputs))
        labels = examples.y.astype(jnp.int32)
        per_label = along(mask, labels)
        per_label = jnp.broadcast_to(per_label, labels.shape)
        if ignore_label is not None:
            per_label = per_label & (labels != ignore_label)
        labels = jnp.where(per_label, labels, 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = jnp.argmax(logits, axis=-1) == labels
        return jnp.where(per_label, losses, 0), hits & per_label, per_label

    def loss(params: PyTree, examples: Examples, mask: jax.Array) -> jax.Array:
        losses, _, counted = each_label(params, examples, mask)
        count = counted.sum().astype(losses.dtype)
        return losses.sum() / jnp.maximum(count, 1)

    def evaluate(
        params: PyTree, examples: Examples, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        losses, hits, counted = each_label(params, examples, mask)
        sums = (values.sum(dtype=jnp.float32) for values in (losses, hits, counted))
        loss_sum, correct_sum, count = sums
        return loss_sum, correct_sum, count

    return Task(init=init, loss=loss, evaluate=evaluate)
