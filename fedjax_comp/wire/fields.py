"""Wire fields: what the leaves of a payload mean, and so what they cost.

A payload is a pytree whose "leaves" are fields or bare arrays. A bare float array is
*open*: it travels as its dtype unless a later stage of a chain refines it. A stage
closes what it has finished by wrapping it in a field. Everything static about a field
(cardinality, bound, code) is metadata: agreed by both ends, free on the wire.

Lengths that depend on data are paid for. Shapes are static inside jit, so a field of
variable length has an array of fixed *capacity* and a `count`, a uint32 scalar: first
the count itself is sent, in `capacity.bit_length()` bits, then only the first `count`
values in raveled order. The values after these must be zeros (`keep_prefix` makes them
so) since that is what the receiver gets. `Symbols` may also have a `width`, a
uint32 scalar: every symbol travels in that many bits, after the width itself in
`ceil(log2(cardinality)).bit_length()` bits. Both are None by default, and then cost
nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import Bits, PyTree

if TYPE_CHECKING:
    from fedjax_comp.wire.bitstream import BitReader, BitWriter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Raw:
    """Finished numbers that travel as their dtype: `values` of any shape and dtype.

    With a `count` (see above) only the first `count` numbers travel.
    """

    values: jax.Array
    count: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Symbols:
    """Integers in `[0, cardinality)`, unsigned dtype, any shape.

    Uncoded they cost `ceil(log2(cardinality))` bits each, or `width` where there is one
    (then they lie in `[0, 2**width)`, and `width` is at most that). With a `count` only
    the first `count` symbols travel.
    """

    values: jax.Array
    cardinality: int = dataclasses.field(metadata={"static": True})
    count: jax.Array | None = None
    width: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IndexSet:
    """`k` distinct indices in `[0, bound)` in ascending order, uint32 `[k]`.

    Uncoded they cost `ceil(log2(bound))` bits each. With a `count` the set is the first
    `count` of them; those behind are zeros.
    """

    values: jax.Array
    bound: int = dataclasses.field(metadata={"static": True})
    count: jax.Array | None = None


class Code(NamedTuple):
    """A lossless code for one field: its length inside jit, its bits on the host.

    Attributes:
      name: what it is called in tables.
      num_bits: `(field) -> Bits`, exactly what `pack` writes; works inside jit.
      pack: `(field, writer) -> None`, NumPy on the host.
      unpack: `(template, reader) -> field`, NumPy on the host. `template` has the
        field's static metadata and shapes, not its values. Raises `WireError`.
      pack_all: `(fields, writers) -> None`, the field of each of several messages to
        that message's writer, as `pack` would one after another; None where that is
        as fast.
      takes: the kinds of field that it codes.
    """

    name: str
    num_bits: Callable[[PyTree], Bits]
    pack: "Callable[[Any, BitWriter], None]"
    unpack: "Callable[[Any, BitReader], Any]"
    pack_all: "Callable[[Sequence[Any], Sequence[BitWriter]], None] | None" = None
    takes: tuple[type, ...] = (Symbols, IndexSet)


def write_all(
    code: Code, fields: Sequence[Any], writers: "Sequence[BitWriter]"
) -> None:
    """Writes the same field of several messages, each to its own writer."""
    if code.pack_all is not None:
        code.pack_all(fields, writers)
        return
    for field, writer in zip(fields, writers, strict=True):
        code.pack(field, writer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coded:
    """A `Symbols` or `IndexSet` that a lossless code puts on the wire.

    The values are kept as they are, since the code is lossless: inside a run only its
    exact length is computed, and `to_bytes` writes the bits themselves.
    """

    field: Symbols | IndexSet
    code: Code = dataclasses.field(metadata={"static": True})


Field = Raw | Symbols | IndexSet | Coded


def is_field(node: PyTree) -> bool:
    """Whether `node` is a wire field (use as `is_leaf` when mapping over a payload)."""
    return isinstance(node, Raw | Symbols | IndexSet | Coded)


def fields(payload: PyTree) -> list[PyTree]:
    """The fields and bare arrays of a payload, in the order in which they travel."""
    return jax.tree.leaves(payload, is_leaf=is_field)


def keep_prefix(values: jax.Array, count: jax.Array) -> jax.Array:
    """The first `count` values in raveled order, zeros behind them; any shape.

    >>> keep_prefix(jnp.arange(1, 5), jnp.uint32(2))
    Array([1, 2, 0, 0], dtype=int32)
    """
    place = jnp.arange(values.size, dtype=jnp.uint32).reshape(values.shape)
    return jnp.where(place < count, values, jnp.zeros((), values.dtype))
