"""How much noise an epsilon takes, and epsilon of noise on integers in sampled cohorts.

Wang, Balle and Kasiviswanathan, "Subsampled Rényi differential privacy and analytical
moments accountant", 2019, theorem 9, over the divergences of the distributed discrete
Gaussian (Kairouz, Liu and Steinke 2021, theorem 1). `accounting` has the Gaussian.
"""

import math
from collections.abc import Callable

from fedjax_comp import checks
from fedjax_comp.privacy.accounting import discrete_gaussian_zcdp, rdp_epsilon
from fedjax_comp.privacy.traced_noise import ClientNoise

SAMPLED_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256)
"""Theorem 9 is for integer orders."""

_TOLERANCE = 1e-3
"""How near the least noise is met, as a share of it; from above."""


def sampled_rdp(
    divergence: Callable[[float], float], order: int, *, share: float
) -> float:
    """Rényi divergence of a mechanism on a cohort drawn without replacement.

        (a - 1) D'(a) = log(1 + q^2 (a over 2) min(4 (e^D(2) - 1), 2 e^D(2))
                              + sum_{j=3}^a q^j (a over j) 2 e^((j-1) D(j)))

    and never more than `D(a)`. Both are of populations in which one client is replaced.
    It holds for any mechanism, and for wide noise on large cohorts it is loose: the
    terms from `j = 3` on do not vanish with `D`. One client in ten and an epsilon of 2
    take 4.7 times the noise of the Gaussian's own theorem 27, one in sixty as much.

    Args:
      divergence: `(a) -> D(a)` of the mechanism on all of a cohort.
      order: `a`, an integer above 1.
      share: `q`, of the population that a cohort is, in (0, 1].

    >>> sampled_rdp(lambda a: a / 8, 2, share=1.0)
    0.25
    """
    terms = [0.0]
    for j in range(2, order + 1):
        weight = (
            j * math.log(share)
            + math.lgamma(order + 1)
            - math.lgamma(j + 1)
            - math.lgamma(order - j + 1)
        )
        if j == 2:
            two = divergence(2)
            least = two + math.log(2)
            if two > 0:
                least = min(least, math.log(4) + two + math.log(-math.expm1(-two)))
            terms.append(weight + least)
        else:
            terms.append(weight + math.log(2) + (j - 1) * divergence(j))
    largest = max(terms)
    total = largest + math.log(sum(math.exp(term - largest) for term in terms))
    return min(total / (order - 1), divergence(order))


def distributed_epsilon(
    noise: ClientNoise,
    *,
    n: int,
    fewest: int,
    rounds: int,
    delta: float,
    cohort_size: int,
    population: int,
) -> float:
    """Epsilon of rounds in which each client adds its share of the noise.

    Neighbours are populations in which one client is replaced by another: the sum of
    integers moves by up to twice the bound on one vector.

    It is the least of what theorem 9 says and of epsilon without sampling. The latter
    holds, too: of two neighbours one cohort is drawn, `exp((a - 1) D(a))` is jointly
    convex, and so a mixture over cohorts is no further apart than the furthest of them,
    at any real order. Theorem 9 has integer orders alone; where the best order lies
    between two of them, its epsilon may exceed that of everybody in every round.

    Args:
      noise: what each client adds.
      n: numbers in a vector.
      fewest: clients whose noise is in every sum, the threshold, in [1, C].
      rounds: how many, at least 0.
      delta: in (0, 1).
      cohort_size: `C`, drawn uniformly without replacement, in [1, K].
      population: `K`.

    Returns:
      epsilon; `inf` without noise.

    Raises:
      ValueError: for a number out of its range.

    >>> from fedjax_comp.privacy.traced_noise import client_noise
    >>> noise = client_noise(clip=1.0, noise_multiplier=8.0, fewest=7, n=100)
    >>> round(distributed_epsilon(
    ...     noise, n=100, fewest=7, rounds=1, delta=1e-5, cohort_size=10, population=10
    ... ), 2)
    1.02
    """
    checks.integer("rounds", rounds, minimum=0)
    checks.integer("population", population, minimum=1)
    checks.integer("cohort_size", cohort_size, minimum=1, maximum=population)
    checks.integer("fewest", fewest, minimum=1, maximum=cohort_size)
    if rounds == 0:
        return 0.0
    if noise.stddev == 0:
        return math.inf
    rho = discrete_gaussian_zcdp(
        l2=2 * noise.rounding(n).bound, stddev=noise.stddev, parties=fewest, n=n
    )
    everybody = rdp_epsilon(lambda order: rounds * rho * order, delta=delta)
    if cohort_size == population:
        return everybody
    share = cohort_size / population
    sampled = rdp_epsilon(
        lambda order: rounds * sampled_rdp(lambda a: rho * a, int(order), share=share),
        delta=delta,
        orders=SAMPLED_ORDERS,
    )
    return min(everybody, sampled)


def least_noise(epsilon_of: Callable[[float], float], epsilon: float) -> float:
    """The least noise multiplier with which epsilon is not above a given one.

    Args:
      epsilon_of: `(noise multiplier) -> epsilon`, falling.
      epsilon: what is allowed, positive.

    Returns:
      The multiplier, to a thousandth of itself, and on the safe side.

    Raises:
      ValueError: when no noise that could be of use is enough.

    >>> round(least_noise(lambda z: 1 / z, 2.0), 2)
    0.5
    """
    epsilon = checks.between("epsilon", epsilon, above=0, at_most=1e6)
    low, high = 0.0, 1.0
    while epsilon_of(high) > epsilon:
        low, high = high, 2 * high
        if high > 1e5:
            raise ValueError(
                f"Expected epsilon={epsilon:g} to be in reach: noise of {high:g} clips "
                "is not enough; take fewer rounds or a larger delta."
            )
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        if epsilon_of(middle) > epsilon:
            low = middle
        else:
            high = middle
    return high
