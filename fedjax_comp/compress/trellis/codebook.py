"""Levels for the windows of a trellis: trained where they exist, else spread evenly.

The trained ones come from Lloyd's iteration (`experiments.benchmark.trellis_training`):
encode Gaussian vectors, then move each level to the mean of what was coded by it. They
are in `codebooks.npz` as float16, 2 bytes a number, named `states_k_v`.
"""

import functools
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

_TRAINED = Path(__file__).with_name("codebooks.npz")


def spread_codebook(states: int, width: int, v: int) -> Float32Array:
    """Levels at the quantiles of N(0, 1 - 4^-R), float32 `[states, v]`.

    For `v = 1` windows that differ in their last step only, between which the encoder
    chooses, fall into different `2**-k` quantiles; beyond that the order is random,
    the same everywhere.

    Args:
      states: `2**L`.
      width: `k`, bits a step.
      v: coordinates a step; `R = k / v`.

    >>> levels = spread_codebook(256, 1, 1)
    >>> bool(np.all(np.sign(levels[0::2]) == -np.sign(levels[1::2])))
    True
    """
    branches = 1 << width
    groups = states // branches
    # Unlike that of a Generator, the stream of RandomState is frozen: both ends of a
    # link come to the same levels whatever version of NumPy they have.
    random = np.random.RandomState(0)
    if v == 1:
        place = np.stack([random.permutation(groups) for _ in range(branches)], 1)
        order = np.stack([random.permutation(branches) for _ in range(groups)])
        quantile = (order + (place + 0.5) / groups) / branches
    else:
        place = np.stack([random.permutation(states) for _ in range(v)], 1)
        quantile = (place + 0.5) / states
    inverse = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
    levels = inverse(quantile.reshape(states, v)) * np.sqrt(1 - 4.0 ** (-width / v))
    return levels.astype(np.float32)


@functools.cache
def gaussian_codebook(states: int, width: int, v: int) -> Float32Array:
    """The levels of `trellis`, float32 `[states, v]`.

    Args:
      states: `2**L`.
      width: `k`, bits a step.
      v: coordinates a step.

    Returns:
      Trained levels, or those of `spread_codebook` where there are none.

    >>> gaussian_codebook(256, 1, 2).shape
    (256, 2)
    """
    with np.load(_TRAINED, allow_pickle=False) as trained:
        name = f"{states}_{width}_{v}"
        if name in trained:
            levels: Float32Array = trained[name].astype(np.float32)
            return levels
    return spread_codebook(states, width, v)
