"""What messages cost: exact bits inside jit, summed on the host as Python ints.

The number of bits of a payload is the number that `fedjax_comp.wire.message.to_bytes`
writes below its header, for every payload: nothing here is an estimate.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits, PyTree
from fedjax_comp.wire.codes.fixed_width import (
    count_bits,
    fixed_width,
    length_in_jit,
)
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols, fields
from fedjax_comp.wire.raw import array_bits, dtype_bits


def num_bits(payload: PyTree) -> Bits:
    """The exact length of one message; works inside jit and under vmap.

    Args:
      payload: arrays and wire fields, or `jax.ShapeDtypeStruct` in place of the arrays
        when no field is `Coded` or has a `count` or a `width`.

    Returns:
      Static bits as a Python int, and one uint32 scalar for every field whose length
      depends on its values.

    Raises:
      ValueError: for random keys, and for a leaf that could cost 2**32 bits or more
        under a variable-length code.

    >>> num_bits({"w": jnp.zeros(3), "s": Symbols(jnp.zeros(5, jnp.uint8), 3)}).fixed
    106
    """
    return add_bits(*map(_field_bits, fields(payload)))


def _field_bits(field: PyTree) -> Bits:
    match field:
        case Coded():
            return field.code.num_bits(field.field)
        case Symbols() | IndexSet():
            return fixed_width().num_bits(field)
        case Raw(values, count) if count is not None:
            return _counted_bits(field, dtype_bits(values.dtype))
        case Raw():
            return Bits(array_bits(field.values))
        case _:
            return Bits(array_bits(field))


def _counted_bits(field: Raw, width: int) -> Bits:
    capacity = array_bits(field.values)
    if capacity >= 1 << 32:
        raise ValueError(
            f"Expected fewer than 2**32 bits, got up to {capacity} for Raw of shape "
            f"{field.values.shape} with a count: split the leaf."
        )
    length = length_in_jit(field) * jnp.uint32(width)
    return Bits(count_bits(field), (length,))


def add_bits(*parts: Bits) -> Bits:
    """The length of a message made of `parts`.

    >>> add_bits(Bits(3), Bits(4)).fixed
    7
    """
    return Bits(
        fixed=sum(part.fixed for part in parts),
        variable=tuple(array for part in parts for array in part.variable),
    )


def message_bits(bits: Bits) -> int:
    """The length of one message as a Python int, on the host.

    Raises:
      ValueError: when `bits` holds the lengths of several messages.
    """
    for array in bits.variable:
        if np.ndim(array):
            raise ValueError(
                f"Expected the bits of one message, got shape {np.shape(array)}: "
                "use fedjax_comp.wire.traffic."
            )
    return bits.fixed + sum(int(array) for array in bits.variable)


def message_bytes(payload: PyTree) -> int:
    """The bytes of one message without its frame, on the host.

    Args:
      payload: as in `num_bits`.

    >>> message_bytes({"w": jnp.zeros(3), "s": Symbols(jnp.zeros(5, jnp.uint8), 3)})
    14
    """
    return -(-message_bits(num_bits(payload)) // 8)


def dense_bits(tree: PyTree) -> int:
    """What `tree` costs uncompressed, every leaf as its dtype.

    >>> dense_bits([jax.ShapeDtypeStruct((10, 2), "bfloat16")])
    320
    """
    return sum(array_bits(leaf) for leaf in jax.tree.leaves(tree))
