"""What travels in a Flower app as bytes, and what is refused: no Flower needed here.

A sealed message is a stamp of 33 bytes before a message of `fedjax_comp.wire.message`,
little-endian: `b"FJF"`, the format's version and the kind of message (uint8 each), run
(uint64), round (uint32), node (uint64), eight bytes of BLAKE2b over all other bytes. So
a message belongs to one run, round and node, and shows when it is sent again in another
round or by another node. The digest has no key: it finds accidents and replays, but
proves nobody's identity. That is left to Flower (SuperNodes can be made to sign).
"""

import hashlib
import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context, LinkState, PyTree, make_context
from fedjax_comp.compress.low_rank.history import Remembered
from fedjax_comp.keys import make_key
from fedjax_comp.server.broadcast import partly_heard
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

Kind = Literal["train", "evaluate", "update"]

_MAGIC, _VERSION = b"FJF", 1
_HEAD = struct.Struct("<3sBBQIQ")
_DIGEST_BYTES = 8
_KINDS: tuple[Kind, ...] = ("train", "evaluate", "update")

STAMP_BYTES = _HEAD.size + _DIGEST_BYTES
OVERHEAD_BYTES = STAMP_BYTES + HEADER_BYTES
"""What a sealed message is longer than its payload, which is what a ledger counts."""


class Refused(ValueError):
    """A message that does not count; the text is the reason, in one line."""


class Stamp(NamedTuple):
    """Which message it is: of one kind, run, round and node."""

    kind: Kind
    run: int
    round: int
    node: int


class FlowerLink(NamedTuple):
    """Both links of an app as functions of trees and bytes; made by `flower_link`.

    Attributes:
      tell: `(kind, run, round, model, sender) -> (message, sender)`: the broadcast.
      hear: `(stamp, message) -> model`; raises `Refused`.
      answer: `(stamp, update, sender) -> (message, sender)`: a client's update.
      read: `(stamp, message, receiver) -> (update, receiver)`; raises `Refused`.
      downlink_sender: the server's memory at the start.
      uplink_sender: a client's.
      uplink_receiver: the server's of one client.
    """

    tell: Callable[[Kind, int, int, PyTree, PyTree], tuple[bytes, PyTree]]
    hear: Callable[[Stamp, bytes], PyTree]
    answer: Callable[[Stamp, PyTree, PyTree], tuple[bytes, PyTree]]
    read: Callable[[Stamp, bytes, PyTree], tuple[PyTree, PyTree]]
    downlink_sender: PyTree
    uplink_sender: PyTree
    uplink_receiver: PyTree


def seal(message: bytes, stamp: Stamp) -> bytes:
    """Puts the stamp before a message.

    >>> len(seal(b"body", Stamp("update", 1, 2, 3))) - STAMP_BYTES
    4
    """
    head = _HEAD.pack(
        _MAGIC, _VERSION, _KINDS.index(stamp.kind), stamp.run, stamp.round, stamp.node
    )
    return head + _digest(head, message) + message


