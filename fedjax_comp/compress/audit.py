"""Audit of messages: to bytes, back from those bytes alone, decoded, compared.

What an audit proves of a message: its length is the one the ledger counted, the bytes
alone give the payload back bit for bit, and what the receiver makes of them is bit for
bit what it makes of the payload that the run used.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjax_comp.base import Bits, Compressor, Context, Messages, PyTree
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes


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
        sent = np.flatnonzero(np.asarray(messages.spoke))
        failures = []
        for i in sent:
            one = jax.tree.map(lambda x, i=int(i): x[i], messages)
            reason = _fault(receive, one)
            if reason:
                failures.append(f"message {i}: {reason}")
        return Audit(len(sent), tuple(failures))

    return audit


Receive = Callable[[Context, PyTree, PyTree], tuple[PyTree, Bits]]


def _fault(receive: Receive, message: Messages) -> str | None:
    payload = message.payload
    direct, bits = receive(message.context, payload, message.receiver)
    body_bytes = -(-message_bits(bits) // 8)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), payload)
    try:
        data = to_bytes(payload)
        if len(data) - HEADER_BYTES != body_bytes:
            return f"{body_bytes} bytes counted, {len(data) - HEADER_BYTES} written"
        rebuilt = from_bytes(data, template)
    except WireError as error:
        return str(error)
    if not bit_equal(payload, rebuilt):
        return "the payload read from the bytes differs from the one sent"
    from_wire, _ = receive(message.context, rebuilt, message.receiver)
    if not bit_equal(direct, from_wire):
        return "decoding from the bytes differs from decoding the payload"
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
