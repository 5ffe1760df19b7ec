"""Messages as bytes: a framed header and the payload's fields, one after another.

The header is 16 bytes: `b"FJC"`, the format's version (uint8), the length of the body
in bytes (uint64) and its CRC-32 (uint32), little-endian. The body is one bit stream
(`fedjax_comp.wire.bitstream`) filled up to a byte with zeros, so

    len(to_bytes(payload)) == HEADER_BYTES + ceil(message_bits(num_bits(payload)) / 8)

Everything else, from shapes to codes, is in the template that both ends agreed on.
The checksum detects accidents. Against anything else, such as a body forged with a
valid checksum, the decoders check every length before they allocate and every value
before they return it: bytes that do not hold a message raise `WireError` and do nothing
else.
"""

import struct
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes.fixed_width import fixed_width, read_count, write_count
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import (
    Coded,
    IndexSet,
    Raw,
    Symbols,
    fields,
    is_field,
    write_all,
)
from fedjax_comp.wire.raw import read_array, size_of, write_array

_MAGIC = b"FJC"
_VERSION = 1
_HEADER = struct.Struct("<3sBQI")

_TOGETHER = 8
"""Messages that are written at a time: of more the parts no longer lie in a cache."""

HEADER_BYTES = _HEADER.size
"""Bytes that every message pays on top of its payload."""


def to_bytes(payload: PyTree) -> bytes:
    """The message that carries `payload`, on the host.

    Args:
      payload: arrays and wire fields.

    Raises:
      WireError: when a field's values are not what the field promises.

    >>> len(to_bytes([jnp.zeros(3), Symbols(jnp.zeros(5, jnp.uint8), 4)]))
    30
    """
    return frame(pack_body(payload))


def to_bytes_all(payloads: Sequence[PyTree]) -> list[bytes]:
    """The messages that carry several payloads of one kind, on the host.

    Each is what `to_bytes` gives, in less time: fields coded by rANS are coded for many
    messages in one compiled loop.

    Args:
      payloads: of one structure, with the same shapes and static metadata.

    Raises:
      WireError: when a field's values are not what the field promises.

    >>> [len(data) for data in to_bytes_all([[jnp.zeros(3)], [jnp.ones(3)]])]
    [28, 28]
    """
    starts = range(0, len(payloads), _TOGETHER)
    groups = (payloads[start : start + _TOGETHER] for start in starts)
    return [frame(body) for group in groups for body in _pack_bodies(group)]


def from_bytes(data: bytes, template: PyTree) -> PyTree:
    """The payload that a message carries, equal to the one sent bit for bit.

    Args:
      data: what `to_bytes` gave.
      template: a payload of the same structure, of arrays or `jax.ShapeDtypeStruct`
        (from `jax.eval_shape`); its values are not looked at.

    Raises:
      WireError: for anything but an intact message of `template`'s kind, and for one
        that `to_bytes` would not have written.

    >>> template = [jax.ShapeDtypeStruct((2,), "float32")]
    >>> from_bytes(to_bytes([jnp.ones(2)]), template)
    [Array([1., 1.], dtype=float32)]
    """
    body = unframe(data)
    payload = unpack_body(body, template)
    if pack_body(payload) != body:
        raise WireError("The bytes hold a payload in another way than it is written.")
    return payload


def frame(body: bytes) -> bytes:
    """Puts the header before `body`."""
    return _HEADER.pack(_MAGIC, _VERSION, len(body), zlib.crc32(body)) + body


def unframe(data: bytes) -> bytes:
    """The body of a message whose header and checksum are right.

    Raises:
      WireError: when they are not.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"Expected at least {HEADER_BYTES} bytes, got {len(data)}.")
    magic, version, length, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise WireError(f"Expected a message that begins with {_MAGIC!r}.")
    if version != _VERSION:
        raise WireError(f"Expected version {_VERSION}, got {version}.")
    if length != len(data) - HEADER_BYTES:
        raise WireError(
            f"Expected a body of {length} bytes, got {len(data) - HEADER_BYTES}."
        )
    body = data[HEADER_BYTES:]
    if zlib.crc32(body) != checksum:
        raise WireError("The checksum is wrong: the message was damaged on its way.")
    return body


def pack_body(payload: PyTree) -> bytes:
    """The fields of `payload` as one bit stream, without a header."""
    (body,) = _pack_bodies([payload])
    return body


def _pack_bodies(payloads: Sequence[PyTree]) -> list[bytes]:
    """Field by field, each of all payloads."""
    writers = [BitWriter() for _ in payloads]
    for same in zip(*map(fields, payloads), strict=True):
        if isinstance(same[0], Coded):
            write_all(same[0].code, [field.field for field in same], writers)
            continue
        for field, writer in zip(same, writers, strict=True):
            _pack_field(field, writer)
    return [writer.to_bytes() for writer in writers]


def _pack_field(field: PyTree, writer: BitWriter) -> None:
    match field:
        case Symbols() | IndexSet():
            fixed_width().pack(field, writer)
        case Raw():
            count = write_count(field, writer)
            write_array(np.asarray(field.values).ravel()[:count], writer)
        case _:
            write_array(field, writer)


def _read_raw(template: Raw, reader: BitReader) -> Raw:
    like = template.values
    if template.count is None:
        return Raw(jnp.asarray(read_array(like, reader)))
    count = read_count(template, reader)
    values = np.zeros(size_of(like), jnp.dtype(like.dtype))
    values[:count] = read_array(jax.ShapeDtypeStruct((count,), like.dtype), reader)
    return Raw(
        jnp.asarray(values.reshape(like.shape)),
        jnp.asarray(count, template.count.dtype),
    )


def unpack_body(body: bytes, template: PyTree) -> PyTree:
    """What `pack_body` was given; other encodings of it are read too.

    Raises:
      WireError: when `body` does not hold a payload of `template`'s kind.
    """
    reader = BitReader(body)

    def read(field: PyTree) -> PyTree:
        match field:
            case Coded():
                return Coded(field.code.unpack(field.field, reader), field.code)
            case Symbols() | IndexSet():
                return fixed_width().unpack(field, reader)
            case Raw():
                return _read_raw(field, reader)
            case _:
                return jnp.asarray(read_array(field, reader))

    leaves, treedef = jax.tree.flatten(template, is_leaf=is_field)
    payload = jax.tree.unflatten(treedef, [read(leaf) for leaf in leaves])
    reader.finish()
    return payload