def _digest(head: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(head + message, digest_size=_DIGEST_BYTES).digest()


def stamp_of(data: object) -> Stamp:
    """The stamp of a sealed message that has arrived whole.

    Raises:
      Refused: for anything else.

    >>> stamp_of(seal(b"body", Stamp("update", 1, 2, 3)))
    Stamp(kind='update', run=1, round=2, node=3)
    """
    if not isinstance(data, bytes) or len(data) < STAMP_BYTES:
        raise Refused("it is not a sealed message: too short, or not bytes")
    head, message = data[: _HEAD.size], data[STAMP_BYTES:]
    magic, version, kind, run, round_number, node = _HEAD.unpack(head)
    if (magic, version) != (_MAGIC, _VERSION) or kind >= len(_KINDS):
        raise Refused("it is not a sealed message of this version")
    if data[_HEAD.size : STAMP_BYTES] != _digest(head, message):
        raise Refused("it was damaged on its way: the digest is another")
    return Stamp(_KINDS[kind], run, round_number, node)


def unseal(data: object, expected: Stamp) -> bytes:
    """The message below the stamp.

    Raises:
      Refused: for a message that is not whole, or of another kind, run, round or node.

    >>> unseal(seal(b"body", Stamp("update", 1, 2, 3)), Stamp("update", 1, 4, 3))
    Traceback (most recent call last):
    ...
    fedjax_comp.flower.link.Refused: it is of round 2, not 4: replayed or late
    """
    found = stamp_of(data)
    for name, got, wanted in zip(Stamp._fields, found, expected, strict=True):
        if got != wanted:
            why = ": replayed or late" if name in ("run", "round") else ""
            raise Refused(f"it is of {name} {got}, not {wanted}{why}")
    assert isinstance(data, bytes)
    return data[STAMP_BYTES:]


def _refuse_history(state: LinkState) -> None:
    def is_history(part: PyTree) -> bool:
        return isinstance(part, Remembered)

    if any(map(is_history, jax.tree.leaves(state.receiver, is_leaf=is_history))):
        raise ValueError(
            "Expected history=0 in coded_low_rank() over a network: both ends would "
            "have to round alike, and other processors do not."
        )


def flower_link(
    uplink: Compressor, downlink: Compressor, like: PyTree, *, seed: int = 0
) -> FlowerLink:
    """Both links of a Flower app; the server app and the client app make the same.

    Args:
      uplink: compressor of the clients' updates. Its senders may have memory (error
        feedback), and the server's memory of each client, too, unless it is made of
        eigenvectors, which two processors do not compute alike.
      downlink: compressor of the server's model, one broadcast to all of a round.
      like: the model, or a tree of `jax.ShapeDtypeStruct`.
      seed: of what both ends draw by (rotations, shared masks).

    Returns:
      A `FlowerLink`. Messages are of `fedjax_comp.wire`, not yet sealed.

    Raises:
      ValueError: when a compressor is not one, cannot do with `like`, has a `history`,
        or the downlink has memory at its receivers: nodes that are not in a round do
        not hear it.

    >>> import jax.numpy as jnp
    >>> from fedjax_comp.compress import identity, scaled_sign
    >>> link = flower_link(scaled_sign(), identity(), {"w": jnp.zeros(64)})
    >>> stamp = Stamp("update", run=1, round=1, node=7)
    >>> data, _ = link.answer(stamp, {"w": jnp.ones(64)}, link.uplink_sender)
    >>> len(data) - HEADER_BYTES, float(link.read(stamp, data, ())[0]["w"][0])
    (12, 1.0)
    """
    up = checks.compressor("uplink", uplink)
    down = checks.compressor("downlink", downlink)
    up_state, down_state = up.init(like), partly_heard(down, like)
    _refuse_history(up_state)
    encode_down, decode_down = jax.jit(down.encode), jax.jit(down.decode)
    encode_up, decode_up = jax.jit(up.encode), jax.jit(up.decode)
    anybody = _context(seed, Stamp("update", 0, 0, 0))
    up_template = jax.eval_shape(up.encode, anybody, like, up_state.sender)[0]
    down_template = jax.eval_shape(down.encode, anybody, like, down_state.sender)[0]

    def tell(
        kind: Kind, run: int, round_number: int, model: PyTree, sender: PyTree
    ) -> tuple[bytes, PyTree]:
        context = _context(seed, Stamp(kind, run, round_number, 0))
        payload, sender = encode_down(context, model, sender)
        return to_bytes(payload), sender

    def hear(stamp: Stamp, message: bytes) -> PyTree:
        payload = _payload(message, down_template)
        context = _context(seed, stamp._replace(node=0))
        return decode_down(context, payload, down_state.receiver)[0]

    def answer(stamp: Stamp, update: PyTree, sender: PyTree) -> tuple[bytes, PyTree]:
        payload, sender = encode_up(_context(seed, stamp), update, sender)
        return to_bytes(payload), sender

    def read(stamp: Stamp, message: bytes, receiver: PyTree) -> tuple[PyTree, PyTree]:
        payload = _payload(message, up_template)
        update, receiver = decode_up(_context(seed, stamp), payload, receiver)
        if not trees.all_finite(update):
            raise Refused("what it decodes to is not finite")
        return update, receiver

    return FlowerLink(
        tell,
        hear,
        answer,
        read,
        down_state.sender,
        up_state.sender,
        up_state.receiver,
    )


def _payload(message: bytes, template: PyTree) -> PyTree:
    try:
        return from_bytes(message, template)
    except WireError as error:
        raise Refused(f"its payload is malformed: {error}") from error


def _context(seed: int, stamp: Stamp) -> Context:
    """What both ends know of a message: keys of run, round and kind, and the node's.

    A node's id has 64 bits, of which a key takes 31: a hash of it.
    """
    key = make_key(seed)
    for word in (stamp.run >> 32, stamp.run & 0xFFFFFFFF, stamp.round):
        key = jax.random.fold_in(key, word)
    key = jax.random.fold_in(key, _KINDS.index(stamp.kind))
    hashed = hashlib.blake2b(stamp.node.to_bytes(8, "little"), digest_size=4).digest()
    return make_context(key, int.from_bytes(hashed, "little") >> 1)
