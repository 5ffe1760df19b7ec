"""Code tables that both ends know, for rounded numbers of a known size and shape.

A number of root mean square `sigma`, with both signs equally likely, is modelled by a
double Weibull distribution, whose tails have a closed form (W. Weibull, "A statistical
distribution function of wide applicability", 1951):

    P(|t| > x) = exp(-(x / a)^k),   a = sigma / sqrt(Gamma(1 + 2 / k)).

`k = 1` is Laplace's distribution; a Gaussian number is near `k = 1.3`; a larger `k` has
most numbers near `+-sigma`, as the entries of an outer product are once the sizes of
its two factors are divided out. What is coded is

    z = 2 |q| - [q < 0],   q = sign(t) floor(|t| + theta),

0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ... or the same of `q = floor(t + u)` with noise
`u` uniform in [0, 1), of which `P(|q| >= m)` is the mean of `P(|t| > x)` over `x` from
`m - 1` to `m`. A class is a shape `k` and a size: sizes are half-octaves,
`sigma = 2^(c / 2)`. For large sizes, the low `shift` bits of `z` are nearly uniform:
they are sent as they are, which leaves few tokens. The last token is an escape: what
`z` has beyond it follows in Elias gamma code.

Frequencies are computed once in decimal arithmetic, whose `exp`, `ln` and `sqrt` are
correctly rounded: they are the same integers on every machine.
"""

import functools
from decimal import Context, Decimal, localcontext
from typing import NamedTuple

import numpy as np

from fedjax_comp.wire.codes.frequencies import SCALE_BITS, UInt32Array

SHAPES = ("0.8", "1", "1.25", "1.5", "2", "3", "5", "8")
"""Weibull's `k`, as decimals."""

_SECOND_MOMENTS = (
    "3.323350970448",
    "2",
    "1.429624558855",
    "1.190639348759",
    "1",
    "0.902745292951",
    "0.887263817503",
    "0.906402477055",
)
"""`Gamma(1 + 2 / k)` of each shape."""


class Sizes(NamedTuple):
    """The sizes that are distinguished, in half-octaves: `least` and the next ones.

    Attributes:
      least: `c` of the first; anything smaller counts as it.
      number: of sizes, at most 64.
    """

    least: int
    number: int


ROUNDED = Sizes(-9, 48)
"""Of what is smaller, fewer than one in `2**14` does not round to 0."""

DITHERED = Sizes(-26, 64)
"""With noise a number of any size may round to +-1: its mean size is the chance."""

TOKENS = 64
"""Room for the tokens of a class; the last one in use is the escape."""

_PLAIN_OCTAVES = 2  # up to so many octaves above a step all of z is in its token
_TOTAL_BITS = 40
_DIGITS = 25
_PANELS = 32  # of an integral


class Tables(NamedTuple):
    """Tables of all classes, class `shape * sizes.number + size`.

    Attributes:
      starts: of each token, uint32 `[classes, TOKENS]`.
      frequencies: uint32 in that shape, summing to `2**14` in each class; 0 where a
        class has no such token.
      shifts: low bits of `z` that travel as they are, uint32 `[classes]`.
      escapes: the last token, uint32 `[classes]`.
      sizes: the half-octaves of the classes.
    """

    starts: UInt32Array
    frequencies: UInt32Array
    shifts: UInt32Array
    escapes: UInt32Array
    sizes: Sizes


