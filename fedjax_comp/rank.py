"""The rank that a matrix needs, from its singular values, on the host or inside jit."""

from typing import Any


def rank_for_energy(s: Any, energy: float) -> Any:
    """The least rank that holds a share of a matrix's energy.

        r = min{r : sum_{i <= r} s_i^2 >= energy * sum_i s_i^2},   0 for zeros.

    A matrix that is not finite has a rank above 0, so that it is sent and noticed.

    Args:
      s: singular values in descending order, floats `[d]` of JAX or of NumPy.
      energy: in (0, 1]; at 1 every singular value counts, however small.

    Returns:
      uint32 scalar in `[0, d]`, of JAX or of NumPy as `s` is.

    >>> import numpy as np
    >>> int(rank_for_energy(np.array([3.0, 2.0, 1.5, 1.0]), 0.75))
    2
    """
    xp = s.__array_namespace__()
    # Squares of tiny or huge numbers would leave the range of float32, and so would
    # one over the largest.
    s = s * xp.where(s[0] > 1, 0.25, 4.0).astype(s.dtype)
    reached = xp.cumsum(xp.square(s / xp.where(s[0] > 0, s[0], 1.0)))
    if energy == 1.0:
        short = xp.full((), s.shape[0] - 1, xp.uint32)
    else:
        short = xp.sum(reached[:-1] < energy * reached[-1], dtype=xp.uint32)
    return xp.where(s[0] == 0, xp.uint32(0), short + xp.uint32(1))
