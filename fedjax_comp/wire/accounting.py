"""What messages cost: exact bits inside jit, summed on the host as Python ints.

The number of bits of a payload is the number that `fedjax_comp.wire.message.to_bytes`
writes below its header, for every payload: nothing here is an estimate.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits, PyTree, Traffic
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
                "use traffic_bits."
            )
    return bits.fixed + sum(int(array) for array in bits.variable)


def _spoken_bits(traffic: Traffic) -> np.ndarray:
    spoke = np.asarray(traffic.spoke, bool)
    total = np.full(spoke.shape, traffic.bits.fixed, np.uint64)
    for array in traffic.bits.variable:
        total = total + np.asarray(array).astype(np.uint64)
    return total[spoke]


def traffic_bits(traffic: Traffic) -> int:
    """Bits of all messages sent; `spoke` and the lengths are `[C]` or `[R, C]`."""
    return sum(_spoken_bits(traffic).tolist())


def traffic_bytes(traffic: Traffic) -> int:
    """Bytes of all messages sent, each rounded up to whole bytes, without headers.

    Args:
      traffic: one direction's messages; `spoke` and the lengths are `[C]`, or `[R, C]`
        for `R` rounds.

    >>> traffic_bytes(Traffic(Bits(9), np.array([True, False, True])))
    4
    """
    return sum((_spoken_bits(traffic) + np.uint64(7) >> np.uint64(3)).tolist())


def num_messages(traffic: Traffic) -> int:
    """How many messages were sent."""
    return int(np.sum(np.asarray(traffic.spoke), dtype=np.int64))


def broadcast_traffic(payload: PyTree, heard: jax.Array) -> Traffic:
    """One message that several clients hear, each of whom is paid for.

    Args:
      payload: what is broadcast.
      heard: bool `[C]`, or `[K]` when the whole population listens.

    >>> sent = broadcast_traffic(jnp.zeros(3), jnp.array([True, False, True]))
    >>> traffic_bytes(sent)
    24
    """
    bits = num_bits(payload)
    each = tuple(jnp.broadcast_to(v, heard.shape) for v in bits.variable)
    return Traffic(Bits(bits.fixed, each), heard)


def dense_bits(tree: PyTree) -> int:
    """What `tree` costs uncompressed, every leaf as its dtype.

    >>> dense_bits([jax.ShapeDtypeStruct((10, 2), "bfloat16")])
    320
    """
    return sum(array_bits(leaf) for leaf in jax.tree.leaves(tree))
