"""The privacy that some rounds cost: epsilon, at a given delta.

Where every client takes part in every round, epsilon has a closed form and needs no
library: Balle and Wang, "Improving the Gaussian mechanism for differential privacy",
2018, theorem 8. For cohorts that are sampled without replacement `dp-accounting`, an
optional dependency, computes it: Rényi divergences of the subsampled Gaussian (Wang,
Balle and Kasiviswanathan, 2019, theorem 27). For noise on integers: Kairouz, Liu and
Steinke 2021, theorem 1; Agarwal, Kairouz and Liu 2021, theorem 3.5.

The unit of protection is a client with all its examples, in one run with one setting:
each further setting that is tried on the same clients costs as much again.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType

from fedjax_comp import checks
from fedjax_comp.extras import needs

ORDERS = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""The orders of Rényi divergences that are tried."""

_LARGEST_EPSILON = 1e6


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def gaussian_delta(epsilon: float, *, noise_multiplier: float) -> float:
    """The least delta of one Gaussian mechanism.

        delta = Phi(1/(2z) - epsilon z) - e^epsilon Phi(-1/(2z) - epsilon z)

    Args:
      epsilon: at least 0.
      noise_multiplier: `z`, the noise's standard deviation over the sensitivity.

    Returns:
      delta, in [0, 1]; 1 without noise.

    Raises:
      ValueError: when an argument is not as above.

    >>> round(gaussian_delta(1.0, noise_multiplier=1.0), 4)
    0.1269
    """
    checks.number("epsilon", epsilon, minimum=0.0, below=math.inf)
    _check_noise(noise_multiplier)
    if noise_multiplier == 0:
        return 1.0
    z = noise_multiplier
    first = _normal_cdf(0.5 / z - epsilon * z)
    second = _normal_cdf(-0.5 / z - epsilon * z)
    if second == 0.0 or epsilon > 700:
        return first
    return max(0.0, first - math.exp(epsilon) * second)


def gaussian_epsilon(*, noise_multiplier: float, rounds: int, delta: float) -> float:
    """Epsilon of `rounds` Gaussian mechanisms, each on everybody's data; exact.

    Together they are one of noise multiplier `z / sqrt(rounds)`.

    Args:
      noise_multiplier: `z`, the noise's standard deviation over the sensitivity: over
        `clip` when a client may join or leave, over `2 clip` when it may be replaced.
      rounds: how many.
      delta: in (0, 1).

    Returns:
      The least epsilon; `inf` without noise.

    Raises:
      ValueError: when an argument is not as above.

    >>> round(gaussian_epsilon(noise_multiplier=1.0, rounds=1, delta=1e-5), 3)
    4.377
    """
    _check(noise_multiplier, rounds, delta)
    if rounds == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    z = noise_multiplier / math.sqrt(rounds)

    def enough(epsilon: float) -> bool:
        return gaussian_delta(epsilon, noise_multiplier=z) <= delta

    if enough(0.0):
        return 0.0
    high = 1.0
    while not enough(high):
        high *= 2
        if high > _LARGEST_EPSILON:
            return math.inf
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def cohort_epsilon(
    *,
    noise_multiplier: float,
    rounds: int,
    delta: float,
    cohort_size: int,
    population: int,
) -> float:
    """Epsilon of DP-FedAvg: cohorts of a fixed size, drawn without replacement.

    Two populations are neighbours when one client is *replaced* by another, which moves
    the sum of clipped updates by up to `2 clip`. (The number of clients is public.)
    Drawing a cohort never costs privacy, so epsilon is at most that of everybody in
    every round. The bound for samples alone exceeds that where the cohort is nearly
    everybody.

    Args:
      noise_multiplier: the noise's standard deviation on the sum, over `clip`.
      rounds: how many.
      delta: in (0, 1); below `1 / population` to mean anything.
      cohort_size: `C`.
      population: `K`.

    Returns:
      epsilon; `inf` without noise.

    Raises:
      ValueError: when an argument is not as above.
      MissingExtra: when `C < K` and `dp-accounting` is missing.

    >>> round(cohort_epsilon(
    ...     noise_multiplier=2.0, rounds=1, delta=1e-5, cohort_size=10, population=10
    ... ), 3)
    4.377
    """
    _check(noise_multiplier, rounds, delta)
    population = checks.integer("population", population, minimum=1)
    cohort_size = checks.integer(
        "cohort_size", cohort_size, minimum=1, maximum=population
    )
    relative = noise_multiplier / 2
    everybody = gaussian_epsilon(noise_multiplier=relative, rounds=rounds, delta=delta)
    if cohort_size == population or noise_multiplier == 0 or rounds == 0:
        return everybody
    library = require_library()
    event = library.SampledWithoutReplacementDpEvent(
        population, cohort_size, library.GaussianDpEvent(relative)
    )
    accountant = library.rdp.RdpAccountant(
        ORDERS, library.NeighboringRelation.REPLACE_ONE
    )
    return min(everybody, float(accountant.compose(event, rounds).get_epsilon(delta)))


