"""Every compressor and pipeline under the battery, with what it declares of itself.

To put a new compressor under all of the battery's checks, add one `Entry`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from fedjax_comp.base import Compressor
from fedjax_comp.compress import (
    by_rank,
    chain,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    low_rank,
    partition,
    qsgd,
    random_k,
    rotate,
    sign,
    stochastic_quantize,
    to_dtype,
    top_k,
)

Bound = Callable[[int], float]
"""`n -> c`, as in `||C(x) - x||^2 <= c ||x||^2` for a leaf `x` of `n` coordinates."""


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
    """

    name: str
    make: Callable[[], Compressor]
    mean_error: Bound
    worst_error: Bound
    unbiased: bool = False
    remembers: bool = False
    draws: bool = False


def exact(name: str, make: Callable[[], Compressor]) -> Entry:
    """Lossless, up to the rounding of float32."""
    return Entry(name, make, lambda n: 0.0, lambda n: 0.0, unbiased=True)


def contractive(
    name: str, make: Callable[[], Compressor], error: Bound, *, remembers: bool = False
) -> Entry:
    """Of bounded error in every draw, biased."""
    return Entry(name, make, error, error, remembers=remembers)


def unbiased(
    name: str, make: Callable[[], Compressor], mean: Bound, worst: Bound
) -> Entry:
    """Unbiased over the client's own noise."""
    return Entry(name, make, mean, worst, unbiased=True, draws=True)


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


BFLOAT16_ERROR = 2.0**-16  # the square of half a unit in the eighth significant bit

COMPRESSORS = (
    exact("identity", identity),
    exact("rotate", rotate),
    exact("flattened_rotate", lambda: flattened(rotate())),
    contractive("to_bfloat16", lambda: to_dtype("bfloat16"), lambda n: BFLOAT16_ERROR),
    contractive("top_k", lambda: top_k(0.3), lambda n: 1 - kept(n, 0.3) / n),
    unbiased(
        "random_k",
        lambda: random_k(0.3),
        lambda n: n / kept(n, 0.3) - 1,
        lambda n: max(1.0, (n / kept(n, 0.3) - 1) ** 2),
    ),
    unbiased(
        "stochastic_quantize", lambda: stochastic_quantize(levels=5), *uniform_error(5)
    ),
    contractive(
        "nearest_quantize",
        lambda: stochastic_quantize(levels=5, rounding="nearest"),
        uniform_error(5)[0],
    ),
    unbiased("qsgd", lambda: qsgd(levels=3), *qsgd_error(3)),
    contractive("sign", sign, lambda n: 1 - 1 / n),
    # A vector has no factors and a matrix of 4 columns at least a quarter of itself.
    contractive("low_rank", lambda: low_rank(1), lambda n: 3 / 4),
    unbiased(
        "rotate_quantize",
        lambda: flattened(chain(rotate(), stochastic_quantize(levels=5))),
        *uniform_error(5),
    ),
    unbiased(
        "qsgd_entropy_coded",
        lambda: chain(qsgd(levels=3), entropy_coded()),
        *qsgd_error(3),
    ),
    contractive(
        "top_k_quantize_entropy_coded",
        lambda: chain(
            top_k(0.5),
            stochastic_quantize(levels=64, rounding="nearest"),
            entropy_coded(),
        ),
        lambda n: 1 - kept(n, 0.5) / n + uniform_error(64)[0](kept(n, 0.5)),
    ),
    contractive(
        "partition",
        lambda: partition(
            {"matrix": chain(low_rank(1), to_dtype("bfloat16")), "rest": identity()},
            by_rank,
        ),
        # Rounding both factors adds at most about twice their relative error.
        lambda n: (math.sqrt(3 / 4) + 3 * math.sqrt(BFLOAT16_ERROR)) ** 2,
    ),
    contractive(
        "error_feedback_top_k",
        lambda: error_feedback(top_k(0.3)),
        lambda n: 1 - kept(n, 0.3) / n,
        remembers=True,
    ),
    contractive(
        "error_feedback_pipeline",
        lambda: error_feedback(
            flattened(
                chain(
                    top_k(0.5),
                    stochastic_quantize(levels=64, rounding="nearest"),
                    entropy_coded(),
                )
            )
        ),
        lambda n: 1 - kept(n, 0.5) / n + uniform_error(64)[0](kept(n, 0.5)),
        remembers=True,
    ),
)
