"""The least error that any compressor can have at a rate, and the distance to it.

For independent Gaussian coordinates no code of `R` bits a coordinate has
`||C(x) - x||^2 / ||x||^2` below `4^-R` (Shannon 1959). Scaling the best code by
`1 / (1 - 4^-R)` makes it unbiased, and then its error is `1 / (4^R - 1)`, the least
that an unbiased code can have. Each class is compared with its own limit: top-k,
nearest rounding, scaled sign and casts are biased, so theirs is `4^-R`, the smaller.

Other vectors are easier than Gaussian ones of the same power. A compressor that uses
how they differ from Gaussian ones (top-k with heavy tails) may pass the limit, with a
gap below zero; it is also compared with the limits of models (`models.py`). A
compressor that rotates first sees Gaussian coordinates, whatever its input, and cannot
pass the limit.
"""

import itertools
import math


def least_error(rate_bits: float, *, unbiased: bool) -> float:
    """The limit of the vNMSE at a rate, for Gaussian coordinates.

    Args:
      rate_bits: `R`, bits a coordinate.
      unbiased: of which class.

    Returns:
      `1 / (4^R - 1)` for the unbiased, `4^-R` for the others.

    >>> round(least_error(1.0, unbiased=True), 4), least_error(1.0, unbiased=False)
    (0.3333, 0.25)
    """
    if unbiased:
        growth = math.expm1(2 * math.log(2) * rate_bits)
        return 1 / growth if growth > 0 else math.inf
    return 4.0**-rate_bits


def gap_in_bits(rate_bits: float, vnmse: float, *, unbiased: bool) -> float:
    """Bits a coordinate above the least rate at which `vnmse` is possible.

    `R - log2(1 + 1 / vnmse) / 2` for the unbiased, `R - log2(1 / vnmse) / 2` for the
    others; minus infinity for what loses nothing.

    >>> gap_in_bits(1.5, 1 / 3, unbiased=True)
    0.5
    >>> gap_in_bits(1.5, 1 / 4, unbiased=False)
    0.5
    """
    if vnmse <= 0:
        return -math.inf
    inverse = 1 / vnmse
    needed = math.log1p(inverse) if unbiased else math.log(inverse)
    return rate_bits - needed / (2 * math.log(2))


ECSQ = {0.1: 9.93, 0.5: 1.61, 1.0: 0.535, 2.0: 0.0976, 3.0: 0.0229, 4.0: 0.00563}
"""vNMSE of a uniform quantizer with an ideal entropy code, unbiased, at each rate, for
Gaussian coordinates."""


def ecsq_error(rate_bits: float) -> float | None:
    """The vNMSE of ECSQ at any rate in its table; its gap is interpolated linearly.

    >>> round(ecsq_error(2.0), 6)
    0.0976
    >>> ecsq_error(9.0) is None
    True
    """
    rates = sorted(ECSQ)
    for low, high in itertools.pairwise(rates):
        if low <= rate_bits <= high:
            gaps = [gap_in_bits(r, ECSQ[r], unbiased=True) for r in (low, high)]
            share = (rate_bits - low) / (high - low)
            gap = gaps[0] + share * (gaps[1] - gaps[0])
            return least_error(rate_bits - gap, unbiased=True)
    return None
