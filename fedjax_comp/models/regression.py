"""Regression as a `Task`: a model and its squared error.

The model maps inputs `[B, ...]` to `[B]`, `[B, 1]` or `[B, D]`; targets are numbers of
the same count, `[B]` or `[B, D]`. Targets should be centred and of order one: subtract
their mean and divide by their deviation.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp.base import Examples, PyTree, Sums, Task, has_statistics
from fedjax_comp.models.network import Network, filled, network_of, observation
from fedjax_comp.tree import along

_LEAST_VARIANCE = 1e-4
"""Of the mean square: a thousand times what float32 rounds it by."""


class _Errors(NamedTuple):
    """Of each number: target and error, 0 where it does not count, and whether."""

    targets: jax.Array
    errors: jax.Array
    counted: jax.Array


def regression(
    model: nn.Module | Network,
    *,
    input_shape: tuple[int, ...],
    within: float,
    scale: float = 1.0,
) -> Task:
    """Least squares: the mean of `(y - f(x))^2` over the numbers that count.

    Args:
      model: maps float32 `[B, *input_shape]` to predictions.
      input_shape: of one example, without `B`.
      within: a prediction this near to its target counts as right: what "accuracy" is
        of, in rows, targets and reports.
      scale: inputs are multiplied by it.

    Returns:
      A `Task`, which moves running statistics on as that of `classification`; beside
      loss and accuracy it is evaluated by "rmse", "absolute_error"
      (the mean) and "r_squared", the share of the targets' variance that is explained.
      The variance is that of sums in float32, `E[y^2] - E[y]^2`, and nothing is left of
      it where targets stand far from 0: below 1e-4 of `E[y^2]` (a mean of a hundred
      deviations) "r_squared" is NaN.

    Raises:
      ValueError: for a `within` or a `scale` that is not positive and finite, what is
        no model, and for predictions and targets whose shapes do not go together.

    >>> import numpy as np
    >>> task = regression(nn.Dense(1), input_shape=(2,), within=0.5)
    >>> params = {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.zeros(1)}
    >>> three = Examples(np.float32([[1, 0], [2, 0], [3, 9]]), np.float32([1, 2, 4]))
    >>> sums = task.evaluate(params, three, jnp.ones(3, bool))
    >>> float(sums["loss"]), float(sums["accuracy"])
    (1.0, 2.0)
    """
    for name, value in (("within", within), ("scale", scale)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"Expected {name}={value} finite and above zero.")
    network = network_of(model)

    def init(key: jax.Array) -> PyTree:
        return network.init(key, jnp.zeros((1, *input_shape)))

    def inputs_of(
        params: PyTree, examples: Examples, mask: jax.Array, *, training: bool
    ) -> jax.Array:
        inputs = scale * jnp.asarray(examples.x).astype(jnp.float32)
        # A masked row may hold anything, and zero times infinity is no zero.
        inputs = jnp.where(along(mask, inputs), inputs, 0)
        return filled(inputs, mask) if training and has_statistics(params) else inputs

    def errors(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array | None
    ) -> _Errors:
        inputs = inputs_of(params, examples, mask, training=key is not None)
        predictions = network.apply(params, inputs, key).astype(jnp.float32)
        targets = jnp.asarray(examples.y).astype(jnp.float32)
        if predictions.size != targets.size:
            raise ValueError(
                f"Expected a prediction for each target: predictions are of shape "
                f"{predictions.shape}, targets of {targets.shape}."
            )
        predictions = predictions.reshape(targets.shape)
        counted = jnp.broadcast_to(along(mask, targets), targets.shape)
        return _Errors(
            jnp.where(counted, targets, 0),
            jnp.where(counted, predictions - targets, 0),
            counted,
        )

    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        _, found, counted = errors(params, examples, mask, key)
        count = jnp.maximum(counted.sum(dtype=jnp.float32), 1)
        return jnp.square(found).sum() / count

    def evaluate(params: PyTree, examples: Examples, mask: jax.Array) -> Sums:
        targets, found, counted = errors(params, examples, mask, None)
        each = {
            "count": counted,
            "loss": jnp.square(found),
            "accuracy": (jnp.abs(found) <= within) & counted,
            "absolute_error": jnp.abs(found),
            "target": targets,
            "squared_target": jnp.square(targets),
        }
        return {name: x.sum(dtype=jnp.float32) for name, x in each.items()}

    def derived(means: Sums) -> Sums:
        variance = means["squared_target"] - jnp.square(means["target"])
        known = variance > _LEAST_VARIANCE * means["squared_target"]
        unexplained = means["loss"] / variance
        return {
            "absolute_error": means["absolute_error"],
            "rmse": jnp.sqrt(means["loss"]),
            "r_squared": jnp.where(known, 1 - unexplained, jnp.nan),
        }

    return Task(init, loss, evaluate, observation(network, inputs_of), derived)
