"""Differential privacy without a trusted party: every client adds a share of noise.

Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated
learning with secure aggregation", 2021, algorithm 1, and Agarwal, Kairouz and Liu, "The
Skellam mechanism for differentially private federated learning", 2021: clip, scale,
round at random so that the length stays bounded, add noise on integers, reduce modulo
`2**bits`, sum under masks. The server sees a sum that is noisy already.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_comp import checks
from fedjax_comp.privacy.masks import RandomBytes
from fedjax_comp.privacy.messages import Setting
from fedjax_comp.privacy.secure_sum import SecureSum, Step, secure_sum

Integers = npt.NDArray[np.int64]
Sample = Callable[[RandomBytes, int], Integers]
"""`(random_bytes, n) -> int64 [n]`: one client's noise."""

_MOST_TRIALS = 200


class Rounding(NamedTuple):
    """A clipped vector's way to integers.

    Attributes:
      clip: the largest Euclidean norm before, in the update's own units.
      step: what the integer 1 stands for.
      n: coordinates.
      bound: the largest Euclidean norm of the integers: their sensitivity when a
        client joins or leaves.
    """

    clip: float
    step: float
    n: int
    bound: float


def bounded_rounding(
    *, clip: float, step: float, n: int, bias: float = math.exp(-0.5)
) -> Rounding:
    """How to round vectors of norm `clip` without making them much longer.

    With `g = step` and `c = clip`, integers are drawn again until their norm is at most

        min(c/g + sqrt(n),
            sqrt((c/g)^2 + n/4 + sqrt(2 log(1/bias)) (c/g + sqrt(n)/2)))

    which random rounding exceeds with a probability of at most `bias` (Kairouz, Liu and
    Steinke 2021, equation 1); a rotation before makes no difference to the norm, but
    keeps single coordinates small, so that fewer bits do.

    Args:
      clip: positive.
      step: positive; small against `clip / sqrt(n)` the bound is nearly `clip / step`.
      n: coordinates, at least 1.
      bias: in (0, 1); the smaller, the rarer a second draw and the longer the bound.

    Returns:
      A `Rounding`.

    Raises:
      ValueError: when an argument is not as above.

    >>> round(bounded_rounding(clip=1.0, step=0.001, n=100).bound)
    1001
    """
    clip = checks.between("clip", clip, above=0, at_most=1e30)
    step = checks.between("step", step, above=0, at_most=1e30)
    n = checks.integer("n", n, minimum=1)
    bias = checks.number("bias", bias, minimum=1e-300, below=1.0)
    length = clip / step
    likely = math.sqrt(
        length**2 + n / 4 + math.sqrt(-2 * math.log(bias)) * (length + math.sqrt(n) / 2)
    )
    return Rounding(clip, step, n, min(length + math.sqrt(n), likely))


def round_bounded(
    random_bytes: RandomBytes, vector: npt.NDArray[np.floating], rounding: Rounding
) -> Integers:
    """Clips a vector and rounds it to integers of a norm of at most `rounding.bound`.

    Args:
      random_bytes: `os.urandom`.
      vector: float `[n]`, finite.
      rounding: from `bounded_rounding`.

    Returns:
      int64 `[n]`, whose mean is `vector / step` but for the little that drawing again
      takes from it.

    Raises:
      ValueError: for a vector of another length or with numbers that are not finite.

    >>> import os
    >>> rounding = bounded_rounding(clip=5.0, step=1.0, n=2)
    >>> round_bounded(os.urandom, np.array([30.0, 40.0]), rounding).tolist()
    [3, 4]
    """
    if vector.shape != (rounding.n,) or not np.all(np.isfinite(vector)):
        raise ValueError(
            f"Expected a finite vector of n={rounding.n}, got shape {vector.shape}: a "
            "client whose update is broken must drop out."
        )
    x = vector.astype(np.float64)
    length = float(np.linalg.norm(x))
    scaled = x * (min(1.0, rounding.clip / max(length, rounding.clip)) / rounding.step)
    low = np.floor(scaled)
    for _ in range(_MOST_TRIALS):
        words = np.frombuffer(random_bytes(8 * rounding.n), np.uint64)
        uniform = (words >> np.uint64(11)) * 2.0**-53
        drawn = (low + (uniform < scaled - low)).astype(np.int64)
        if np.sum(drawn.astype(np.float64) ** 2) <= rounding.bound**2:
            return drawn
    # Towards zero no coordinate grows: the norm is below clip / step.
    return np.trunc(scaled).astype(np.int64)


def private_sum(
    random_bytes: RandomBytes,
    setting: Setting,
    vectors: list[npt.NDArray[np.floating]],
    rounding: Rounding,
    noise: Sample,
    *,
    drops: dict[int, Step] | None = None,
) -> tuple[npt.NDArray[np.float64], SecureSum]:
    """The sum of clipped vectors with every client's noise on it, under masks.

        step * sum_i (round(clip(x_i) / step) + noise_i)   modulo 2**bits

    Clients that leave take their noise with them: compute epsilon for the fewest that
    may stay, `setting.threshold` of them, or for the number that did stay.

    Args:
      random_bytes: `os.urandom`.
      setting: of the sum; its `bits` must hold sum and noise (`bits_for_noise`).
      vectors: float `[n]`, one a client. A compressor may have made them, if it is
        linear: what is clipped here is what is sent.
      rounding: from `bounded_rounding`.
      noise: one client's, such as
        `lambda random_bytes, n: skellam(random_bytes, n, variance=100.0)`.
      drops: as for `secure_sum`.

    Returns:
      The noisy sum, float64 `[n]`, and what became of the secure sum.

    Raises:
      ValueError: when a vector does not fit.
      TooFewParties: when fewer than the threshold are left.
    """
    noisy = [
        round_bounded(random_bytes, vector, rounding) + noise(random_bytes, rounding.n)
        for vector in vectors
    ]
    result = secure_sum(random_bytes, setting, noisy, drops=drops)
    return result.total.astype(np.float64) * rounding.step, result


def bits_for_noise(rounding: Rounding, parties: int, stddev: float) -> int:
    """Bits of a modulus that a noisy sum leaves with negligible probability.

    Room for one coordinate of `parties` vectors, all of it in one place, and 8 standard
    deviations of the sum's noise: a coordinate wraps with a probability of some 1e-15.

    Args:
      rounding: from `bounded_rounding`.
      parties: `C`.
      stddev: of one client's noise, in integers.

    Returns:
      An integer in [1, 64].

    Raises:
      ValueError: when 64 bits do not hold it.

    >>> bits_for_noise(bounded_rounding(clip=1.0, step=0.01, n=10), 10, 20.0)
    12
    """
    largest = parties * rounding.bound + 8 * math.sqrt(parties) * stddev
    bits = math.ceil(largest).bit_length() + 1
    if bits > 64:
        raise ValueError(
            f"Expected a sum of at most 64 bits, got {bits}: take a larger "
            f"step={rounding.step}."
        )
    return bits
