"""Symbols in words of 32 bits, on the device: the layout of the bit stream itself.

A message is written on the host, from `Symbols` at one byte or more each. Where the way
from the device to the host is what takes time, the symbols can be packed first.
"""

import jax
import jax.numpy as jnp
import numpy as np


def pack_words(values: jax.Array, width: int) -> jax.Array:
    """Packs unsigned integers into words, the first in the lowest bits.

    As bytes, little-endian, the words are what `fedjax_comp.wire.bitstream` writes for
    `values` at this width.

    Args:
      values: unsigned integers below `2**width`, `[n]`.
      width: 1, 2, 4, 8, 16 or 32.

    Returns:
      uint32 `[ceil(n * width / 32)]`, the last one filled up with zeros.

    Raises:
      ValueError: for any other width.

    >>> [hex(word) for word in pack_words(jnp.arange(9, dtype=jnp.uint8), 4).tolist()]
    ['0x76543210', '0x8']
    """
    if width not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"Expected width={width!r}, one of 1, 2, 4, 8, 16 and 32.")
    each = 32 // width
    rows = jnp.pad(values, (0, -values.size % each)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint32)[None, :] * np.uint32(width)
    return jnp.sum(rows.astype(jnp.uint32) << shifts, axis=1, dtype=jnp.uint32)
