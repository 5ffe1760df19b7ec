"""Payloads as words of 32 bits inside a compiled program: what a collective moves.

Inside jit a symbol takes a byte or more. Here the fields of a payload are packed one
after another at the widths that `fedjax_comp.wire.accounting` counts, without a gap,
so that

    len(to_words(payload)) == ceil(num_bits(payload).fixed / 32)

and only the last word is padded. Shapes are static inside jit, so every field must have
a length known from shapes: a `Coded` field and one with a `count` or a `width` are
refused rather than packed at their capacity, since then more would be moved than is
counted.

The bits are those of `to_bytes`, field by field, with the numbers of each field in the
order of `fedjax_comp.wire.words.pack_interleaved`. Values are not checked, since
compiled code cannot raise errors: only the lowest bits of a symbol beyond its
cardinality are packed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.codes.fixed_width import alphabet, bit_width
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols, is_field
from fedjax_comp.wire.raw import HasShape, dtype_bits, size_of
from fedjax_comp.wire.words import (
    WORD_BITS,
    pack_interleaved,
    unpack_interleaved,
    words_for,
)

_WHOLE = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}
_PARTS = {2: jnp.uint2, 4: jnp.uint4}


def to_words(payload: PyTree) -> jax.Array:
    """Packs a payload; works inside jit and under vmap.

    Args:
      payload: arrays and wire fields of lengths known from shapes.

    Returns:
      uint32 `[ceil(num_bits(payload).fixed / 32)]`.

    Raises:
      ValueError: for a field whose length depends on its values, for symbols of more
        than 32 bits and for random keys.

    >>> to_words(Symbols(jnp.arange(1, 4, dtype=jnp.uint8), 4)).tolist()
    [57]
    """
    whole: list[jax.Array] = []
    tail, used = jnp.zeros(1, jnp.uint32), 0  # a word begun, and its bits so far
    for field in _checked_fields(payload):
        numbers, width = _numbers(field)
        length = numbers.size * width
        if not length:
            continue
        words = _moved_up(pack_interleaved(numbers, width), used)
        if used:
            words |= jnp.pad(tail, (0, words.size - 1))
        full, used = divmod(used + length, WORD_BITS)
        whole.append(words[:full])
        tail = words[full : full + 1]
    parts = [*whole, tail] if used else whole
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.uint32)


def from_words(template: PyTree, words: jax.Array) -> PyTree:
    """The payload that `to_words` packed, bit for bit.

    Args:
      template: a payload of the same structure, of arrays or `jax.ShapeDtypeStruct`
        (from `jax.eval_shape`); its values are not looked at.
      words: uint32 `[num_words(template)]`.

    Raises:
      ValueError: as in `to_words`, and for words of another shape or dtype.

    >>> payload = [Symbols(jnp.arange(5, dtype=jnp.uint8), 5), jnp.ones(1)]
    >>> restored = from_words(jax.eval_shape(lambda: payload), to_words(payload))
    >>> restored[0].values.tolist(), restored[1].tolist()
    ([0, 1, 2, 3, 4], [1.0])
    """
    expected = num_words(template)
    if words.shape != (expected,) or words.dtype != jnp.uint32:
        raise ValueError(
            f"Expected uint32 [{expected}] for a payload like the template, got "
            f"{words.dtype} {list(words.shape)}."
        )
    found, offset = [], 0
    for field in _checked_fields(template):
        like = _array_of(field)
        width = _width(field)
        parts = _parts(field)
        length = parts * width
        first, shift = divmod(offset, WORD_BITS)
        span = words[first : words_for(offset + length)]
        own = _moved_down(span, shift, words_for(length))
        offset += length
        numbers = (
            unpack_interleaved(own, parts, width)
            if length
            else jnp.zeros(parts, jnp.uint8)
        )
        found.append(_restored(field, like, numbers))
    structure = jax.tree.structure(template, is_leaf=is_field)
    return jax.tree.unflatten(structure, found)


def num_words(template: PyTree) -> int:
    """How many words a payload takes, from its shapes.

    Args:
      template: as in `from_words`.

    Raises:
      ValueError: as in `to_words`.

    >>> num_words([jax.ShapeDtypeStruct((3,), "bfloat16")])
    2
    """
    return words_for(static_bits(template))


def static_bits(template: PyTree) -> int:
    """`num_bits(template).fixed` of a payload whose length is known from shapes.

    Raises:
      ValueError: as in `to_words`.
    """
    _checked_fields(template)
    return num_bits(template).fixed


# ------------------------------------------------------------------------- streams


def _moved_up(words: jax.Array, bits: int) -> jax.Array:
    """A stream with `bits < 32` zeros before it: one word more, unless `bits` is 0."""
    if not bits:
        return words
    low = words << np.uint32(bits)
    high = words >> np.uint32(WORD_BITS - bits)
    return jnp.pad(low, (0, 1)) | jnp.pad(high, (1, 0))


def _moved_down(words: jax.Array, bits: int, count: int) -> jax.Array:
    """`count` words of a stream without its first `bits < 32` bits."""
    if not bits:
        return words[:count]
    following = jnp.pad(words, (0, 1))[1 : count + 1]
    low = words[:count] >> np.uint32(bits)
    return low | following << np.uint32(WORD_BITS - bits)


# -------------------------------------------------------------------------- fields


def _checked_fields(payload: PyTree) -> list[PyTree]:
    """The fields of a payload, all of lengths known from shapes."""
    placed = jax.tree_util.tree_leaves_with_path(payload, is_leaf=is_field)
    for path, field in placed:
        trouble, way_out = "", ""
        if isinstance(field, Coded):
            trouble = f"is coded by {field.code.name}"
            way_out = "leave the lossless code out of the pipeline"
        elif isinstance(field, Raw | Symbols | IndexSet) and field.count is not None:
            trouble = "has a count"
            way_out = "use a compressor that keeps a fixed number, such as top_k"
        elif isinstance(field, Symbols) and field.width is not None:
            trouble = "has a width"
            way_out = "use a quantizer without a budget, such as stochastic_quantize"
        elif not _has_unsigned_twin(field):
            trouble = f"is of {field_dtype(field)}"
            way_out = "cast it to a dtype of 2, 4, 8, 16, 32 or 64 bits"
        if trouble:
            name = type(field).__name__ if is_field(field) else "the array"
            raise ValueError(
                f"Expected fields of a length known from shapes, but {name} at "
                f"payload{jax.tree_util.keystr(path)} {trouble}: {way_out}, or send it "
                "by to_bytes."
            )
    return [field for _, field in placed]


def _array_of(field: PyTree) -> HasShape:
    array: HasShape = field.values if is_field(field) else field
    return array


def _width(field: PyTree) -> int:
    """Bits of each of the numbers that are packed."""
    if isinstance(field, Symbols | IndexSet):
        return bit_width(alphabet(field))
    return dtype_bits(field_dtype(field)) // _parts_each(field)


def _has_unsigned_twin(field: PyTree) -> bool:
    """Whether the bits of a field's numbers can be taken as unsigned integers."""
    if isinstance(field, Symbols | IndexSet) or field_dtype(field) == jnp.bool_:
        return True
    return _width(field) in _PARTS or _width(field) in _WHOLE


