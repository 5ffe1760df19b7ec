"""The server's step: an optax optimizer fed with the mean update as a pseudo-gradient.

Source: Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2. With
`optax.sgd(1.0)` this is FedAvg's plain averaging; `optax.adam`, `optax.adagrad` and
`optax.yogi` make it FedAdam, FedAdagrad and FedYogi.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.base import PyTree


class Model(NamedTuple):
    """The server's model: its parameters and its optimizer's state."""

    params: PyTree
    optimizer_state: PyTree


def step_towards(
    optimizer: optax.GradientTransformation,
    model: Model,
    mean_update: PyTree,
    anyone: jax.Array,
) -> Model:
    """Moves the model along the mean update.

    Args:
      optimizer: the server optimizer; it gets `-mean_update` as the gradient.
      model: the model before.
      mean_update: what the clients' models moved by on average.
      anyone: bool scalar; when False (no client counted) the model stays as it is.

    Returns:
      The model after.
    """
    gradient = jax.tree.map(jnp.negative, mean_update)
    updates, optimizer_state = optimizer.update(
        gradient, model.optimizer_state, model.params
    )
    moved = Model(optax.apply_updates(model.params, updates), optimizer_state)
    return jax.tree.map(lambda new, old: jnp.where(anyone, new, old), moved, model)
