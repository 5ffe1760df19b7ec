"""Fixed width: `ceil(log2(cardinality))` bits each, what fields cost uncoded.

The module also has what all codes share: checks of a field's values and of its greatest
length, and the count that precedes a field whose length depends on data.
"""

import dataclasses
import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter, UInt64Array
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, IndexSet, Raw, Symbols
from fedjax_comp.wire.raw import size_of

F = TypeVar("F", Symbols, IndexSet)
A = TypeVar("A", bound=np.ndarray)


def bit_width(cardinality: int) -> int:
    """`ceil(log2(cardinality))`, the bits that distinguish `cardinality` values.

    >>> [bit_width(c) for c in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return max(cardinality - 1, 0).bit_length()


def alphabet(field: Symbols | IndexSet) -> int:
    """How many values each number of `field` can take."""
    return field.cardinality if isinstance(field, Symbols) else field.bound


def fixed_bits(field: Symbols | IndexSet) -> int:
    """Bits that `field` costs at fixed width; with a `count` or `width`, at most."""
    return size_of(field.values) * bit_width(alphabet(field))


def count_bits(field: Raw | Symbols | IndexSet) -> int:
    """Bits that the count of `field` costs; 0 for a field without a count."""
    return 0 if field.count is None else size_of(field.values).bit_length()


def length_in_jit(field: Raw | Symbols | IndexSet) -> jax.Array:
    """How many values of `field` travel: uint32 scalar."""
    if field.count is None:
        return jnp.uint32(size_of(field.values))
    return field.count.astype(jnp.uint32)


def travels(field: Symbols | IndexSet) -> jax.Array | None:
    """Bool `[n]`, which of the raveled values travel; None when all do."""
    if field.count is None:
        return None
    return jnp.arange(size_of(field.values), dtype=jnp.uint32) < length_in_jit(field)


def write_count(field: Raw | Symbols | IndexSet, writer: BitWriter) -> int:
    """Writes the count, where there is one; returns how many values are to follow.

    Raises:
      WireError: when a value that does not travel is not zero, or the count is more
        than the capacity.
    """
    size = size_of(field.values)
    if field.count is None:
        return size
    count = int(field.count)
    if not 0 <= count <= size:
        raise WireError(f"Expected count={count} in [0, {size}].")
    behind = np.ascontiguousarray(field.values).ravel()[count:]
    if behind.view(np.uint8).any():
        raise WireError(f"Expected zeros behind the first {count} values.")
    writer.write([count], count_bits(field))
    return count


def read_count(template: Raw | Symbols | IndexSet, reader: BitReader) -> int:
    """Reads how many values follow; raises `WireError` for more than there may be."""
    size = size_of(template.values)
    if template.count is None:
        return size
    count = int(reader.read(1, count_bits(template))[0])
    if count > size:
        raise WireError(f"Expected count={count} in [0, {size}].")
    return count


def refuse_width(name: str, field: Symbols | IndexSet) -> None:
    """Raises `ValueError` for a field that sends the width of its symbols."""
    if isinstance(field, Symbols) and field.width is not None:
        raise ValueError(
            f"Expected symbols without a width in {name}: symbols whose width was "
            "chosen for a budget travel at it; leave the code out."
        )


def check_worst_bits(field: Symbols | IndexSet, worst_bits: int) -> None:
    """Refuses a field whose length may not fit the uint32 it is computed in.

    Raises:
      ValueError: when `worst_bits >= 2**32`.
    """
    most = max(worst_bits, fixed_bits(field))
    if most >= 1 << 32:
        name = type(field).__name__
        raise ValueError(
            f"Expected fewer than 2**32 bits, got up to {most} for {name} of "
            f"shape {field.values.shape} with {alphabet(field)} values: split the leaf."
        )


def checked_values(field: Symbols | IndexSet) -> UInt64Array:
    """The values of a field about to be written, `[n]`: the first `count` of them.

    Raises:
      WireError: when they are not what the field promises.
    """
    return checked_as_they_are(field).astype(np.uint64)


def checked_as_they_are(field: Symbols | IndexSet) -> np.ndarray:
    """As `checked_values`, in the field's own dtype: without a pass over `8 n` bytes.

    Raises:
      WireError: when they are not what the field promises.
    """
    values = np.asarray(field.values).ravel()
    if field.count is not None:
        values = values[: int(field.count)]
    if values.size and int(values.min()) < 0:
        raise WireError(f"Expected {int(values.min())} >= 0.")
    return _checked(values, field)


def rebuilt(values: UInt64Array, template: F) -> F:
    """The field that `values`, `[n]`, make, in `template`'s shape and dtype.

    Fewer values than the template's are its first `count`, the others zeros.

    Raises:
      WireError: when they are not what the field promises.
    """
    _checked(values, template)
    dtype, shape = jnp.dtype(template.values.dtype), template.values.shape
    array = np.zeros(size_of(template.values), dtype)
    array[: values.size] = values.astype(dtype)
    field = dataclasses.replace(template, values=jnp.asarray(array.reshape(shape)))
    if template.count is None:
        return field
    count = jnp.asarray(values.size, template.count.dtype)
    return dataclasses.replace(field, count=count)


def _checked(values: A, field: Symbols | IndexSet) -> A:
    limit = alphabet(field)
    if values.size and int(values.max()) >= limit:
        raise WireError(f"Expected {int(values.max())} < {limit}.")
    if isinstance(field, IndexSet) and not np.all(values[1:] > values[:-1]):
        raise WireError("Expected distinct indices in ascending order.")
    return values


def _width_bits(field: Symbols) -> int:
    return bit_width(field.cardinality).bit_length()


@functools.cache
def fixed_width() -> Code:
    """The fixed-width code of `Symbols` and `IndexSet`."""

    def num_bits(field: Symbols | IndexSet) -> Bits:
        traced_width = field.width if isinstance(field, Symbols) else None
        if field.count is None and traced_width is None:
            return Bits(fixed_bits(field))
        check_worst_bits(field, fixed_bits(field))
        fixed, width = count_bits(field), jnp.uint32(bit_width(alphabet(field)))
        if isinstance(field, Symbols) and field.width is not None:
            fixed, width = fixed + _width_bits(field), field.width.astype(jnp.uint32)
        return Bits(fixed, (length_in_jit(field) * width,))

    def pack(field: Symbols | IndexSet, writer: BitWriter) -> None:
        values, width = checked_values(field), bit_width(alphabet(field))
        write_count(field, writer)
        if isinstance(field, Symbols) and field.width is not None:
            widest, width = width, int(field.width)
            if width > widest:
                raise WireError(f"Expected width={width} <= {widest}.")
            writer.write([width], _width_bits(field))
        writer.write(values, width)

    def unpack(template: Symbols | IndexSet, reader: BitReader) -> Symbols | IndexSet:
        count, width = read_count(template, reader), bit_width(alphabet(template))
        if isinstance(template, IndexSet):
            return rebuilt(reader.read(count, width), template)
        if template.width is None:
            return rebuilt(reader.read(count, width), template)
        widest, width = width, int(reader.read(1, _width_bits(template))[0])
        if width > widest:
            raise WireError(f"Expected width={width} <= {widest}.")
        sent = jnp.asarray(width, template.width.dtype)
        field = rebuilt(reader.read(count, width), template)
        return dataclasses.replace(field, width=sent)

    return Code("fixed_width", num_bits, pack, unpack)
