"""A penalty on what activations reveal of their inputs, at the client's side.

The client adds `weight dCor(x, z)` to the loss, with dCor the distance correlation of a
batch's inputs and activations: 1 when distances of activations are those of inputs, 0
when the two are unrelated. Only the client's own layers are trained against it, and
nothing more is sent.

Source: Vepakomma, Singh, Gupta and Raskar 2020, "NoPeek: Information leakage reduction
to share activations in distributed deep learning"; the correlation is that of Szekely,
Rizzo and Bakirov 2007, definitions 4 and 5.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp import checks

Penalty = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(x[B, ...], activations[B, ...], mask[B]) -> scalar`, added to a client's loss."""

_EPSILON = 1e-6
"""Under the roots, so that a distance of zero has a gradient."""


def no_peek(weight: float) -> Penalty:
    """`weight` times the distance correlation of inputs and activations.

    Args:
      weight: at least 0.

    Returns:
      A `Penalty`.

    Raises:
      ValueError: for a weight that is negative or not finite.

    >>> x = jnp.arange(5.0)[:, None]
    >>> print(round(float(no_peek(2.0)(x, 3 - 2 * x, jnp.ones(5, bool))), 3))
    2.0
    """
    checks.not_negative("weight", weight)

    def penalty(x: jax.Array, activations: jax.Array, mask: jax.Array) -> jax.Array:
        return weight * distance_correlation(x, activations, mask)

    return penalty


def distance_correlation(x: jax.Array, z: jax.Array, mask: jax.Array) -> jax.Array:
    """DCor of two samples of which only those with `mask` count.

        dCor = sqrt(<A, B> / sqrt(<A, A> <B, B>))

    with A and B the doubly centred matrices of Euclidean distances.

    Args:
      x: `[B, ...]`.
      z: `[B, ...]`.
      mask: bool `[B]`.

    Returns:
      A scalar; near 0 where either sample is constant or nothing counts.
    """
    counts = mask.astype(jnp.float32)
    a, b = _centred(x, counts), _centred(z, counts)
    covariance = jnp.maximum(jnp.sum(a * b), 0)
    scale = jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b) + _EPSILON**2)
    return jnp.sqrt(covariance / scale + _EPSILON**2)


def _centred(values: jax.Array, counts: jax.Array) -> jax.Array:
    flat = values.reshape(len(values), -1).astype(jnp.float32)
    squares = jnp.sum((flat[:, None] - flat[None]) ** 2, axis=-1)
    distances = jnp.sqrt(squares + _EPSILON**2)
    total = jnp.maximum(counts.sum(), 1)
    rows = distances @ counts / total
    mean = rows @ counts / total
    pairs = counts[:, None] * counts[None]
    return pairs * (distances - rows[:, None] - rows[None] + mean)