def _parts(field: PyTree) -> int:
    """How many numbers are packed: more than one a value where it is wide."""
    return size_of(_array_of(field)) * _parts_each(field)


def _parts_each(field: PyTree) -> int:
    if isinstance(field, Symbols | IndexSet):
        return 1
    dtype = field_dtype(field)
    halves = 2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1
    return halves * max(1, dtype_bits(dtype) // halves // WORD_BITS)


def field_dtype(field: PyTree) -> np.dtype:
    """The dtype of a field's or an array's numbers."""
    return _array_of(field).dtype


def _numbers(field: PyTree) -> tuple[jax.Array, int]:
    """A field as unsigned integers `[parts]`, and the bits of each."""
    values = jnp.asarray(_array_of(field))
    width = _width(field)
    if isinstance(field, Symbols | IndexSet):
        return values.reshape(-1), width
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        values = jnp.stack([values.real, values.imag], axis=-1)
    if values.dtype == jnp.bool_:
        return values.reshape(-1).astype(jnp.uint8), width
    if width in _PARTS:
        bits = jax.lax.bitcast_convert_type(values, _PARTS[width])
        return bits.reshape(-1).astype(jnp.uint8), width
    return jax.lax.bitcast_convert_type(values, _WHOLE[width]).reshape(-1), width


def _restored(field: PyTree, like: HasShape, numbers: jax.Array) -> PyTree:
    """A field like `field` from the numbers that `_numbers` made of it."""
    dtype = jnp.dtype(like.dtype)
    if isinstance(field, Symbols | IndexSet):
        values = numbers.astype(dtype).reshape(like.shape)
        return dataclasses.replace(field, values=values)
    values = _from_bits(numbers, _width(field), dtype, like.shape)
    return Raw(values) if isinstance(field, Raw) else values


def _from_bits(
    numbers: jax.Array, width: int, dtype: np.dtype, shape: tuple[int, ...]
) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        part = jnp.finfo(dtype).dtype
        both = _from_bits(numbers, width, part, (*shape, 2))
        return jax.lax.complex(both[..., 0], both[..., 1])
    if dtype == jnp.bool_:
        return numbers.astype(dtype).reshape(shape)
    numbers = numbers.astype({**_PARTS, **_WHOLE}[width])
    wide = dtype_bits(dtype) // width
    inner = (*shape, wide) if wide > 1 else shape
    return jax.lax.bitcast_convert_type(numbers.reshape(inner), dtype)
