"""Trellis-coded quantization: coordinates are coded together, at a fixed rate.

Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov
sources", 1990; with the shift-register trellis and one level for each window of bits of
Tseng, Sun, Hou and De Sa, "QTIP: quantization with trellises and incoherence
processing", 2024. The encoder searches for the path whose levels are nearest to the
coordinates (`fedjax_comp.compress.trellis.viterbi`); the decoder looks up, for each
step, the level of the last bits received. The scale is that of EDEN (Vargaftik et al.,
2022): with it the error is `D / (1 - D)`, `D` the distortion, in place of
`4^-R / (1 - 4^-R)` which no quantizer of Gaussian coordinates can beat.
"""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import standardized
from fedjax_comp.compress.trellis.codebook import gaussian_codebook
from fedjax_comp.compress.trellis.viterbi import (
    cheapest_path,
    from_lanes,
    layout,
    to_lanes,
)
from fedjax_comp.wire.fields import Raw, Symbols

MAX_STATES = 1 << 16
_MAX_BRANCH_BITS = 6
_MAX_VECTOR = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """A quantized array.

    Attributes:
      scale: float32, what the levels are multiples of.
      symbols: one a step, `[steps]`.
    """

    scale: Raw
    symbols: Symbols


def normalised(context: Context, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x` as float32 `[n]` of mean square 1 under random signs, and what divided it.

    The signs are the round's, known to both ends. The levels of a trellis are not
    symmetric, which behind one Hadamard transform causes a bias: with 16 states a
    hundredth of `||x||^2` where one coordinate has a fifth of it. Signs reduce it, and
    with a second rotation none was seen in 2,048 draws.
    """
    unit, sigma = standardized(x.reshape(-1).astype(jnp.float32))
    return unit * noise.signs(context.round_key, x.size), sigma


def restored(
    context: Context, scale: jax.Array, q: jax.Array, like: jax.ShapeDtypeStruct
) -> jax.Array:
    """Levels `[n]` with their scale, signs, shape and dtype."""
    x = scale * q * noise.signs(context.round_key, q.size)
    return x.reshape(like.shape).astype(like.dtype)


def guarded_scale(
    x: jax.Array, q: jax.Array, *, bits: float, unbiased: bool
) -> jax.Array:
    """The number by which levels `q` are multiplied to stand for `x`.

        unbiased:  ||x||^2 / <x, q>,     otherwise (least squares):  <x, q> / ||q||^2

    With the first one `<x, s q> = ||x||^2`, at an error of `tan^2` of the angle between
    them. Where the angle's cosine is less than half of the `sqrt(1 - 4^-R)` that a
    Gaussian vector has in the limit, which takes few coordinates and bad luck, the
    second one is used: of all multiples of `q` that is the nearest to `x`.

    Args:
      x: float32 `[n]`.
      q: float32 `[n]`.
      bits: `R`, a coordinate.
      unbiased: which of the two.

    Returns:
      float32 scalar, 0 when `x` or `q` is all zeros, NaN when `x` is not finite.
    """
    xx, xq, qq = jnp.sum(x * x), jnp.sum(x * q), jnp.sum(q * q)
    least_squares = xq / jnp.where(qq == 0, 1.0, qq)
    if not unbiased:
        return least_squares
    floor = np.float32(np.sqrt(1 - 4.0**-bits) / 2)
    # Written so that NaN goes the unguarded way and stays visible.
    far = xq <= floor * jnp.sqrt(xx) * jnp.sqrt(qq)
    return jnp.where(far, least_squares, xx / jnp.where(xq == 0, 1.0, xq))


def windows_of(symbols: jax.Array, *, windows: int, branches: int) -> jax.Array:
    """The window after each step, by the shift register's definition and no scan.

    Args:
      symbols: unsigned integers in `[0, branches)`, `[groups, steps, lanes]`.
      windows: `2**L`.
      branches: `2**k`.

    Returns:
      int32 `[groups, steps, lanes]`.

    >>> u = jnp.array([1, 0, 1, 1], jnp.uint8).reshape(1, 4, 1)
    >>> windows_of(u, windows=8, branches=2).reshape(-1).tolist()
    [1, 2, 5, 3]
    """
    length, width = windows.bit_length() - 1, branches.bit_length() - 1
    steps = symbols.shape[1]
    symbols = symbols.astype(jnp.int32)
    window = symbols
    for age in range(1, -(-length // width)):
        before = jnp.pad(symbols, ((0, 0), (age, 0), (0, 0)))[:, :steps]
        window |= before << (age * width)
    return window & (windows - 1)


def trellis(
    bits: float = 1.0,
    *,
    states: int = 256,
    block: int = 2048,
    lanes: int | None = None,
    unbiased: bool = True,
) -> Compressor:
    """Trellis-coded quantization at a fixed rate, for what a rotation makes Gaussian.

        C(x) = S sigma D c(w),   w = argmin over paths of ||D x / sigma - c(w)||,

    with random signs `D` that both ends draw, `sigma = ||x|| / sqrt(n)`, `k = bits v`
    bits for each step of `v` coordinates, and a codebook `c` of `states` levels `[v]`,
    one for each window of the last bits. Put it behind a rotation,
    `flattened(chain(rotate(), trellis(bits=1)))`: there the error
    `E||C(x) - x||^2 / ||x||^2` is that of a Gaussian vector,

        bits                   0.1     0.5     1       2       3
        eden                   14.71   2.14    0.571   0.133   0.0358
        trellis, 256 states     7.56   1.14    0.389   0.0826  0.0212
        trellis, 4096 states            1.09    0.368   0.0757  0.0185
        limit 1 / (4^R - 1)     6.73   1.00    0.333   0.0667  0.0159

    Do not use it without a rotation: large coordinates are beyond the largest level.
    Encoding takes a few operations for each state and coordinate; decoding is a
    look-up. Every leaf costs `ceil(n / v) k + 32` bits.

    Unbiased as EDEN is, under a uniformly random rotation and for many coordinates
    (rotate twice where one coordinate outweighs the others); in every draw the error is
    at most `4 / (1 - 4^-R) - 1`. With `unbiased=False` it has the least error, `D` and
    never more than 1.

    Args:
      bits: a coordinate: a fraction `k / v` with `k <= 6` and `v <= 64`, such as 0.1,
        0.5, 1, 1.5, 2, 3 or 4. The better codebooks (`gaussian_codebook`) exist for
        some of them.
      states: `2**L`, from `2**(k + 2)` to 65536; 256 and 4096 have better codebooks.
      block: steps of a block. Each block starts afresh, which costs about 3 bits of
        precision once, not on the wire.
      lanes: blocks coded at a time; by default what suits a processor's cache. An
        accelerator wants thousands.
      unbiased: whether the scale is `||x||^2 / <x, Q(x)>`, to be averaged over clients,
        or least squares, for one receiver or under `error_feedback`.

    Returns:
      A stateless `Compressor` that closes the scale and the symbols.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jax.random.normal(jax.random.key(1), (1000,))
      >>> payload, _ = trellis(bits=2).encode(context, x, ())
      >>> payload.parts[0].symbols.values.shape, payload.parts[0].symbols.cardinality
      ((1000,), 4)
      >>> decoded, _ = trellis(bits=2).decode(context, payload, ())
      >>> bool(jnp.sum((decoded - x) ** 2) < 0.1 * jnp.sum(x**2))
      True
    """
    bits = checks.between("bits", bits, above=0, at_most=_MAX_BRANCH_BITS)
    rate = Fraction(bits).limit_denominator(_MAX_VECTOR)
    width, v = rate.numerator, rate.denominator
    if abs(float(rate) - bits) > 1e-9 or width > _MAX_BRANCH_BITS:
        raise ValueError(
            f"Expected bits={bits!r} to be k / v with k <= {_MAX_BRANCH_BITS} and v <= "
            f"{_MAX_VECTOR}, e.g. 0.1, 0.5, 1.5 or 2."
        )
    branches = 1 << width
    states = checks.integer("states", states, minimum=4 * branches, maximum=MAX_STATES)
    if states & (states - 1):
        raise ValueError(f"Expected states={states} to be a power of two, e.g. 256.")
    block = checks.integer("block", block, minimum=1)
    if lanes is not None:
        lanes = checks.integer("lanes", lanes, minimum=1)
    codebook = gaussian_codebook(states, width, v)
    squares = np.sum(codebook.astype(np.float64) ** 2, axis=1, keepdims=True)

    def cost(at: jax.Array) -> jax.Array:
        # ||x - c||^2 without the ||x||^2 that all windows share.
        if v == 1:
            along = jnp.asarray(codebook) * at
        else:
            along = jnp.matmul(codebook, at, precision=jax.lax.Precision.HIGHEST)
        return squares.astype(np.float32) - 2.0 * along

    def levels_of(symbols: jax.Array, n: int) -> jax.Array:
        form = layout(symbols.size, windows=states, block=block, lanes=lanes)
        at = windows_of(to_lanes(symbols, form), windows=states, branches=branches)
        levels = jnp.asarray(codebook)[from_lanes(at, symbols.size)]
        return levels.reshape(-1)[:n]

    def encode(context: Context, x: jax.Array) -> Path:
        unit, sigma = normalised(context, x)
        steps = -(-unit.size // v)
        vectors = jnp.pad(unit, (0, steps * v - unit.size)).reshape(steps, v)
        form = layout(steps, windows=states, block=block, lanes=lanes)

        def best(inputs: jax.Array) -> jax.Array:
            path = cheapest_path(cost, inputs, windows=states, branches=branches)
            return (path % branches).astype(jnp.uint8)

        symbols = from_lanes(jax.lax.map(best, to_lanes(vectors, form)), steps)
        q = levels_of(symbols, unit.size)
        scale = sigma * guarded_scale(unit, q, bits=bits, unbiased=unbiased)
        return Path(Raw(scale), Symbols(symbols, branches))

    def decode(
        context: Context, payload: Path, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        levels = levels_of(payload.symbols.values, int(np.prod(like.shape)))
        return restored(context, payload.scale.values, levels, like)

    return leafwise(ArrayCode("trellis", encode, decode))
