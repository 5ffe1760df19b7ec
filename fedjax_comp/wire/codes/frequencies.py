"""The table of an entropy code: frequencies that are cheap to send.

A frequency is sent as a tiny float: the exponent of the symbol's count (differences
along the alphabet, zigzag, Elias gamma) and a few bits of mantissa, as many as pay off
for the number of symbols and the size of the alphabet. Both ends derive frequencies out
of `2**14` from those floats, in the same integer arithmetic.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes.elias import read_gamma, write_gamma
from fedjax_comp.wire.errors import WireError

SCALE_BITS = 14
"""Frequencies sum to `2**SCALE_BITS`."""

_WEIGHT_BITS = 16

UInt32Array = npt.NDArray[np.uint32]
A = TypeVar("A", jax.Array, UInt32Array)


def mantissa_bits(n: int, alphabet: int) -> int:
    """Mantissa bits of a frequency, up to where one more costs what it saves.

    Rounding to `m` bits costs about `0.029 * 4**-m` bits a symbol and each bit of `m`
    costs `alphabet` bits once, so that `4**m = n / (25 alphabet)`.

    >>> [mantissa_bits(n, a) for n, a in ((100, 16), (20_000, 3), (1_600_000, 256))]
    [1, 4, 4]
    """
    return min(10, max(1, round(math.log2(max(n, 1) / (25 * alphabet)) / 2)))


# The next four functions use nothing but integer operators and methods that JAX and
# NumPy arrays share, so that the length inside jit, the encoder and the decoder cannot
# come to different tables. All arrays are uint32.


def _floor_log2(x: A) -> A:
    result = x * 0
    for shift in (16, 8, 4, 2, 1):
        above = ((x >> shift) > 0).astype("uint32")
        result, x = result + shift * above, x >> (shift * above)
    return result


def table_tokens(counts: A, m: int) -> tuple[A, A]:
    """Counts `[a]` as exponents in `[0, 32]`, 0 for none, and `m`-bit mantissas."""
    present = (counts > 0).astype("uint32")
    log = _floor_log2(counts)
    mantissa = (counts << (31 - log) << 1) >> (32 - m)
    return (log + 1) * present, mantissa * present


def table_frequencies(exponents: A, mantissas: A, m: int) -> tuple[A, A]:
    """Starts and frequencies `[a]`, the latter 1 at least where an exponent is not 0.

    They sum to `2**14`: every present symbol gets 1 and the rest is dealt in proportion
    to the weights by rounding their running sum.
    """
    present = (exponents > 0).astype("uint32")
    weight = (2 * mantissas + (1 << (m + 1)) + 1) << (_WEIGHT_BITS - m - 1)
    weight = (weight >> (exponents.max() - exponents)) * present
    upper = weight.cumsum(dtype="uint32")
    lower = upper - weight
    # Scaled down until the product below fits into 32 bits.
    log = _floor_log2(upper[-1:])
    excess = (log > 17).astype("uint32") * (log - 17)
    upper, lower = upper >> excess, lower >> excess
    ranks = present.cumsum(dtype="uint32")
    share = (1 << SCALE_BITS) - ranks[-1:]
    total = upper[-1:]
    ends = ranks + upper * share // total
    starts = ranks - present + lower * share // total
    return starts, ends - starts


def _steps(exponents: A) -> tuple[A, A]:
    # The first exponent counts as a step up from 0, which zigzag makes twice itself.
    steps = exponents[1:].astype("int32") - exponents[:-1].astype("int32")
    return 2 * exponents[:1], ((steps << 1) ^ (steps >> 31)).astype("uint32")


def table_bits(exponents: jax.Array, m: int) -> jax.Array:
    """Exact bits of the table, inside jit: uint32 scalar."""
    zigzag = jnp.concatenate(_steps(exponents))
    gamma = jnp.sum(2 * _floor_log2(zigzag + 1) + 1, dtype=jnp.uint32)
    return gamma + m * jnp.sum(exponents > 0, dtype=jnp.uint32)


def write_table(
    exponents: UInt32Array, mantissas: UInt32Array, m: int, writer: BitWriter
) -> None:
    """Writes exponents `[a]` and the mantissas of those that are not 0."""
    zigzag = np.concatenate(_steps(exponents)).astype(np.uint64)
    write_gamma(zigzag + np.uint64(1), writer)
    writer.write(mantissas[exponents > 0], m)


def read_table(
    alphabet: int, m: int, reader: BitReader
) -> tuple[UInt32Array, UInt32Array]:
    """Reads exponents and mantissas, `[alphabet]`; some exponent is not 0."""
    zigzag = (read_gamma(alphabet, reader) - np.uint64(1)).astype(np.int64)
    exponents = np.cumsum((zigzag >> 1) ^ -(zigzag & 1))
    if exponents.min() < 0 or not 0 < exponents.max() <= 32:
        raise WireError("The table of frequencies is damaged.")
    mantissas = np.zeros(alphabet, np.uint32)
    present = exponents > 0
    mantissas[present] = reader.read(int(present.sum()), m)
    return exponents.astype(np.uint32), mantissas
