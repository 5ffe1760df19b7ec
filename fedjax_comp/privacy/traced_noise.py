"""Each client's share of the noise, inside a compiled round.

Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated
learning with secure aggregation", 2021, algorithm 1, as `distributed` has it on the
host: clip, round to integers of a bounded length, add a discrete Gaussian. The noise is
drawn from the host's table. Its random bits are JAX's under the run's key: good for
studying what privacy costs, but no protection from whoever knows the seed.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.compress.magnitude import clip_by_l2
from fedjax_comp.privacy.discrete import MAX_STDDEV, gaussian_table
from fedjax_comp.privacy.distributed import Rounding, bounded_rounding

FINENESS = 16
"""A clip is at least so many times `sqrt(n)` steps, and 256: rounding then lengthens
the bound on a vector by less than a four-hundredth, from 4,000 numbers on by less than
a thousandth."""

_MOST_TRIALS = 200
_SLACK = 2.0**-18
"""What float32 may be off in a sum of squares, added in pairs."""


class ClientNoise(NamedTuple):
    """What a client does to its vector before it is masked.

    Attributes:
      clip: the largest Euclidean norm of what is sent.
      step: what the integer 1 stands for.
      stddev: of one client's noise, in steps.
    """

    clip: float
    step: float
    stddev: float

    def rounding(self, n: int) -> Rounding:
        """How a vector of `n` numbers becomes integers."""
        return bounded_rounding(clip=self.clip, step=self.step, n=n)


def client_noise(
    *, clip: float, noise_multiplier: float, fewest: int, n: int
) -> ClientNoise:
    """Noise of each client such that the noise of `fewest` clients is enough.

        step = clip / max(256, 16 sqrt(n)),   stddev = z clip / (step sqrt(fewest))

    so that the noise of `fewest` clients together has a standard deviation of `z clip`.
    More of them add more: a sum from which some may be missing is at least as private
    as is accounted for.

    Args:
      clip: positive.
      noise_multiplier: `z`, at least 0.
      fewest: clients that must be in a sum, its threshold.
      n: numbers that a client sends.

    Raises:
      ValueError: when an argument is not as above, or the noise too wide for its table.

    >>> client_noise(clip=1.0, noise_multiplier=2.0, fewest=4, n=100).stddev
    256.0
    """
    clip = checks.between("clip", clip, above=0, at_most=1e30)
    z = checks.number(
        "noise_multiplier", noise_multiplier, minimum=0.0, below=float("inf")
    )
    steps = max(256.0, FINENESS * math.sqrt(checks.integer("n", n, minimum=1)))
    fewest = checks.integer("fewest", fewest, minimum=1)
    stddev = z * steps / math.sqrt(fewest)
    if stddev > MAX_STDDEV:
        raise ValueError(
            f"Expected noise of at most {MAX_STDDEV:g} steps a client, got "
            f"{stddev:g}: take a smaller noise_multiplier={z:g}."
        )
    return ClientNoise(clip, clip / steps, stddev)


def noisy_integers(key: jax.Array, vector: jax.Array, noise: ClientNoise) -> jax.Array:
    """Clipped, rounded and noisy: what a client masks.

        round(clip(x) / step) + N_Z(0, stddev^2)

    Args:
      key: the client's, scalar key array.
      vector: float32 `[n]`; what is not finite is not to be sent.
      noise: the cohort's.

    Returns:
      int32 `[n]`.

    >>> quiet = ClientNoise(clip=1.0, step=0.1, stddev=0.0)
    >>> noisy_integers(jax.random.key(0), jnp.array([3.0, -4.0]), quiet).tolist()
    [6, -8]
    """
    rounding_key, noise_key = jax.random.split(key)
    rounded = round_bounded_in_jit(
        rounding_key, vector, noise.rounding(vector.shape[0])
    )
    if noise.stddev == 0:
        return rounded
    return rounded + discrete_gaussian_in_jit(
        noise_key, vector.shape[0], stddev=noise.stddev
    )


def round_bounded_in_jit(
    key: jax.Array, vector: jax.Array, rounding: Rounding
) -> jax.Array:
    """`round_bounded` of `fedjax_comp.privacy.distributed`, under jit.

    Args:
      key: scalar key array.
      vector: float32 `[n]`; zeros stand for one that is not finite.
      rounding: from `bounded_rounding`.

    Returns:
      int32 `[n]` of a Euclidean norm of at most `rounding.bound`.
    """
    finite = jnp.all(jnp.isfinite(vector))
    (short,) = clip_by_l2([jnp.where(finite, vector, 0)], rounding.clip)
    scaled = short / rounding.step
    low = jnp.floor(scaled)
    longest = rounding.bound**2 * (1 - _SLACK)

    def draw(trial: jax.Array) -> jax.Array:
        u = jax.random.uniform(
            jax.random.fold_in(key, trial), scaled.shape, scaled.dtype
        )
        return low + (u < scaled - low).astype(jnp.float32)

    def too_long(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        trial, drawn = state
        return (trial < _MOST_TRIALS) & (_sum_of_squares(drawn) > longest)

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        trial = state[0] + 1
        return trial, draw(trial)

    _, drawn = jax.lax.while_loop(too_long, again, (jnp.int32(0), draw(jnp.int32(0))))
    # Towards zero no coordinate grows: the norm is below clip / step.
    kept = jnp.where(_sum_of_squares(drawn) > longest, jnp.trunc(scaled), drawn)
    return kept.astype(jnp.int32)


def _sum_of_squares(x: jax.Array) -> jax.Array:
    """Added in pairs, so that its error grows with the logarithm of the length."""
    size = 1 << (x.shape[0] - 1).bit_length()
    squares = jnp.pad(x * x, (0, size - x.shape[0]))
    while squares.shape[0] > 1:
        half = squares.shape[0] // 2
        squares = squares[:half] + squares[half:]
    return squares[0]


def discrete_gaussian_in_jit(key: jax.Array, n: int, *, stddev: float) -> jax.Array:
    """`discrete_gaussian` of `fedjax_comp.privacy.discrete`, under jit.

    The same table is inverted with 63 random bits a number, in two words of 32.

    Args:
      key: scalar key array.
      n: how many.
      stddev: in (0, 1e5], static.

    Returns:
      int32 `[n]`.

    >>> abs(discrete_gaussian_in_jit(jax.random.key(0), 1000, stddev=0.01)).max()
    Array(0, dtype=int32)
    """
    low, thresholds = gaussian_table(stddev)
    size = 1 << len(thresholds).bit_length()
    # No word reaches the thresholds that fill the table up.
    filled = np.full(size - 1, np.uint64(1 << 63))
    filled[: len(thresholds)] = thresholds
    upper = jnp.asarray(filled >> np.uint64(32), jnp.uint32)
    lower = jnp.asarray(filled & np.uint64(0xFFFFFFFF), jnp.uint32)
    high, rest = jax.random.bits(key, (2, n), jnp.uint32)
    high = high >> 1
    place = jnp.zeros(n, jnp.int32)
    while size > 1:
        size //= 2
        at = place + (size - 1)
        reached = (upper[at] < high) | ((upper[at] == high) & (lower[at] <= rest))
        place = place + jnp.where(reached, size, 0)
    return low + place
