"""Multinomial logistic regression."""

import jax
from flax import linen as nn

from fedjax_comp.models.task import ModelFn


class Linear(nn.Module):
    """`logits = x W + b` on flattened inputs.

    Attributes:
      num_classes: `L`.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, ...]` to logits `[B, L]`."""
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


def linear() -> ModelFn:
    """Logistic regression, for inputs of any shape.

    Returns:
      `(num_classes) -> module` from `[B, ...]` to logits `[B, num_classes]`.

    >>> import jax.numpy as jnp
    >>> module = linear()(10)
    >>> params = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    7850
    """
    return Linear
