"""Noise on representations before they are sent, which bounds what one row reveals.

Each party clips its rows to a norm and adds Gaussian noise to them. This bounds what
the noised rows reveal about one example that may be replaced by another. It does not
bound what the map reveals where it was made from the examples, nor what the labels
reveal, which are sent as they are.

Source: Dwork, Roth 2014, "The algorithmic foundations of differential privacy",
appendix A; epsilon by Balle, Wang 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.privacy import gaussian_epsilon


class RowNoise(NamedTuple):
    """How rows are noised.

    Attributes:
      clip: Euclidean norm that no row exceeds.
      multiplier: standard deviation of the noise on each number, over `clip`.
    """

    clip: float
    multiplier: float

    @property
    def variance(self) -> float:
        """The variance of the noise on each number."""
        return (self.clip * self.multiplier) ** 2


def gaussian_rows(clip: float, multiplier: float) -> RowNoise:
    """Rows clipped to norm `clip`, with noise of deviation `multiplier clip`.

    Raises:
      ValueError: unless both are positive and finite.

    >>> gaussian_rows(4.0, 0.5).variance
    4.0
    """
    checks.positive("clip", clip)
    checks.positive("multiplier", multiplier)
    return RowNoise(clip, multiplier)


def noised(key: jax.Array, rows: jax.Array, noise: RowNoise) -> jax.Array:
    """Rows clipped and noised, `[N, m] -> [N, m]`."""
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    clipped = rows * jnp.minimum(1, noise.clip / jnp.maximum(norms, 1e-30))
    drawn = jax.random.normal(key, rows.shape, rows.dtype)
    return clipped + noise.clip * noise.multiplier * drawn


def row_epsilon(noise: RowNoise, *, delta: float) -> float:
    """Epsilon of the noised rows; two rows are up to `2 clip` apart.

    >>> round(row_epsilon(gaussian_rows(1.0, 2.0), delta=1e-5), 3)
    4.377
    """
    return gaussian_epsilon(
        noise_multiplier=noise.multiplier / 2, rounds=1, delta=delta
    )
