"""How far a mean of draws may be from its expectation, as a bound and not a feeling.

Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization", 2009,
theorem 4: of `T` independent draws from an interval of length `w`, with variance `V` as
computed from them,

    |mean - expectation| <= sqrt(2 V log(4 / a) / T) + 7 w log(4 / a) / (3 (T - 1))

but for a chance of `a`. What varies little is held to little, whatever it may do.
"""

import numpy as np
import numpy.typing as npt


def mean_radius(
    draws: npt.NDArray[np.float64], width: float, *, alarm: float
) -> npt.NDArray[np.float64]:
    """How far the mean over the first axis may be off.

    Args:
      draws: `[T, ...]`, independent along the first axis.
      width: `w`, of an interval that holds all of them.
      alarm: `a`, the chance of a false alarm in each mean.

    Returns:
      float64, the shape of one draw.

    >>> float(mean_radius(np.zeros(8), 0.0, alarm=1e-9))
    0.0
    """
    trials, log = draws.shape[0], np.log(4 / alarm)
    spread = np.sqrt(2 * log / trials * np.var(draws, axis=0, ddof=1))
    return np.asarray(spread + 7 * width * log / (3 * (trials - 1)))
