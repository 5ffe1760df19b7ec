"""The character model of federated averaging: stacked LSTMs over characters.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-Efficient Learning
of Deep Networks from Decentralized Data", AISTATS 2017, section 3: characters embedded
in 8 dimensions, two LSTM layers of 256 units, a softmax over the vocabulary.

With `V` characters that is `796,672 + 265 V` parameters, 817,872 for 80 characters. The
866,578 that McMahan et al. state follow from no `V` in this description.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from fedjax_comp import checks
from fedjax_comp.models.task import ModelFn


def lstm(inputs: jax.Array, recurrent: jax.Array) -> jax.Array:
    """The outputs of an LSTM that starts from zeros.

    `i, f, g, o = inputs[t] + h[t-1] R`, `c[t] = sigmoid(f) c[t-1] + sigmoid(i) tanh(g)`
    and `h[t] = sigmoid(o) tanh(c[t])`.

    Args:
      inputs: `x[t] W + b` for every step, `[B, T, 4 H]`. They need nothing of the step
        before, so they are one matrix product outside the loop.
      recurrent: `R`, `[H, 4 H]`.

    Returns:
      `h`, `[B, T, H]`.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    >>> lstm(jnp.zeros((2, 3, 20)), jnp.zeros((5, 20))).shape
    (2, 3, 5)
    """
    width = recurrent.shape[0]

    def step(
        carry: tuple[jax.Array, jax.Array], gates: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, cell = carry
        enter, forget, update, leave = jnp.split(gates + hidden @ recurrent, 4, axis=-1)
        cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(update)
        hidden = nn.sigmoid(leave) * jnp.tanh(cell)
        return (hidden, cell), hidden

    # Zeros made from the inputs vary over a mesh exactly as they do, as a loop's carry
    # inside `jax.shard_map` must.
    zeros = jnp.zeros_like(inputs[:, 0, :width])
    _, hidden = lax.scan(step, (zeros, zeros), inputs.swapaxes(0, 1))
    return hidden.swapaxes(0, 1)


class LSTM(nn.Module):
    """One LSTM layer with one bias vector, the forget gate's part of it starting at 1.

    Attributes:
      width: `H`.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, D]` to `[B, T, H]`."""
        recurrent = self.param(
            "recurrent",
            nn.initializers.orthogonal(),
            (self.width, 4 * self.width),
            jnp.float32,
        )
        inputs = nn.Dense(4 * self.width, bias_init=_forget_bias, name="input")(x)
        return lstm(inputs, recurrent)


def _forget_bias(
    key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    del key  # the initializer's signature has one, and this one draws nothing
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1.0)


class CharLSTM(nn.Module):
    """Embedding, stacked LSTMs, and a dense layer: the next character's logits.

    Attributes:
      num_classes: `V`, the size of the vocabulary that is read and predicted.
      embedding: dimensions of a character.
      widths: of the LSTM layers.
    """

    num_classes: int
    embedding: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps characters `[B, T]`, integers in `[0, V)`, to logits `[B, T, V]`."""
        hidden = nn.Embed(self.num_classes, self.embedding)(x)
        for width in self.widths:
            hidden = LSTM(width)(hidden)
        return nn.Dense(self.num_classes)(hidden)


def char_lstm(
    embedding: int = 8,
    *,
    widths: tuple[int, ...] = (256, 256),
) -> ModelFn:
    """The character model of McMahan et al. 2017, for integer sequences `[T]`.

    Its task is `classification(char_lstm()(V), input_shape=(T,), input_dtype="int32")`.

    Args:
      embedding: dimensions of a character.
      widths: of the LSTM layers.

    Returns:
      `(num_classes) -> module` from `[B, T]` to logits `[B, T, num_classes]`.

    Raises:
      ValueError: if a size is below one or there is no layer.

    >>> params = char_lstm()(80).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    817872
    """
    checks.integer("embedding", embedding, minimum=1)
    return functools.partial(
        CharLSTM, embedding=embedding, widths=checks.sizes("widths", widths)
    )
