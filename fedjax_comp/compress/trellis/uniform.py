"""Entropy-coded trellis quantization: uniform levels, signs that the trellis implies.

Fischer and Wang, "Entropy-constrained trellis-coded quantization", 1992; Marcellin, "On
entropy-constrained trellis coded quantization", 1994, whose union of cosets (also in
JPEG 2000, part 2) needs one entropy code for all states. The convolutional codes are
those of Ungerboeck, "Channel coding with multilevel/phase signals", 1982, table I.

In units of a step the levels are `+-1/2, +-3/2, ...`, `j + 1/2` for whole `j`. The bits
`u_t` of a path through a shift register give two parities and so a coset of levels:

    z1 = (h0 * u)_t,   z0 = (h1 * u)_t,   j = 2 z1 + z0  (mod 4).

`h1` sees neither the newest nor the oldest bit. So `z0` is known from the past, and
says which half of the levels is allowed: `1/2, -3/2, 5/2, -7/2, ...`, or the negatives
of these. What travels is `r = floor(|level|)`; the sign follows from `r` and `z0`, and
`r` tells `z1` and with it the next bit. In both halves `r` has the same distribution,
which an entropy code after it makes use of. There is no bit for the sign.

With 256 states a step `d` gives a Gaussian of variance 1 an error close to
`D = 0.246 d^2` before scaling, at a rate close to `log2(1 + 1/D) / 2 + 0.034` bits: the
distance to the limit is the same at 0.3 bits and at 6.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import symbols_of
from fedjax_comp.compress.trellis.fixed_rate import (
    Path,
    guarded_scale,
    normalised,
    restored,
)
from fedjax_comp.compress.trellis.viterbi import (
    Layout,
    cheapest_path,
    from_lanes,
    layout,
    to_lanes,
)
from fedjax_comp.wire.fields import Raw

# (h0, h1) of each number of states. Up to 512 they are Ungerboeck's; the others are the
# best of some thirty random ones by their error on Gaussian vectors.
CODES = {
    4: (0o5, 0o2),
    8: (0o13, 0o04),
    16: (0o23, 0o04),
    32: (0o45, 0o10),
    64: (0o103, 0o024),
    128: (0o235, 0o126),
    256: (0o515, 0o362),
    512: (0o1017, 0o342),
    1024: (0o3075, 0o1674),
    2048: (0o5103, 0o1572),
    4096: (0o15015, 0o3744),
}
# Bits above the limit at high rates, measured on Gaussian vectors with long blocks.
_GAPS = {
    4: 0.100,
    8: 0.075,
    16: 0.066,
    32: 0.056,
    64: 0.048,
    128: 0.041,
    256: 0.034,
    512: 0.031,
    1024: 0.027,
    2048: 0.025,
    4096: 0.021,
}
_SUPPORT = 8.0  # standard deviations; a Gaussian leaves them once in 10^15 draws


def step_of_rate(bits: float, states: int) -> float:
    """The step, in standard deviations, at which `r` has an entropy of about `bits`.

    At high rates `r` has the entropy `h - log2(2 d)` of a Gaussian in cells of width
    `2 d`, which ties the distortion `D = c d^2` to the distance from the limit; at low
    rates both become smaller, by a fit to measurements from 0.05 to 1 bit.

    Args:
      bits: positive.
      states: a key of `CODES`.

    >>> round(step_of_rate(2.0, 256), 2)
    0.53
    """
    gap = _GAPS[states]
    differential = 0.5 * math.log2(2 * math.pi * math.e) - 1
    c = 4.0 ** (gap - differential) * (1 - 0.18 * math.exp(-9 * bits))
    limit = bits - gap * (1 - math.exp(-10 * bits))
    return 1 / math.sqrt(c * (4.0**limit - 1))


def cosets(states: int) -> np.ndarray:
    """`2 z1 + z0` of each window of bits, int32 `[2 states]`.

    >>> cosets(4).tolist()
    [0, 2, 1, 3, 2, 0, 3, 1]
    """
    h0, h1 = CODES[states]
    window = np.arange(2 * states)
    z1, z0 = (np.bitwise_count(window & h) % 2 for h in (h0, h1))
    return (2 * z1 + z0).astype(np.int32)


def nearest_path(t: jax.Array, states: int) -> jax.Array:
    """The levels of the path nearest to `t`.

    Args:
      t: numbers in units of the step, float32 `[steps, lanes]`.
      states: a key of `CODES`.

    Returns:
      Halves of odd numbers, float32 `[steps, lanes]`.

    >>> nearest_path(jnp.array([[0.4], [-1.6], [3.4]]), 4).reshape(-1).tolist()
    [0.5, -1.5, 3.5]
    """
    coset = cosets(states)
    odd = (coset % 2 == 1)[:, None]  # z0
    sign = np.where(coset >= 2, 1.0, -1.0)[:, None]  # of z1
    even_sign = jnp.asarray(np.where(odd, 0.0, sign), jnp.float32)
    odd_sign = jnp.asarray(np.where(odd, sign, 0.0), jnp.float32)
    is_odd = jnp.asarray(odd, jnp.float32)

    def cost(at: jax.Array) -> jax.Array:
        # To the nearest level of coset 0 it is a, so to that of coset 2 it is 2 - a,
        # and the squares are `a^2 - 2 a + 2 -+ (2 - 2 a)`; b is the same for 1 and 3.
        # What all windows share is left out, and products with 0, 1 and -1 take the
        # place of a look-up, which would cost more than everything else.
        a, b = (jnp.abs(h - 4 * jnp.round(h / 4)) for h in (at - 0.5, at - 1.5))
        between = b * b - 2 * b - (a * a - 2 * a)
        even, odd = 2 - 2 * a, 2 - 2 * b
        return is_odd * between + even_sign * even + odd_sign * odd

    window = cheapest_path(cost, t[:, None, :], windows=2 * states, branches=2)
    chosen = jnp.asarray(coset)[window].astype(jnp.float32)
    return chosen + 4 * jnp.round((t - 0.5 - chosen) / 4) + 0.5


def signed_levels(r: jax.Array, states: int) -> jax.Array:
    """The levels that `r = floor(|level|)` stands for, a scan over the steps.

    Args:
      r: int32 `[steps, lanes]`.
      states: a key of `CODES`.

    Returns:
      float32 `[steps, lanes]`.

    >>> signed_levels(jnp.array([[0], [1], [3]]), 4).reshape(-1).tolist()
    [0.5, -1.5, 3.5]
    """
    h0, h1 = CODES[states]

    def parity(bits: jax.Array) -> jax.Array:
        return (jax.lax.population_count(bits) & 1).astype(jnp.uint32)

    def step(window: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
        past = (window << 1) & jnp.uint32(2 * states - 1)
        z0 = parity(past & jnp.uint32(h1))
        # Of the levels allowed, those of rank 0, 3, 4, 7, 8, ... have z1 = z0.
        z1 = ((r.astype(jnp.uint32) + 1) >> 1 & 1) ^ z0
        newest = z1 ^ parity(past & jnp.uint32(h0))
        return past | newest, z0

    start = jnp.zeros(r.shape[1], jnp.uint32)
    z0 = jax.lax.scan(step, start, r)[1].astype(jnp.int32)
    magnitude = r.astype(jnp.float32) + 0.5
    return jnp.where((r + z0) % 2 == 0, magnitude, -magnitude)


def uniform_trellis(
    bits: float | None = None,
    *,
    step: float | None = None,
    states: int = 256,
    block: int = 2048,
    lanes: int | None = None,
    unbiased: bool = True,
) -> Compressor:
    """Trellis-coded quantization with uniform levels, for an entropy code after it.

        C(x) = S sigma d D q,   q = the path's levels nearest to D x / (sigma d),

    with `sigma = ||x|| / sqrt(n)`, and the scale `S` and the signs `D` of `trellis`.
    Behind a rotation and in front of `entropy_coded` it is the nearest to the limit of
    all quantizers here,

        flattened(chain(rotate(), uniform_trellis(bits=2), entropy_coded()))

        bits                   0.5     1       2       3       4
        ecsq                   1.61    0.535   0.0976  0.0227  0.00559
        256 states             1.10    0.356   0.0701  0.0167  0.00411
        4096 states            1.06    0.347   0.0691  0.0164
        limit 1 / (4^R - 1)    1.00    0.333   0.0667  0.0159  0.00392

    (some 0.004 bits more than named, for 260,000 coordinates). Below 0.3 bits `trellis`
    is nearer to the limit. The length varies with what is sent, by about `1 / sqrt(n)`.
    Levels end eight standard deviations from 0. Decoding follows the path bit by bit,
    one operation on all blocks at a step.

    Args:
      bits: a coordinate, that the entropy code takes for Gaussian ones; in [0.05, 8].
      step: instead of `bits`, in standard deviations; in [0.005, 16].
      states: one of `CODES`, the powers of two from 4 to 4096.
      block: steps of a block. Each block starts afresh, which costs about 3 bits of
        precision once, not on the wire.
      lanes: blocks coded at a time; by default what suits a processor's cache. An
        accelerator wants thousands.
      unbiased: as for `trellis`.

    Returns:
      A stateless `Compressor` that closes the scale and the symbols.

    Raises:
      ValueError: unless exactly one of `bits` and `step` is given, and all arguments
        are in their range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jax.random.normal(jax.random.key(1), (1000,))
      >>> payload, _ = uniform_trellis(bits=2).encode(context, x, ())
      >>> decoded, _ = uniform_trellis(bits=2).decode(context, payload, ())
      >>> bool(jnp.sum((decoded - x) ** 2) < 0.08 * jnp.sum(x**2))
      True
    """
    if (bits is None) == (step is None):
        raise ValueError(
            f"Expected either bits or step, got bits={bits!r} and step={step!r}."
        )
    states = checks.integer("states", states, minimum=4, maximum=max(CODES))
    if states not in CODES:
        raise ValueError(f"Expected states={states} to be a power of two, e.g. 256.")
    if step is None:
        rate = checks.between("bits", bits, above=0.04, at_most=8)
        width = step_of_rate(rate, states)
    else:
        width = checks.between("step", step, above=0.004, at_most=16)
        rate = 0.5 * math.log2(1 + 1 / (0.246 * width**2))
    block = checks.integer("block", block, minimum=1)
    if lanes is not None:
        lanes = checks.integer("lanes", lanes, minimum=1)
    # The nearest level of a coset is less than 2 steps away.
    edge = math.ceil(_SUPPORT / width)
    cardinality = edge + 2

    def form_of(n: int) -> Layout:
        return layout(n, windows=2 * states, block=block, lanes=lanes)

    def encode(context: Context, x: jax.Array) -> Path:
        unit, sigma = normalised(context, x)
        t = jnp.clip(unit / np.float32(width), -edge, edge)
        best = jax.lax.map(
            lambda t: nearest_path(t, states), to_lanes(t, form_of(t.size))
        )
        q = from_lanes(best, unit.size)
        scale = sigma * guarded_scale(unit, q, bits=rate, unbiased=unbiased)
        return Path(Raw(scale), symbols_of(jnp.floor(jnp.abs(q)), cardinality))

    def decode(
        context: Context, payload: Path, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        r = payload.symbols.values.astype(jnp.int32)
        blocks = to_lanes(r, form_of(r.size))
        groups, steps, side = blocks.shape
        # The groups are decoded side by side: for that there is memory enough.
        r = jnp.moveaxis(blocks, 0, 1).reshape(steps, groups * side)
        levels = signed_levels(r, states).reshape(steps, groups, side)
        q = from_lanes(jnp.moveaxis(levels, 1, 0), int(np.prod(like.shape)))
        return restored(context, payload.scale.values, q, like)

    return leafwise(ArrayCode("uniform_trellis", encode, decode))
