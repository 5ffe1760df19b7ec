"""Dense layers whose weights are a Hadamard product of two low-rank matrices.

Hyeon-Woo, Ye-Bin and Oh, "FedPara: low-rank Hadamard product for
communication-efficient federated learning", ICLR 2022, proposition 1. What is trained
and sent are the factors: `2 R (m + n)` numbers for a matrix `[m, n]` whose rank may be
up to `R^2`, where plain low-rank factors of that many numbers give at most `2 R`.
"""

import functools

import jax
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.task import ModelFn


def hadamard_product(
    x1: jax.Array, y1: jax.Array, x2: jax.Array, y2: jax.Array
) -> jax.Array:
    """`W = (X1 Y1') * (X2 Y2')`, elementwise, of rank at most `R^2`.

    Args:
      x1: `[m, R]`.
      y1: `[n, R]`.
      x2: `[m, R]`.
      y2: `[n, R]`.

    Returns:
      `[m, n]`.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((2, 3))
    >>> hadamard_product(ones, ones, ones, 2 * ones).tolist()
    [[18.0, 18.0], [18.0, 18.0]]
    """
    return (x1 @ y1.T) * (x2 @ y2.T)


class FedParaDense(nn.Module):
    """A dense layer with FedPara's weights and a bias.

    Attributes:
      features: outputs, `n`.
      rank: `R`, at least 1.
    """

    features: int
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, m]` to `[B, n]`."""
        fan_in = x.shape[-1]
        # An entry of X Y' has variance R s^4 for factors of deviation s, and W the
        # square of that: s is such that W has He's variance 2 / m.
        deviation = ((2 / fan_in) ** 0.5 / self.rank) ** 0.25
        init = nn.initializers.normal(deviation)
        x1 = self.param("x1", init, (fan_in, self.rank))
        y1 = self.param("y1", init, (self.features, self.rank))
        x2 = self.param("x2", init, (fan_in, self.rank))
        y2 = self.param("y2", init, (self.features, self.rank))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ hadamard_product(x1, y1, x2, y2) + bias[None]


class FedParaMLP(nn.Module):
    """`MLP` with FedPara's weights in the hidden layers, plain ones in the last.

    Attributes:
      num_classes: `L`.
      widths: of the hidden layers.
      rank: `R` of every hidden layer.
    """

    num_classes: int
    widths: tuple[int, ...]
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, ...]` to logits `[B, L]`."""
        hidden = x.reshape(x.shape[0], -1)
        for width in self.widths:
            hidden = nn.relu(FedParaDense(width, self.rank)(hidden))
        return nn.Dense(self.num_classes)(hidden)


def fed_para_mlp(*widths: int, rank: int) -> ModelFn:
    """A multilayer perceptron with FedPara's weights, for inputs of any shape.

    Args:
      *widths: of the hidden layers, at least one.
      rank: `R` of the factors, at least 1. Full rank of `[m, n]` is possible from
        `R^2 >= min(m, n)` on.

    Returns:
      `(num_classes) -> module` from `[B, ...]` to logits `[B, num_classes]`.

    Raises:
      ValueError: without a width, or with a width or rank below one.

    >>> import jax.numpy as jnp
    >>> module = fed_para_mlp(200, 200, rank=15)(10)
    >>> params = module.init(jax.random.key(0), jnp.zeros((1, 784)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    43930
    """
    if not widths:
        raise ValueError("Expected at least one width, e.g. fed_para_mlp(200, rank=8).")
    if any(width < 1 for width in widths):
        raise ValueError(f"Expected every width in widths={widths} >= 1.")
    checks.integer("rank", rank, minimum=1)
    return functools.partial(FedParaMLP, widths=widths, rank=rank)
