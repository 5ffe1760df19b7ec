"""The convolutional network of federated averaging.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-Efficient Learning
of Deep Networks from Decentralized Data", AISTATS 2017, section 3: two 5x5
convolutions (32 and 64 channels), each followed by 2x2 max-pooling, a dense layer of
512 with ReLU and a softmax output; 1,663,370 parameters on MNIST.
"""

import functools

import jax
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.convolution import (
    Conv,
    ConvFn,
    conv_lax,
    default_conv,
)
from fedjax_comp.models.dropout import check_dropout, dropped
from fedjax_comp.models.pooling import max_pool_2x2
from fedjax_comp.models.side_by_side import plus_bias, pooled_relu
from fedjax_comp.models.task import ModelFn


class CNN(nn.Module):
    """Convolutions with ReLU and 2x2 max-pooling, then two dense layers.

    Attributes:
      num_classes: `L`.
      channels: of the convolutions.
      hidden: width of the hidden dense layer.
      convolve: the way of computing a convolution; None for the backend's default.
      dropout: chance with which what the dense layers read is left out in training.
    """

    num_classes: int
    channels: tuple[int, ...]
    hidden: int
    convolve: ConvFn | None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, L]`."""
        convolve = self.convolve or default_conv()
        # Only there do mapped clients' convolutions have their channels side by side.
        beside = convolve is conv_lax
        add_bias = plus_bias if beside else None
        for features in self.channels:
            x = Conv(features, convolve=convolve, add_bias=add_bias)(x)
            x = pooled_relu(x) if beside else max_pool_2x2(nn.relu(x))
        x = dropped(x.reshape(x.shape[0], -1), self.dropout, train)
        x = dropped(nn.relu(nn.Dense(self.hidden)(x)), self.dropout, train)
        return nn.Dense(self.num_classes)(x)


def cnn(
    channels: tuple[int, ...] = (32, 64),
    *,
    hidden: int = 512,
    convolve: ConvFn | None = None,
    dropout: float = 0.0,
) -> ModelFn:
    """The convolutional network of McMahan et al. 2017, for images `[H, W, C]`.

    Args:
      channels: of the 5x5 convolutions; every one halves height and width.
      hidden: width of the hidden dense layer.
      convolve: the way of computing a convolution, `conv_direct`, `conv_lax` or
        `conv_patches`; the parameters are the same. None takes the backend's default.
      dropout: chance with which each input of the two dense layers is left out in
        training, in [0, 1); none in the source.

    Returns:
      `(num_classes) -> module` from `[B, H, W, C]` to logits `[B, num_classes]`.

    Raises:
      ValueError: if a width is below one, there is no convolution, or dropout is not
        in [0, 1).

    >>> import jax.numpy as jnp
    >>> params = cnn()(10).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    1663370
    """
    channels = checks.sizes("channels", channels)
    checks.integer("hidden", hidden, minimum=1)
    check_dropout(dropout)
    return functools.partial(
        CNN,
        channels=channels,
        hidden=hidden,
        convolve=convolve,
        dropout=dropout,
    )
