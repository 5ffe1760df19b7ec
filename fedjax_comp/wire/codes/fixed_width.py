"""Fixed width: `ceil(log2(cardinality))` bits each, what fields cost uncoded.

Also what every code shares: checks of a field's values and of its greatest length.
"""

import dataclasses
import functools
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, IndexSet, Symbols
from fedjax_comp.wire.raw import size_of

F = TypeVar("F", Symbols, IndexSet)


def bit_width(cardinality: int) -> int:
    """`ceil(log2(cardinality))`, the bits that tell `cardinality` things apart.

    >>> [bit_width(c) for c in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return max(cardinality - 1, 0).bit_length()


def alphabet(field: Symbols | IndexSet) -> int:
    """How many values each number of `field` can take."""
    return field.cardinality if isinstance(field, Symbols) else field.bound


def fixed_bits(field: Symbols | IndexSet) -> int:
    """Bits that `field` costs at fixed width."""
    return size_of(field.values) * bit_width(alphabet(field))


def check_worst_bits(field: Symbols | IndexSet, worst_bits: int) -> None:
    """Refuses a field whose length may not fit the uint32 it is computed in.

    Raises:
      ValueError: when `worst_bits >= 2**32`.
    """
    if max(worst_bits, fixed_bits(field)) >= 1 << 32:
        name = type(field).__name__
        raise ValueError(
            f"Expected fewer than 2**32 bits, got up to {worst_bits} for {name} of "
            f"shape {field.values.shape} with {alphabet(field)} values: split the leaf."
        )


def checked_values(field: Symbols | IndexSet) -> UInt64Array:
    """The values of a field about to be written, `[n]`.

    Raises:
      WireError: when they are not what the field promises.
    """
    values = np.asarray(field.values)
    if values.size and int(values.min()) < 0:
        raise WireError(f"Expected {int(values.min())} >= 0.")
    return _checked(values.ravel().astype(np.uint64), field)


def rebuilt(values: UInt64Array, template: F) -> F:
    """The field that `values`, `[n]`, make, in `template`'s shape and dtype.

    Raises:
      WireError: when they are not what the field promises.
    """
    _checked(values, template)
    dtype, shape = jnp.dtype(template.values.dtype), template.values.shape
    array = jnp.asarray(values.astype(dtype).reshape(shape))
    return dataclasses.replace(template, values=array)


def _checked(values: UInt64Array, field: Symbols | IndexSet) -> UInt64Array:
    limit = alphabet(field)
    if values.size and int(values.max()) >= limit:
        raise WireError(f"Expected {int(values.max())} < {limit}.")
    if isinstance(field, IndexSet) and not np.all(values[1:] > values[:-1]):
        raise WireError("Expected distinct indices in ascending order.")
    return values


@functools.cache
def fixed_width() -> Code:
    """The fixed-width code of `Symbols` and `IndexSet`."""

    def num_bits(field: Symbols | IndexSet) -> Bits:
        return Bits(fixed_bits(field))

    def pack(field: Symbols | IndexSet, writer: BitWriter) -> None:
        writer.write(checked_values(field), bit_width(alphabet(field)))

    def unpack(template: F, reader: BitReader) -> F:
        width = bit_width(alphabet(template))
        return rebuilt(reader.read(size_of(template.values), width), template)

    return Code("fixed_width", num_bits, pack, unpack)
