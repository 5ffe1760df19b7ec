"""The multilayer perceptron; `mlp(200, 200)` is the "2NN" of federated averaging.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-Efficient Learning
of Deep Networks from Decentralized Data", AISTATS 2017, section 3.
"""

import functools

import jax
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.dropout import check_dropout, dropped
from fedjax_comp.models.task import ModelFn


class MLP(nn.Module):
    """Dense layers with ReLU between them, on flattened inputs.

    Attributes:
      num_classes: `L`.
      widths: of the hidden layers.
      dropout: chance with which each of their units is left out in training.
    """

    num_classes: int
    widths: tuple[int, ...]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[B, ...]` to logits `[B, L]`."""
        hidden = x.reshape(x.shape[0], -1)
        for width in self.widths:
            hidden = nn.relu(nn.Dense(width)(hidden))
            hidden = dropped(hidden, self.dropout, train)
        return nn.Dense(self.num_classes)(hidden)


def mlp(*widths: int, dropout: float = 0.0) -> ModelFn:
    """A multilayer perceptron, for inputs of any shape.

    Args:
      *widths: of the hidden layers, at least one.
      dropout: chance with which each of their units is left out in training, in [0, 1).

    Returns:
      `(num_classes) -> module` from `[B, ...]` to logits `[B, num_classes]`.

    Raises:
      ValueError: without a width, or with one below one, or another dropout.

    >>> import jax.numpy as jnp
    >>> params = mlp(200, 200)(10).init(jax.random.key(0), jnp.zeros((1, 784)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    199210
    """
    if not widths:
        raise ValueError("Expected at least one width, e.g. mlp(200, 200); got mlp().")
    widths = checks.sizes("widths", widths)
    check_dropout(dropout)
    return functools.partial(MLP, widths=widths, dropout=dropout)