def _check_noise(noise_multiplier: float) -> None:
    checks.number("noise_multiplier", noise_multiplier, minimum=0.0, below=math.inf)


def _check(noise_multiplier: float, rounds: int, delta: float) -> None:
    _check_noise(noise_multiplier)
    checks.integer("rounds", rounds, minimum=0)
    checks.number("delta", delta, minimum=1e-300, below=1.0)


def require_library() -> ModuleType:
    """`dp_accounting`, of the extra `privacy`; `MissingExtra` without it."""
    with needs("privacy", "epsilon where not every client takes part"):
        import dp_accounting
    return dp_accounting


# ------------------------------------------------------------------ noise on integers


def rdp_epsilon(
    divergence: Callable[[float], float],
    *,
    delta: float,
    orders: Sequence[float] = ORDERS,
) -> float:
    """Epsilon of a mechanism from its Rényi divergences.

        epsilon = min_a  D(a) + log((a - 1) / a) - (log delta + log a) / (a - 1)

    Source: Canonne, Kamath and Steinke 2020, proposition 12.

    Args:
      divergence: `(a) -> D(a)`, the sum over all rounds.
      delta: in (0, 1).
      orders: those tried, all above 1.

    Returns:
      epsilon, at least 0.

    Raises:
      ValueError: for a delta outside of (0, 1).

    >>> round(rdp_epsilon(lambda a: a / 2, delta=1e-5), 2)
    4.73
    """
    checks.number("delta", delta, minimum=1e-300, below=1.0)
    return max(
        0.0,
        min(
            divergence(a)
            + math.log((a - 1) / a)
            - (math.log(delta) + math.log(a)) / (a - 1)
            for a in orders
        ),
    )


def skellam_rdp(order: float, *, l2: float, l1: float, variance: float) -> float:
    """Rényi divergence of Skellam noise of a total variance.

        D(a) <= a l2^2 / (2 v) + min(((2a - 1) l2^2 + 6 l1) / (4 v^2), 3 l1 / (2 v))

    Args:
      order: `a`, an integer above 1 (the theorem's condition).
      l2: Euclidean sensitivity, in integers.
      l1: sensitivity in the sum of magnitudes; at most `min(sqrt(n) l2, l2^2)` for
        integers.
      variance: `v`, of all the clients' noise together.

    Returns:
      The divergence of one round; rounds add.

    >>> round(skellam_rdp(2, l2=1.0, l1=1.0, variance=100.0), 4)
    0.0102
    """
    gaussian = order * l2**2 / (2 * variance)
    rest = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return gaussian + min(rest, 3 * l1 / (2 * variance))


def discrete_gaussian_zcdp(*, l2: float, stddev: float, parties: int, n: int) -> float:
    """Concentrated privacy of a sum of discrete Gaussians.

        rho = r^2 / 2,   r = min(sqrt(l2^2 / (C s^2) + t n / 2), l2 / (sqrt(C) s)
                                 + t sqrt(n)),
        t = 10 sum_{k=1}^{C-1} exp(-2 pi^2 s^2 k / (k + 1))

    where `t` is what a sum of them is off a discrete Gaussian of `C` times the
    variance; `D(a) = rho a` for every order, and rounds add.

    Args:
      l2: Euclidean sensitivity, in integers.
      stddev: `s`, of one client's noise.
      parties: `C`, how many add theirs.
      n: coordinates.

    Returns:
      rho of one round.

    >>> round(discrete_gaussian_zcdp(l2=1.0, stddev=10.0, parties=1, n=5), 6)
    0.005
    """
    off = 10 * sum(
        math.exp(-2 * math.pi**2 * stddev**2 * k / (k + 1)) for k in range(1, parties)
    )
    ratio = l2 / (math.sqrt(parties) * stddev)
    together = math.sqrt(ratio**2 + off * n / 2)
    return 0.5 * min(together, ratio + off * math.sqrt(n)) ** 2
