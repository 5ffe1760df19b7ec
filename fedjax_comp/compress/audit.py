"""Audit of messages: writes them to bytes, reads these back, decodes and compares.

What an audit proves of a message: its length is the one the ledger counted, the bytes
alone give the payload back bit for bit, what the receiver makes of them is bit for bit
what it makes of the payload, and that is what the run went on with. The last is held to
float32's rounding and not to the bit, since the run decodes inside a larger program,
where the compiler may order the same operations differently.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import (
    Bits,
    Compressor,
    Context,
    Messages,
    PyTree,
)
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes, to_bytes_all

TOLERANCE = 1e-4
"""How far, against a leaf's largest magnitude, what the run used may be from what is
decoded: well above the rounding of a rotation of 2**24 coordinates, well below the
error of any compressor."""


class Audit(NamedTuple):
    """The outcome of an audit.

    Attributes:
      audited: messages that were checked.
      failures: one line for each message that failed, naming it and the reason.
    """

    audited: int
    failures: tuple[str, ...]


def make_auditor(compressor: Compressor) -> Callable[[Messages], Audit]:
    """An auditor of one link's messages, with its decoder compiled once.

    Args:
      compressor: the one that the link uses.

    Returns:
      `(messages) -> Audit`, for `Messages` with a leading axis `C`.
    """

    @jax.jit
    def receive(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, Bits]:
        return compressor.decode(context, payload, receiver)[0], num_bits(payload)

    def audit(messages: Messages) -> Audit:
        sent = np.flatnonzero(np.asarray(messages.spoke)).tolist()
        rows = list(map(_one_by_one(messages), sent))
        failures = []
        written = _written([row.payload for row in rows])
        for i, row, data in zip(sent, rows, written, strict=True):
            reason = _fault(receive, row, data)
            if reason:
                failures.append(f"message {i}: {reason}")
        return Audit(len(sent), tuple(failures))

    return audit


def _one_by_one(messages: Messages) -> Callable[[int], Messages]:
    """Any one of the messages, as NumPy's arrays but for the keys.

    To take a row of an array of a device is a program of its own for every row.
    """

    def on_host(x: jax.Array) -> np.ndarray:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    leaves, structure = jax.tree.flatten(messages)
    rows = [on_host(x) for x in leaves]

    def message(i: int) -> Messages:
        one = [
            jax.random.wrap_key_data(row[i], impl=jax.random.key_impl(x))
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else row[i]
            for row, x in zip(rows, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, one)

    return message


def _written(payloads: list[PyTree]) -> list[bytes | WireError]:
    """Every payload's bytes, or why it has none."""

    def alone(payload: PyTree) -> bytes | WireError:
        try:
            return to_bytes(payload)
        except WireError as error:
            return error

    try:
        return [*to_bytes_all(payloads)]
    except WireError:  # of one of them: which, is told by writing each by itself
        return [alone(payload) for payload in payloads]


Receive = Callable[[Context, PyTree, PyTree], tuple[PyTree, Bits]]


def _fault(receive: Receive, message: Messages, data: bytes | WireError) -> str | None:
    if isinstance(data, WireError):
        return str(data)
    payload = message.payload
    direct, bits = receive(message.context, payload, message.receiver)
    body_bytes = -(-message_bits(bits) // 8)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), payload)
    if len(data) - HEADER_BYTES != body_bytes:
        return f"{body_bytes} bytes counted, {len(data) - HEADER_BYTES} written"
    try:
        rebuilt = from_bytes(data, template)
    except WireError as error:
        return str(error)
    if not bit_equal(payload, rebuilt):
        return "the payload read from the bytes differs from the one sent"
    from_wire, _ = receive(message.context, rebuilt, message.receiver)
    if not bit_equal(direct, from_wire):
        return "decoding from the bytes differs from decoding the payload"
    if not nearly_equal(message.used, from_wire):
        return "the run went on with something else than what the bytes decode to"
    return None


def bit_equal(a: PyTree, b: PyTree) -> bool:
    """Whether two trees have the same structure and the same bytes in every leaf."""
    if operator.ne(jax.tree.structure(a), jax.tree.structure(b)):
        return False
    return all(
        np.asarray(x).dtype == np.asarray(y).dtype
        and np.asarray(x).shape == np.asarray(y).shape
        and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def nearly_equal(a: PyTree, b: PyTree) -> bool:
    """Whether two trees are alike up to `TOLERANCE` of each leaf's largest magnitude.

    >>> nearly_equal({"w": np.float32([1, 2])}, {"w": np.float32([1, 2.0001])})
    True
    >>> nearly_equal({"w": np.float32([1, 2])}, {"w": np.float32([1, 0])})
    False
    """
    if operator.ne(jax.tree.structure(a), jax.tree.structure(b)):
        return False
    return all(map(_alike, jax.tree.leaves(a), jax.tree.leaves(b)))


def _alike(a: jax.Array, b: jax.Array) -> bool:
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if not jnp.issubdtype(x.dtype, np.floating):
        return bool(np.array_equal(x, y))
    one, other = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(other)
    largest = np.max(np.abs(other), initial=0.0, where=finite)
    # In bfloat16 one unit in the last place is already more than the tolerance.
    allowed = max(TOLERANCE, 2 * float(jnp.finfo(x.dtype).eps)) * largest
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= allowed
    return bool(np.all(near | (one == other) | (np.isnan(one) & np.isnan(other))))
