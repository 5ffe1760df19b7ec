"""Scalar quantizers of a standard Gaussian, computed in float64 when asked for.

Lloyd, "Least squares quantization in PCM", 1982 (1957), and Max, "Quantizing for
minimum distortion", 1960: levels that are the means of their cells, between boundaries
halfway. Gish and Pierce, "Asymptotically efficient quantizing", 1968: with an entropy
code behind it, a uniform step is within 0.255 bits of the limit at every rate.

Rotated vectors have nearly Gaussian coordinates, so these quantizers fit every update
behind a rotation.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def density(x: Float64Array) -> Float64Array:
    """Density of N(0, 1), any shape; 0 at infinity."""
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def tail(x: Float64Array) -> Float64Array:
    """`P(X > x)` of N(0, 1), any shape, to full relative precision for `x > 0`."""
    return _erfc(x / math.sqrt(2)) / 2


class Cells(NamedTuple):
    """The cells between boundaries `[m + 1]` under N(0, 1).

    Attributes:
      probability: `P(cell)`, `[m]`.
      mean: `E[X | cell]`, `[m]`.
    """

    probability: Float64Array
    mean: Float64Array


def gaussian_cells(boundaries: Float64Array) -> Cells:
    """Probabilities and means of cells, for ascending `boundaries >= 0`, `[m + 1]`.

    >>> cells = gaussian_cells(np.array([0.0, np.inf]))
    >>> [round(float(x[0]), 4) for x in cells]  # sqrt(2 / pi)
    [0.5, 0.7979]
    """
    probability = -np.diff(tail(boundaries))
    return Cells(probability, -np.diff(density(boundaries)) / probability)


class Codebook(NamedTuple):
    """Levels of a scalar quantizer and where it changes from one to the next.

    Attributes:
      levels: ascending, float64 `[m]`.
      boundaries: between neighbours, float64 `[m - 1]`.
      distortion: `E (X - Q(X))^2` for X of N(0, 1).
    """

    levels: Float64Array
    boundaries: Float64Array
    distortion: float


@functools.cache
def lloyd_max(bits: int) -> Codebook:
    """The codebook of least squared error for N(0, 1) with `2**bits` levels.

    The fixed point `c_i = E[X | (c_{i-1} + c_i) / 2 < X < (c_i + c_{i+1}) / 2]`, on the
    positive half, by Newton's method: Lloyd's own iteration takes 10^5 steps at 8 bits.

    Args:
      bits: from 1 to 8.

    Returns:
      The codebook; its distortion is `1 - E Q(X)^2`, as levels are their cells' means.

    Example:
      >>> [round(lloyd_max(bits).distortion, 6) for bits in (1, 2, 3, 4)]
      [0.36338, 0.117482, 0.034548, 0.009501]
    """
    m = 1 << (bits - 1)
    # Quantiles of N(0, 3), the density to which the levels tend as they grow many, by
    # bisection: there is no inverse of erfc in the standard library.
    wanted = (m - np.arange(m) - 0.5) / (2 * m)
    low, high = np.zeros(m), np.full(m, 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = tail(middle / math.sqrt(3)) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    levels = low

    for _ in range(60):
        edges = _edges(levels)
        probability, mean = gaussian_cells(edges)
        # d mean_i / d edge at either end of cell i; the last edge is at infinity.
        rises = density(edges[1:-1]) * (edges[1:-1] - mean[:-1]) / probability[:-1] / 2
        falls = density(edges[1:-1]) * (mean[1:] - edges[1:-1]) / probability[1:] / 2
        jacobian = np.eye(m)
        inner = np.arange(m - 1)
        jacobian[inner, inner] -= rises
        jacobian[inner, inner + 1] -= rises
        jacobian[inner + 1, inner + 1] -= falls
        jacobian[inner + 1, inner] -= falls
        step = np.linalg.solve(jacobian, mean - levels)
        levels = np.sort(np.abs(levels + step))
        if np.max(np.abs(step)) < 1e-12:
            break
    probability, mean = gaussian_cells(_edges(levels))
    distortion = float(1 - 2 * np.sum(probability * mean**2))
    levels = np.concatenate([-mean[::-1], mean])
    return Codebook(levels, (levels[1:] + levels[:-1]) / 2, distortion)


def _edges(levels: Float64Array) -> Float64Array:
    return np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])


def uniform_entropy(step: float) -> float:
    """Entropy in bits of `round(X / step)` for X of N(0, 1).

    >>> round(uniform_entropy(1.0), 3)
    2.105
    """
    half = max(1, math.ceil(12 / step))
    edges = np.append((np.arange(half) + 0.5) * step, np.inf)
    each = -np.diff(tail(edges))
    every = np.concatenate([[1 - 2 * float(tail(edges[:1])[0])], each, each])
    present = every[every > 0]
    return float(-np.sum(present * np.log2(present)))


@functools.cache
def step_of_entropy(bits: float) -> float:
    """The step at which `round(X / step)` has an entropy of `bits`, X of N(0, 1).

    Args:
      bits: positive, at most 12.

    >>> round(step_of_entropy(2.0), 3)
    1.082
    """
    low, high = 1e-3, 20.0  # 12 bits and 1e-20 bits
    for _ in range(50):
        middle = math.sqrt(low * high)
        if uniform_entropy(middle) > bits:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
