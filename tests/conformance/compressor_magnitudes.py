"""What a compressor does with numbers that are finite and near the ends of float32.

What is true at an ordinary size is true of its power-of-two multiples, which no
operation rounds otherwise until one leaves the range. Then there are two answers: the
right one, and one that is not finite, which the receiver drops and counts.
"""

import math

import jax.numpy as jnp
import numpy as np

from tests.conformance.compressor_bounds import Entry
from tests.conformance.compressor_checks import (
    HINT,
    ROUNDING,
    client_of,
    context_of,
    message,
    square,
)

IN_RANGE = 120
"""Sums of the 64 numbers below, at `2**120` each, are still numbers of float32."""
BEYOND = (126, 127)  # where norms and sums are not, nor one over the largest number
BELOW = (-118, -124, -130)  # down to numbers that a processor may take for zeros
SMALLEST = 2.0**-126


def shapes_of_numbers() -> dict[str, np.ndarray]:
    """Leaves of `square`'s shape with largest magnitude in [1, 2)."""
    gaussian = np.asarray(square(), np.float64)
    single = np.zeros_like(gaussian)
    single[2, 3] = 1.6
    return {
        "equal magnitudes": np.sign(gaussian),
        "gaussian": 1.5 * gaussian / np.abs(gaussian).max(),
        "single": single,
    }


def check_magnitudes(entry: Entry) -> None:
    """Huge numbers decode to what they should or to what is not finite, never to zeros.

    Tiny ones lose no more than a few times the smallest normal number.
    """
    compressor, step, _ = client_of(entry)
    state = compressor.init(message(square()))

    def decoded_at(value: np.ndarray, exponent: int) -> tuple[np.ndarray, np.ndarray]:
        x = jnp.asarray(np.ldexp(value, exponent), jnp.float32)
        _, decoded, *_ = step(context_of(0), message(x), state)
        return np.asarray(decoded["matrix"], np.float64), np.asarray(x, np.float64)

    worst = math.sqrt(entry.worst_error(square().size))
    for name, value in shapes_of_numbers().items():
        ordinary, _ = decoded_at(value, 0)
        norm = np.linalg.norm(value)
        for exponent in (IN_RANGE, *BEYOND):
            decoded, x = decoded_at(value, exponent)
            what = f"{name} at 2**{exponent}: {decoded}"
            if not np.all(np.isfinite(decoded)):
                assert exponent in BEYOND, f"not finite, {what}{HINT}"
            elif entry.scales:
                off = np.linalg.norm(np.ldexp(decoded, -exponent) - ordinary)
                assert off <= ROUNDING * norm, f"off by {off}, {what}"
            else:
                assert np.any(decoded != 0), f"zeros, {what}{HINT}"
                error = np.linalg.norm(np.ldexp(decoded - x, -exponent))
                assert error <= worst * norm, f"off by {error}, {what}"
        _check_tiny(entry, name, [decoded_at(value, e) for e in BELOW])


def _check_tiny(
    entry: Entry, name: str, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    for decoded, x in pairs:
        lost = 2 * x.size * SMALLEST
        ceiling = math.sqrt(entry.worst_error(x.size)) * np.linalg.norm(x) + lost
        off = np.abs(decoded - x).max()
        assert np.all(np.isfinite(decoded)), f"{name}: {decoded}"
        assert off <= ceiling, f"{name} of size {np.abs(x).max()}: off by {off}"
