"""The server's step: an optax optimizer fed with the mean update as a pseudo-gradient.

Source: Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2. With
`optax.sgd(1.0)` this is FedAvg's plain averaging; `optax.adam`, `optax.adagrad` and
`optax.yogi` make it FedAdam, FedAdagrad and FedYogi.
"""

from typing import NamedTuple

import jax
import optax

from fedjax_comp.base import STATISTICS, PyTree, has_statistics
from fedjax_comp.tree import all_finite, where


class Model(NamedTuple):
    """The server's model: its parameters and its optimizer's state."""

    params: PyTree
    optimizer_state: PyTree


class Stepped(NamedTuple):
    """The outcome of a step.

    Attributes:
      model: after the step; as before it where the step was refused.
      refused: bool scalar, whether parameters would not have been finite.
    """

    model: Model
    refused: jax.Array


def averaged_statistics(params: PyTree, before: PyTree, mean_update: PyTree) -> PyTree:
    """The model with its running statistics moved by the mean update alone.

    They are no weights: they are averaged, whatever the optimizer does.

    Args:
      params: after a step.
      before: before it.
      mean_update: what the clients' models moved by on average, in any float dtype.

    >>> averaged_statistics({"w": 1.0}, {"w": 0.0}, {"w": 0.5})
    {'w': 1.0}
    """
    if not has_statistics(params):
        return params
    own = jax.tree.map(
        lambda w, d: w + d.astype(w.dtype), before[STATISTICS], mean_update[STATISTICS]
    )
    return {**params, STATISTICS: own}


def step_towards(
    optimizer: optax.GradientTransformation,
    model: Model,
    mean_update: PyTree,
    anyone: jax.Array,
) -> Stepped:
    """Moves the model along the mean update.

    Running statistics are averaged instead, not moved by the optimizer.

    A step to parameters that are not finite is refused: no client could train from
    them.

    Args:
      optimizer: the server optimizer; it gets `-mean_update` as the gradient.
      model: the model before.
      mean_update: what the clients' models moved by on average, in any float dtype: it
        is cast to the parameters' here, once.
      anyone: bool scalar; when False (no client counted) the model stays as it is.

    Returns:
      The model after, and whether the step was refused.
    """
    gradient = jax.tree.map(lambda x, w: -x.astype(w.dtype), mean_update, model.params)
    updates, optimizer_state = optimizer.update(
        gradient, model.optimizer_state, model.params
    )
    params = optax.apply_updates(model.params, updates)
    params = averaged_statistics(params, model.params, mean_update)
    moved = Model(params, optimizer_state)
    sound = all_finite(moved)
    return Stepped(where(anyone & sound, moved, model), anyone & ~sound)
