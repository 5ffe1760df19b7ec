"""Noise on integers, from random bytes: discrete Gaussian and Skellam.

Canonne, Kamath and Steinke, "The discrete Gaussian for differential privacy", 2020;
Agarwal, Kairouz and Liu, "The Skellam mechanism for differentially private federated
learning", 2021. Both are drawn by inverting a table of the distribution with 63 random
bits a number. The total variation distance to the distribution itself is below 1e-12,
and the noise is as good as the random bytes are (`os.urandom` is cryptographic). The
time that drawing takes may reveal what was drawn.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from fedjax_comp import checks
from fedjax_comp.privacy.masks import RandomBytes

MAX_STDDEV = 1e5
"""The table has some twenty entries for each unit of the standard deviation."""

_BITS = 63


def _gaussian_weights(stddev: float) -> tuple[int, npt.NDArray[np.float64]]:
    # Ten standard deviations hold all but 2e-23 of it.
    high = math.ceil(10 * stddev + 10)
    k = np.arange(-high, high + 1, dtype=np.float64)
    # The square of a tiny deviation is 0, and so is that of k = 0.
    return -high, np.exp(-(k**2) / max(2 * stddev**2, 1e-300))


def _poisson_weights(mean: float) -> tuple[int, npt.NDArray[np.float64]]:
    spread = 10 * math.sqrt(mean) + 60
    mode = math.floor(mean)
    low, high = max(0, math.floor(mean - spread)), math.ceil(mean + spread)
    # From the mode by ratios: the logarithms of factorials would cancel.
    above = np.cumsum(np.log(mean / np.arange(mode + 1, high + 1)))
    below = np.cumsum(np.log(np.arange(mode, low, -1) / mean))[::-1]
    return low, np.exp(np.concatenate([below, np.zeros(1), above]))


@functools.lru_cache(maxsize=8)
def _table(kind: str, parameter: float) -> tuple[int, npt.NDArray[np.uint64]]:
    """The lowest value and, for each value but the last, `2**63 P(X <= value)`."""
    weights_of = {"gaussian": _gaussian_weights, "poisson": _poisson_weights}[kind]
    low, weights = weights_of(parameter)
    counts = np.round(weights / weights.sum() * 2.0**_BITS).astype(np.uint64)
    # Whole counts add up without rounding; what they miss goes to the likeliest value.
    missing, mode = (1 << _BITS) - int(counts.sum()), np.argmax(weights)
    counts[mode] = int(counts[mode]) + missing
    return low, np.cumsum(counts)[:-1]


def gaussian_table(stddev: float) -> tuple[int, npt.NDArray[np.uint64]]:
    """The table of a discrete Gaussian, for whoever draws elsewhere.

    Returns:
      The lowest value and, for each value but the last, `2**63 P(X <= value)`.

    >>> low, thresholds = gaussian_table(1.0)
    >>> low, int(thresholds[-low - 1]) < 2**62 < int(thresholds[-low])
    (-20, True)
    """
    return _table("gaussian", stddev)


def _invert(
    random_bytes: RandomBytes, n: int, table: tuple[int, npt.NDArray[np.uint64]]
) -> npt.NDArray[np.int64]:
    low, thresholds = table
    words = np.frombuffer(random_bytes(8 * n), np.uint64) >> np.uint64(64 - _BITS)
    return low + np.searchsorted(thresholds, words, side="right").astype(np.int64)


def discrete_gaussian(
    random_bytes: RandomBytes, n: int, *, stddev: float
) -> npt.NDArray[np.int64]:
    """Discrete Gaussian noise: integers with the density of a Gaussian.

        P(X = k) = exp(-k^2 / (2 stddev^2)) / sum_j exp(-j^2 / (2 stddev^2))

    Its variance is at most `stddev^2`. A sum of such is not quite one again
    (`discrete_gaussian_zcdp` in `accounting` says what that costs).

    Args:
      random_bytes: `os.urandom`.
      n: how many.
      stddev: in (0, 1e5].

    Returns:
      int64 `[n]`.

    Raises:
      ValueError: when an argument is not as above.

    >>> import os
    >>> abs(discrete_gaussian(os.urandom, 1000, stddev=0.01)).max()
    np.int64(0)
    """
    n = checks.integer("n", n, minimum=0)
    stddev = checks.between("stddev", stddev, above=0, at_most=MAX_STDDEV)
    return _invert(random_bytes, n, gaussian_table(stddev))


def skellam(
    random_bytes: RandomBytes, n: int, *, variance: float
) -> npt.NDArray[np.int64]:
    """Skellam noise: the difference of two Poisson numbers of mean `variance / 2`.

    Sums of such are Skellam again, of the sum of the variances: what a cohort adds up
    to is exactly known.

    Args:
      random_bytes: `os.urandom`.
      n: how many.
      variance: in (0, 1e10].

    Returns:
      int64 `[n]`.

    Raises:
      ValueError: when an argument is not as above.

    >>> import os
    >>> skellam(os.urandom, 3, variance=4.0).shape
    (3,)
    """
    n = checks.integer("n", n, minimum=0)
    variance = checks.between("variance", variance, above=0, at_most=MAX_STDDEV**2)
    table = _table("poisson", variance / 2)
    return _invert(random_bytes, n, table) - _invert(random_bytes, n, table)
