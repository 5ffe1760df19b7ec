"""Information limits for models of an update, beside the limit for white vectors.

An update is easier to code than a white vector of its norm; how much depends on what is
known about it. A model treats the update as independent Gaussian numbers with given
variances. The least bits at an error are then those of reverse water-filling (Cover and
Thomas, "Elements of information theory", section 10.3.3): with a water level `t`,

    bits = sum log2(max(v / t, 1)) / 2,   error = sum min(v, t).

There is a model for each of two compressors; the variances cost no bits:

- row x column: `v_ij = row_i column_j / mean`, as of `separable`,
- directions: the factors `s_k u_k` and `s_k v_k` of each matrix, white, as of
  `coded_low_rank`; a direction is left out if its error and bits cost more than that.

A compressor that knows more about an update may pass the limit of a model.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedjax_comp.run_directory import Json

Curve = tuple[np.ndarray, np.ndarray]
"""Bits and squared error at each water level."""

ERRORS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


def white(variance: float, count: int, levels: np.ndarray) -> Curve:
    """Of `count` numbers of one variance, at each water level."""
    if variance == 0:
        return np.zeros_like(levels), np.zeros_like(levels)
    bits = count * np.log2(np.maximum(variance / levels, 1)) / 2
    return bits, count * np.minimum(variance, levels)


def row_column(matrix: np.ndarray, levels: np.ndarray) -> Curve:
    """Of a leaf with energies of its rows and columns."""
    square = matrix**2
    mean = square.mean()
    if min(matrix.shape) == 1 or mean == 0:
        return white(mean, matrix.size, levels)
    variances = np.outer(square.mean(1), square.mean(0) / mean).ravel()
    variances = np.sort(variances[variances > 0])
    # Sums over what is above a level, and below it.
    logs = np.concatenate([[0], np.cumsum(np.log2(variances))])
    sums = np.concatenate([[0], np.cumsum(variances)])
    below = np.searchsorted(variances, levels)
    above = variances.size - below
    bits = (logs[-1] - logs[below] - above * np.log2(levels)) / 2
    return bits, sums[below] + above * levels


def directions(matrix: np.ndarray, levels: np.ndarray) -> Curve:
    """Of a leaf by its singular vectors."""
    m, n = matrix.shape
    if min(m, n) == 1:
        return white((matrix**2).mean(), matrix.size, levels)
    energy = np.linalg.svd(matrix, compute_uv=False)[:, None] ** 2
    safe = np.maximum(energy, np.finfo(float).tiny)
    bits = sum(k * np.log2(np.maximum(safe / (k * levels), 1)) / 2 for k in (m, n))
    error = (m + n) * levels
    # At the optimum a bit is worth `2 ln 2` levels of squared error.
    travels = error + 2 * np.log(2) * levels * bits < energy
    return np.where(travels, bits, 0).sum(0), np.where(travels, error, energy).sum(0)


MODELS: Mapping[str, Callable[[np.ndarray, np.ndarray], Curve]] = {
    "row x column energies": row_column,
    "singular directions": directions,
}


def limit(model: str, update: Sequence[np.ndarray]) -> Curve:
    """Bits a coordinate, and vNMSE, of an update under a model, along the levels.

    Args:
      model: of `MODELS`.
      update: its leaves; kernels are matrices `[height width inputs, outputs]`.

    >>> bits, error = limit("row x column energies", [np.ones(8)])
    >>> i = np.searchsorted(bits[::-1], 1.0)  # a white vector: 4^-1 at one bit
    >>> round(float(error[::-1][i]), 2)
    0.25
    """
    leaves = [np.asarray(leaf, np.float64) for leaf in update]
    matrices = [
        leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 1 else leaf.reshape(1, -1)
        for leaf in leaves
    ]
    energy = sum(float((matrix**2).sum()) for matrix in matrices)
    n = sum(matrix.size for matrix in matrices)
    levels = energy / n * np.geomspace(1e-5, 1e5, 1001)
    curves = [MODELS[model](matrix, levels) for matrix in matrices]
    bits, error = (sum(parts) for parts in zip(*curves, strict=True))
    return bits / n, error / energy


def bits_of(model: str, updates: Sequence[Sequence[np.ndarray]]) -> dict[float, float]:
    """Bits a coordinate at each of `ERRORS`, the mean over clients."""
    found = []
    for update in updates:
        bits, error = limit(model, update)
        found.append(np.interp(np.log(ERRORS), np.log(error), bits))
    return dict(zip(ERRORS, np.mean(found, axis=0).tolist(), strict=True))


def measured(error: float, bits: float, n: int, clients: int) -> Json:
    """The columns of a `Measurement` that a limit has."""
    nothing = (
        "bias bias_noise bias_score nmse encode_seconds decode_seconds pack_seconds"
    )
    return {
        "rate_bits": bits,
        "vnmse": error,
        "vnmse_rescaled": error / (1 - error),
        **dict.fromkeys(nothing.split()),
        "messages": clients,
        "written": 0,
        "n": n,
    }
