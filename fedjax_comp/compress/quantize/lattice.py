"""A uniform lattice over a range that both ends know: for data, not for gradients.

Pixels lie in [0, 1] whatever they show, so no scale has to travel and a number costs
its `bits` alone. Rounding at random is unbiased (dithering without subtraction), and so
is subtracting a dither that both ends derive from the context, whose error is uniform
and independent of the number.

Source: Schuchman, "Dither signals and their effect on quantization noise", 1964; Gray
and Stockham, "Dithered quantizers", 1993, theorems 1 and 2.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import symbols_of
from fedjax_comp.wire.fields import Raw, Symbols

Rounding = Literal["stochastic", "nearest", "subtractive"]
"""How a number goes to a level: at random, to the nearest, or by a shared dither."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OnLattice:
    """An array on a lattice that both ends know.

    Attributes:
      finite: bool, whether all numbers were finite.
      symbols: one a coordinate, the shape of the array.
    """

    finite: Raw
    symbols: Symbols


def uniform_lattice(
    bits: int,
    *,
    low: float | Sequence[float] = 0.0,
    high: float | Sequence[float] = 1.0,
    rounding: Rounding = "stochastic",
) -> Compressor:
    """Rounds to `2**bits` equally spaced numbers from `low` to `high`.

        t = (clip(x) - low) / step,   step = (high - low) / (2^bits - 1),

        stochastic    C(x) = low + step * (floor(t) + Bernoulli(t - floor(t)))
        nearest       C(x) = low + step * round(t)
        subtractive   C(x) = low + step * (floor(t + u) - u + 1/2),   u in [0, 1)

    The first and the last are unbiased within the range, with a variance of at most
    `step^2 / 4` and of exactly `step^2 / 12`. What lies beyond the range is clipped.

    Args:
      bits: a coordinate, in [1, 16].
      low: least level; a sequence has one for each channel (the last axis).
      high: largest level, above `low`; likewise.
      rounding: one of the three above; the dither `u` is drawn from the client's key.

    Returns:
      A stateless `Compressor` that closes the symbols, and one bit a leaf that is 0
      when some number is not finite.

    Raises:
      ValueError: when an argument is not as above; from `encode` for a leaf whose
        last axis has not as many channels as `low` or `high`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> coarse = uniform_lattice(2, rounding="nearest")
      >>> payload, _ = coarse.encode(context, jnp.array([0.0, 0.3, 9.0]), ())
      >>> payload.parts[0].symbols.values.tolist()
      [0, 1, 3]
      >>> decoded = coarse.decode(context, payload, ())[0]
      >>> [round(x, 2) for x in decoded.tolist()]
      [0.0, 0.33, 1.0]
    """
    bits = checks.integer("bits", bits, minimum=1, maximum=16)
    lows, highs = _ends("low", low), _ends("high", high)
    if lows.ndim and highs.ndim and lows.shape != highs.shape:
        raise ValueError(
            f"Expected low={low} and high={high} of as many channels each."
        )
    if not np.all(highs > lows):
        raise ValueError(f"Expected high={high} above low={low}.")
    if rounding not in ("stochastic", "nearest", "subtractive"):
        raise ValueError(
            f"Expected rounding={rounding!r}, 'stochastic', 'nearest' or 'subtractive'."
        )
    levels = 1 << bits

    def encode(context: Context, x: jax.Array) -> OnLattice:
        start, step = _along(lows, x.shape), _along(_step(lows, highs, levels), x.shape)
        x = x.astype(jnp.float32)
        t = jnp.clip((x - start) / step, 0.0, float(levels - 1))
        match rounding:
            case "stochastic":
                t = noise.bernoulli_round(context.client_key, t)
            case "subtractive":
                t = jnp.floor(t + noise.uniform(context.client_key, x.shape))
            case "nearest":
                t = jnp.round(t)
        return OnLattice(Raw(jnp.all(jnp.isfinite(x))), symbols_of(t, levels))

    def decode(
        context: Context, payload: OnLattice, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        start = _along(lows, like.shape)
        step = _along(_step(lows, highs, levels), like.shape)
        t = payload.symbols.values.astype(jnp.float32)
        if rounding == "subtractive":
            t = t - noise.uniform(context.client_key, like.shape) + 0.5
        x = start + step * t
        return jnp.where(payload.finite.values, x, jnp.nan).astype(like.dtype)

    return leafwise(ArrayCode("uniform_lattice", encode, decode))


def _ends(name: str, value: float | Sequence[float]) -> np.ndarray:
    ends = np.asarray(value, np.float32)
    if ends.ndim > 1 or not ends.size or not np.all(np.isfinite(ends)):
        raise ValueError(
            f"Expected {name}={value!r}, a finite number or one for each channel."
        )
    return ends


def _step(lows: np.ndarray, highs: np.ndarray, levels: int) -> np.ndarray:
    return (highs - lows) / np.float32(levels - 1)


def _along(ends: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """A channel's number for every coordinate of an array of that shape."""
    if ends.ndim and (not shape or shape[-1] != ends.size):
        raise ValueError(
            f"Expected {ends.size} channels in the last axis, got shape {shape}."
        )
    if math.prod(shape) == 0 or not shape:
        return jnp.asarray(ends.reshape(-1)[0] if not shape else ends.min())
    return jnp.broadcast_to(
        jnp.asarray(ends.reshape((1,) * (len(shape) - 1) + (-1,))), shape
    )
