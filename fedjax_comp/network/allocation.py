"""Optimal shares of bits: over clients by water-filling, over layers by a knapsack.

Water-filling: Cover and Thomas, "Elements of information theory", 2006, theorem 10.3.3,
for the distortion `4^-R` of rate `R`. Knapsack: Markov, Alimohammadi, Frantar and
Alistarh, "L-GreCo: layerwise-adaptive gradient compression", 2024, algorithm 1.
"""

import numpy as np


def water_filling(
    importance: np.ndarray, caps: np.ndarray, total: float = np.inf
) -> np.ndarray:
    """Rates that minimise a weighted sum of distortions within a sum of rates.

        minimise  sum_i a_i 4^(-R_i)   s.t.  sum_i R_i <= total,  0 <= R_i <= cap_i,

    solved by `R_i = clip(log2(a_i / level) / 2, 0, cap_i)` with the level at which the
    sum is reached; between two breakpoints the sum is linear in the level's logarithm.

    Args:
      importance: `a_i = w_i^2 ||x_i||^2`, not negative, `[C]`.
      caps: most bits a coordinate, e.g. `rate_i time_i / n`, not negative, `[C]`.
      total: of the bits a coordinate of all clients.

    Returns:
      Bits a coordinate, `[C]`.

    Raises:
      ValueError: for negative arguments.

    >>> water_filling(np.array([16.0, 1.0]), np.array([9.0, 9.0]), 4.0).tolist()
    [3.0, 1.0]
    """
    a, caps = np.asarray(importance, np.float64), np.asarray(caps, np.float64)
    if np.any(a < 0) or np.any(caps < 0) or total < 0:
        raise ValueError("Expected importance, caps and total of at least 0.")
    if caps.sum() <= total:
        return caps
    used = a > 0
    rates = np.zeros_like(caps)
    height = np.log2(a[used]) / 2
    # As the level falls, a client begins at its height and stops `cap` below it.
    levels = np.sort(np.concatenate([height, height - caps[used]]))[::-1]

    def filled(level: float) -> np.ndarray:
        return np.clip(height - level, 0, caps[used])

    if not used.any() or filled(levels[-1]).sum() <= total:
        rates[used] = caps[used]
        return rates
    sums = np.array([filled(level).sum() for level in levels])
    i = int(np.searchsorted(sums, total, side="right"))
    share = (total - sums[i - 1]) / (sums[i] - sums[i - 1])
    rates[used] = filled(levels[i - 1] + share * (levels[i] - levels[i - 1]))
    return rates


def layer_knapsack(
    errors: np.ndarray, sizes: np.ndarray, allowed: float, *, steps: int = 10_000
) -> np.ndarray:
    """The choice for each layer with the least total size within an allowed error.

    Dynamic programming over the error in whole steps. An error is rounded up, so that
    the allowed one is never exceeded; with `L` layers the choice is the best one for an
    allowance smaller by at most `L / steps` of it.

    Args:
      errors: of each choice in each layer, not negative, `[L, R]`.
      sizes: of each, `[L, R]`.
      allowed: their sum is at most this; at least the least sum there is.
      steps: into which the allowed error is divided.

    Returns:
      The index of each layer's choice, int64 `[L]`.

    Raises:
      ValueError: when the shapes differ or no choice is allowed.

    >>> layer_knapsack(np.array([[4.0, 1.0], [4.0, 1.0]]),
    ...                np.array([[1.0, 9.0], [1.0, 5.0]]), 5.0).tolist()
    [0, 1]
    """
    errors, sizes = np.asarray(errors, np.float64), np.asarray(sizes, np.float64)
    if errors.shape != sizes.shape or errors.ndim != 2 or errors.size == 0:
        raise ValueError(
            f"Expected errors {errors.shape} and sizes {sizes.shape} to be [L, R]."
        )
    if steps < 1:
        raise ValueError(f"Expected steps={steps} >= 1.")
    unit = allowed / steps
    # One part in 10^9 is the division's own rounding, not an error.
    units = np.full(errors.shape, steps + 1, np.int64)
    if unit > 0:
        units = np.minimum(np.ceil(errors / unit - 1e-9), steps + 1).astype(np.int64)
    else:
        units = np.where(errors > 0, steps + 1, 0)
    best = np.zeros(steps + 1)
    chosen = np.zeros((errors.shape[0], steps + 1), np.int64)
    for layer in range(errors.shape[0]):
        options = np.full((errors.shape[1], steps + 1), np.inf)
        for r, cost in enumerate(units[layer]):
            if cost <= steps:
                options[r, cost:] = best[: steps + 1 - cost] + sizes[layer, r]
        chosen[layer] = np.argmin(options, axis=0)
        best = np.min(options, axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError(
            f"Expected allowed={allowed:g} of at least {errors.min(axis=1).sum():g}, "
            "the least error of all choices, and a few steps more."
        )
    picks, left = np.zeros(errors.shape[0], np.int64), steps
    for layer in reversed(range(errors.shape[0])):
        picks[layer] = chosen[layer, left]
        left -= units[layer, picks[layer]]
    return picks