@functools.lru_cache(maxsize=4)
def weibull_tables(dead_zone: float | None) -> Tables:
    """The tables for numbers rounded by `floor(|t| + theta)`, or with noise.

    Args:
      dead_zone: `theta`, in (0, 1); None for `floor(t + u)`.

    >>> tables = weibull_tables(0.4)
    >>> size_of_one = SHAPES.index("1") * ROUNDED.number - ROUNDED.least
    >>> shares = tables.frequencies[size_of_one, :3] / 2**14  # of 0, -1 and 1
    >>> shares.round(3).tolist()  # 1 - exp(-0.6 sqrt 2), ...
    [0.571, 0.162, 0.162]
    """
    least, number = sizes = DITHERED if dead_zone is None else ROUNDED
    with localcontext(Context(prec=_DIGITS)):
        theta = None if dead_zone is None else Decimal(repr(dead_zone))
        columns = [_tables_of_size(least + i, theta) for i in range(number)]
    frequencies = np.zeros((len(SHAPES), number, TOKENS), np.uint32)
    shifts, escapes = [], []
    for size, (shift, table) in enumerate(columns):
        frequencies[:, size, : table.shape[1]] = table
        shifts.append(shift)
        escapes.append(table.shape[1] - 1)
    ends = np.cumsum(frequencies, axis=-1, dtype=np.uint32)
    flat = (len(SHAPES) * number, TOKENS)
    return Tables(
        starts=(ends - frequencies).reshape(flat),
        frequencies=frequencies.reshape(flat),
        shifts=np.tile(np.array(shifts, np.uint32), len(SHAPES)),
        escapes=np.tile(np.array(escapes, np.uint32), len(SHAPES)),
        sizes=sizes,
    )


@functools.cache
def _log_scales() -> list[Decimal]:
    """`ln(sigma / a)` of each shape."""
    return [Decimal(moment).ln() / 2 for moment in _SECOND_MOMENTS]


def _tables_of_size(size: int, theta: Decimal | None) -> tuple[int, UInt32Array]:
    """`shift`, and the frequencies `[shapes, tokens]` of one size."""
    shift = max(0, size // 2 - _PLAIN_OCTAVES)
    log_sigma = (Decimal(2) ** size).sqrt().ln()
    scales, powers = _log_scales(), [Decimal(shape) for shape in SHAPES]

    @functools.cache
    def log_of(x: Decimal) -> Decimal:
        return x.ln() - log_sigma

    @functools.cache
    def above(x: Decimal, shape: int) -> Decimal:
        """`P(|t| > x)`, `x > 0`."""
        log = log_of(x) + scales[shape]
        return (-(log * powers[shape]).exp()).exp()

    @functools.cache
    def beyond(m: int, shape: int) -> Decimal:
        """`P(|q| >= m)`, `m >= 1`."""
        if theta is not None:
            return above(m - theta, shape)
        if shift > 0:  # so large that the mean is in the middle
            return above(m - Decimal("0.5"), shape)
        if m > 1:
            ends = above(Decimal(m - 1), shape) + above(Decimal(m), shape)
            return (ends + 4 * above(m - Decimal("0.5"), shape)) / 6
        # x = y^4 from 0 to 1 by Simpson's rule: all may be near 0.
        total = above(Decimal(1), shape)
        for i in range(1, _PANELS):
            y = Decimal(i) / _PANELS
            total += (4 if i % 2 else 2) * y**3 * above(y**4, shape)
        return 4 * total / (3 * _PANELS)

    def tail(token: int, shape: int) -> int:
        """`P(z >= token << shift)`, `token >= 1`, in units of `2**-40`."""
        m, odd = divmod((token << shift) + 1, 2)
        if odd:  # z = 2 m and above: half of those of |q| = m as well
            chance = (beyond(m, shape) + beyond(m + 1, shape)) / 2
        else:
            chance = beyond(m, shape)
        return int(min(chance, Decimal(1)) * (1 << _TOTAL_BITS))

    # The first shape has the heaviest tail: where it has one number in 2**14 left, all
    # escape.
    escape = 1
    least = 1 << (_TOTAL_BITS - SCALE_BITS)
    while escape < TOKENS - 1 and tail(escape, 0) >= least:
        escape += 1
    shared = (1 << SCALE_BITS) - (escape + 1)  # every token has at least 1
    rows = []
    for shape in range(len(SHAPES)):
        below = [0]
        for token in range(1, escape + 1):
            left = tail(token, shape)
            below.append(token + (((1 << _TOTAL_BITS) - left) * shared >> _TOTAL_BITS))
        rows.append(np.diff([*below, 1 << SCALE_BITS]))
    return shift, np.array(rows, np.uint32)
