"""A small decoder-only transformer over characters.

Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3, without the
encoder. Normalisation comes before each part (Xiong et al., "On layer normalization in
the transformer architecture", ICML 2020, figure 1b), and once more before the logits.
Positions are learnt, and the hidden layer has GELU units, as in GPT-2 (Radford et al.
2019). Dropout, if any, is on the embedding and on what each block adds.

With `V` characters, `T` positions, `L` layers and width `D` that is
`L (12 D^2 + 13 D) + (2 V + T + 2) D + V` parameters.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.dropout import check_dropout, dropped
from fedjax_comp.models.task import ModelFn

HIDDEN = 4
"""Units of the hidden layer by the width of the model."""


def causal_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of every position to itself and to those before it.

        y[t] = sum over s <= t of softmax_s(<q[t], k[s]> / sqrt(d)) v[s]

    Args:
      query: `[B, T, H, d]` with `H` heads.
      key: likewise.
      value: likewise.

    Returns:
      `[B, T, H, d]`.

    Source: Vaswani et al. 2017, equation 1 and section 3.2.3.

    >>> x = jnp.arange(4.0).reshape(1, 2, 1, 2)
    >>> causal_attention(x, x, x)[0, 0, 0].tolist()  # the first sees but itself
    [0.0, 1.0]
    """
    length, size = query.shape[1], query.shape[3]
    scores = jnp.einsum("bthd,bshd->bhts", query, key) * size**-0.5
    seen = jnp.tril(jnp.ones((length, length), bool))[None, None]
    weights = nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhts,bshd->bthd", weights, value)


class Positions(nn.Module):
    """Adds to every position a vector of its own, which is learnt.

    A module, so that its parameter lies in a layer and the model can be cut
    (`fedjax_comp.models.split`).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        vectors = self.param(
            "embedding", nn.initializers.normal(0.02), x.shape[1:], jnp.float32
        )
        return x + vectors[None]


class Block(nn.Module):
    """`x = x + attention(norm(x))`, then `x + dense(gelu(dense(norm(x))))`.

    Attributes:
      heads: `H`, a divisor of the width.
      dropout: chance with which each number that is added is left out in training.
      train: whether it is training.
    """

    heads: int
    dropout: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        batch, length, width = x.shape
        projected = nn.Dense(3 * width, name="query_key_value")(nn.LayerNorm()(x))
        shape = (batch, length, self.heads, width // self.heads)
        parts = (part.reshape(shape) for part in jnp.split(projected, 3, axis=-1))
        attended = causal_attention(*parts).reshape(x.shape)
        added = nn.Dense(width, name="output")(attended)
        x = x + dropped(added, self.dropout, self.train)
        hidden = nn.gelu(nn.Dense(HIDDEN * width, name="hidden")(nn.LayerNorm()(x)))
        added = nn.Dense(width, name="residual")(hidden)
        return x + dropped(added, self.dropout, self.train)


class CharTransformer(nn.Module):
    """Embedding and positions, blocks, a dense layer: the next character's logits.

    Attributes:
      num_classes: `V`, the size of the vocabulary that is read and predicted.
      width: `D`.
      depth: `L`, the number of blocks.
      heads: of each block.
      dropout: see `Block`.
    """

    num_classes: int
    width: int
    depth: int
    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps characters `[B, T]`, integers in `[0, V)`, to logits `[B, T, V]`."""
        hidden = Positions()(nn.Embed(self.num_classes, self.width)(x))
        hidden = dropped(hidden, self.dropout, train)
        for _ in range(self.depth):
            hidden = Block(self.heads, self.dropout, train)(hidden)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(hidden))


def char_transformer(
    width: int = 128, *, depth: int = 3, heads: int = 4, dropout: float = 0.0
) -> ModelFn:
    """A decoder-only transformer for integer sequences `[T]` of a fixed length.

    Its task is `classification(char_transformer()(V), input_shape=(T,),
    input_dtype="int32")`.

    Args:
      width: `D`, of the embedding and of every block.
      depth: `L`, the number of blocks.
      heads: of each block, a divisor of `width`.
      dropout: chance with which each number of the embedding, and of what a block
        adds, is left out in training, in [0, 1).

    Returns:
      `(num_classes) -> module` from `[B, T]` to logits `[B, T, num_classes]`.

    Raises:
      ValueError: if a size is below one, or `heads` does not divide `width`, or
        dropout is not in [0, 1).

    >>> shapes = jax.eval_shape(
    ...     char_transformer()(80).init, jax.random.key(0), jnp.zeros((1, 80), int)
    ... )
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    625872
    """
    for name, size in (("width", width), ("depth", depth), ("heads", heads)):
        checks.integer(name, size, minimum=1)
    if width % heads:
        raise ValueError(f"Expected heads={heads} to divide width={width}.")
    check_dropout(dropout)
    return functools.partial(
        CharTransformer, width=width, depth=depth, heads=heads, dropout=dropout
    )
