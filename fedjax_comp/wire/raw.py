"""Arrays that are sent as their dtype: what they cost and how they are written.

A bool costs one bit and a sub-byte number (int4, float4) its own width; everything else
its bytes, little-endian. NaN payloads and signed zeros arrive as they were sent.
"""

import math
import sys
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt8Array


class HasShape(Protocol):
    """An array, or a `jax.ShapeDtypeStruct` that stands for one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype:
        """Its dtype."""


def size_of(array: HasShape) -> int:
    """Number of elements, also of a `jax.ShapeDtypeStruct`."""
    return math.prod(array.shape)


def dtype_bits(dtype: jax.typing.DTypeLike) -> int:
    """Bits that one number of `dtype` costs on the wire.

    Raises:
      ValueError: for keys, which do not travel.

    >>> [dtype_bits(d) for d in ("bool", "int4", "bfloat16", "float32")]
    [1, 4, 16, 32]
    """
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        raise ValueError(
            f"Expected numbers, got {dtype}: keys do not travel, both ends derive "
            "them from the context."
        )
    dtype = jnp.dtype(dtype)
    return 1 if dtype == np.bool_ else jax.dtypes.itemsize_bits(dtype)


def array_bits(array: HasShape) -> int:
    """Bits that `array` costs as its dtype."""
    return size_of(array) * dtype_bits(array.dtype)


def write_array(array: npt.ArrayLike, writer: BitWriter) -> None:
    """Writes `array`, any shape, as its dtype."""
    values = np.ascontiguousarray(array).ravel()
    width = dtype_bits(values.dtype)
    if width % 8:
        writer.write(values.view(np.uint8) & np.uint8((1 << width) - 1), width)
        return
    data = values.view(np.uint8)
    writer.write_bytes(_little_endian(data, values.dtype))


def read_array(template: HasShape, reader: BitReader) -> np.ndarray:
    """Reads an array of `template`'s shape and dtype."""
    dtype, size = jnp.dtype(template.dtype), size_of(template)
    width = dtype_bits(dtype)
    if width % 8:
        data = reader.read(size, width).astype(np.uint8)
    else:
        data = _little_endian(reader.read_bytes(size * dtype.itemsize), dtype)
    return data.view(dtype).reshape(template.shape)


def _little_endian(data: UInt8Array, dtype: np.dtype) -> UInt8Array:
    if sys.byteorder == "little":
        return data
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return np.ascontiguousarray(data.reshape(-1, part)[:, ::-1]).ravel()
