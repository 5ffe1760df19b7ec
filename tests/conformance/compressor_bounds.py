"""What a compressor may declare of its error, and the published bounds on it."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from fedjax_comp.base import Compressor

Bound = Callable[[int], float]
"""`n -> c`, as in `||C(x) - x||^2 <= c ||x||^2` for a leaf `x` of `n` coordinates."""

Whose = Literal["client", "round"]
"""A key: each client's own in every round, or the round's, the same for a cohort."""


class Entry(NamedTuple):
    """A compressor and the properties that hold for every input.

    Attributes:
      name: of the test.
      make: a factory of the compressor; called anew, it must give the same behaviour.
      mean_error: bound on `E||C(x) - x||^2 / ||x||^2`.
      worst_error: bound on `||C(x) - x||^2 / ||x||^2` in every draw.
      unbiased: whether `E C(x) = x`.
      remembers: whether `sum_t C(x_t)` follows `sum_t x_t` (error feedback).
      draws: whether the noise of two clients differs.
      shared: whether it is the round's, the same for all clients.
      keyed: whose key the messages depend on where neither of the two is declared: the
        errors of two clients may be the same, or not noise.
      scales: whether `C(2^e x) = 2^e C(x)` as long as nothing leaves float32's range.
      fewer_draws: how many times fewer its statistics are taken of: where errors are
        small, less is enough to see the same fault of scale, and that is tested.
    """

    name: str
    make: Callable[[], Compressor]
    mean_error: Bound
    worst_error: Bound
    unbiased: bool = False
    remembers: bool = False
    draws: bool = False
    shared: bool = False
    scales: bool = True
    keyed: Whose | None = None
    fewer_draws: int = 1

    @property
    def message_key(self) -> Whose | None:
        """Whose key makes messages of the same numbers differ; None where none does."""
        if self.draws or self.shared:
            return "client" if self.draws else "round"
        return self.keyed


def exact(
    name: str, make: Callable[[], Compressor], *, keyed: Whose | None = None
) -> Entry:
    """Lossless, up to the rounding of float32."""
    return Entry(name, make, lambda n: 0.0, lambda n: 0.0, unbiased=True, keyed=keyed)


def contractive(
    name: str,
    make: Callable[[], Compressor],
    error: Bound,
    *,
    remembers: bool = False,
    scales: bool = True,
    keyed: Whose | None = None,
) -> Entry:
    """Of bounded error in every draw, biased."""
    return Entry(
        name, make, error, error, remembers=remembers, scales=scales, keyed=keyed
    )


def unbiased(
    name: str,
    make: Callable[[], Compressor],
    mean: Bound,
    worst: Bound,
    *,
    scales: bool = True,
) -> Entry:
    """Unbiased over the client's own noise."""
    return Entry(name, make, mean, worst, unbiased=True, draws=True, scales=scales)


def kept(n: int, fraction: float) -> int:
    return max(1, round(n * fraction))


def uniform_error(levels: int) -> tuple[Bound, Bound]:
    """Between two levels the variance is at most a quarter of the squared step, and
    `(max - min)^2 <= 2 ||x||^2`; in every draw the error is below a step.
    """

    def mean(n: int) -> float:
        return n / (2 * (levels - 1) ** 2)

    return mean, lambda n: 4 * mean(n)


def qsgd_error(s: int) -> tuple[Bound, Bound]:
    """Alistarh et al. (2017), lemma 3.1; in every draw the error is below a level."""
    return lambda n: min(n / s**2, math.sqrt(n) / s), lambda n: n / s**2


def dithering_error(s: int) -> tuple[Bound, Bound]:
    """Between powers of two the error is below the number; below all, below a level."""
    low = 2.0 ** (1 - s)

    def mean(n: int) -> float:
        return 1 / 8 + min(math.sqrt(n) * low, n * low**2 / 4)

    return mean, lambda n: 1 + n * low**2


def levels_error(largest: float, smallest: float) -> Bound:
    """`1 / cos^2 - 1` of the angle to the levels: `<x, q> >= smallest ||x||_1`, and
    `||q|| <= largest sqrt(n)`.
    """
    return lambda n: n * (largest / smallest) ** 2 - 1


BFLOAT16_ERROR = 2.0**-16  # the square of half a unit in the eighth significant bit
