"""Checkpoints: what a log commits to, as a signed note, and a witness's cosignature.

    <origin>                      the log's name
    <size>                        how many entries, in decimal
    <base64 of the root hash>

A witness signs the same text behind the time at which it saw it,

    cosignature/v1
    time <seconds since 1970>
    <the text above>

and its signature line holds `key ID || time (8 bytes, big-endian) || signature`.

Source: C2SP, "tlog-checkpoint" and "tlog-cosignature" (c2sp.org).
"""

import struct
from typing import NamedTuple

from fedjax_comp.audit.canonical import from_base64, from_decimal, to_base64
from fedjax_comp.audit.merkle import HASH_BYTES
from fedjax_comp.audit.note import (
    COSIGNATURE,
    Note,
    NoteError,
    Signature,
    Signer,
    Verifier,
    parse_note,
    sign_note,
    signatures_of,
    verify_note,
    verify_signature,
)

_TIME = struct.Struct(">Q")
_SIGNATURE_BYTES = 64


class Checkpoint(NamedTuple):
    """What a log says of itself.

    Attributes:
      origin: the log's name: its key's name, then `/` and the log's own.
      size: how many entries it has.
      root: the root of their tree, 32 bytes.
    """

    origin: str
    size: int
    root: bytes


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text of a checkpoint, not signed yet.

    Raises:
      NoteError: for an origin that is not one line of text.

    >>> print(format_checkpoint(Checkpoint("example.com/log", 1, bytes(32))), end="")
    example.com/log
    1
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    """
    if not checkpoint.origin or "\n" in checkpoint.origin:
        raise NoteError(f"Expected an origin of one line, got {checkpoint.origin!r}.")
    encoded = to_base64(checkpoint.root)
    return f"{checkpoint.origin}\n{checkpoint.size}\n{encoded}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Reads the text of a checkpoint; extension lines below it are passed over.

    Raises:
      NoteError: when it is none.
    """
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]):
        raise NoteError("Expected a checkpoint: origin, size and root.")
    origin, size, encoded = lines[:3]
    try:
        checkpoint = Checkpoint(origin, from_decimal(size), from_base64(encoded))
    except ValueError as error:
        raise NoteError(f"A checkpoint's size or root: {error}") from error
    if len(checkpoint.root) != HASH_BYTES:
        raise NoteError(
            f"Expected a root of {HASH_BYTES} bytes, got {len(checkpoint.root)}."
        )
    return checkpoint


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> Note:
    """The checkpoint as a note signed by the log.

    Raises:
      NoteError: for a checkpoint of another log.

    >>> from fedjax_comp.audit.note import make_signer
    >>> signer = make_signer("example.com/log", bytes(32))
    >>> note = sign_checkpoint(Checkpoint("example.com/log", 0, bytes(32)), signer)
    >>> verify_checkpoint(note, signer.verifier).size
    0
    """
    _check_origin(checkpoint, signer.verifier)
    return sign_note(format_checkpoint(checkpoint), signer)


def verify_checkpoint(note: Note, key: Verifier) -> Checkpoint:
    """The checkpoint that a note holds, once the log's signature has been verified.

    Args:
      note: the note.
      key: the log's key.

    Raises:
      NoteError: when it is no checkpoint of that log.
    """
    verify_note(note, key)
    checkpoint = parse_checkpoint(note.text)
    _check_origin(checkpoint, key)
    return checkpoint


def read_checkpoint(data: str, key: Verifier) -> Checkpoint:
    """`verify_checkpoint` of a note as it is stored."""
    return verify_checkpoint(parse_note(data), key)


def cosign(note: Note, witness: Signer, *, time_seconds: int) -> Note:
    """The note with a witness's cosignature below its other signatures.

    Args:
      note: a checkpoint signed by its log.
      witness: the witness's key, of type `COSIGNATURE`.
      time_seconds: when the witness saw it, seconds since 1970.

    Raises:
      NoteError: for a key of another type.
    """
    key = witness.verifier
    check_witness(key)
    signed = witness.sign(cosigned_message(note.text, time_seconds))
    line = Signature(key.name, key.key_id, _TIME.pack(time_seconds) + signed)
    return Note(note.text, (*note.signatures, line))


def check_witness(key: Verifier) -> None:
    """Refuses a key that is not a witness's.

    Raises:
      NoteError: when it is of another type than `COSIGNATURE`.
    """
    if key.kind != COSIGNATURE:
        raise NoteError(
            f"Expected a witness's key, {key.name} is of type {key.kind}: "
            "make one with keygen --witness."
        )


def verify_cosignature(note: Note, key: Verifier) -> int:
    """When a witness says that it saw a checkpoint, seconds since 1970.

    Args:
      note: the checkpoint.
      key: the witness's key.

    Returns:
      The latest time, if the witness signed more than once.

    Raises:
      NoteError: when there is no cosignature by `key`, or one that is wrong.
    """
    values = signatures_of(note, key)
    if key.kind != COSIGNATURE or not values:
        raise NoteError(f"There is no cosignature by {key.name}+{key.key_id.hex()}.")
    times = []
    for value in values:
        if len(value) != _TIME.size + _SIGNATURE_BYTES:
            raise NoteError(f"The cosignature by {key.name} is wrong.")
        (time_seconds,) = _TIME.unpack_from(value)
        message = cosigned_message(note.text, time_seconds)
        verify_signature(key, value[_TIME.size :], message)
        times.append(time_seconds)
    return max(times)


def cosigned_message(text: str, time_seconds: int) -> bytes:
    """The bytes that a witness signs."""
    return f"cosignature/v1\ntime {time_seconds}\n{text}".encode()


def _check_origin(checkpoint: Checkpoint, key: Verifier) -> None:
    name, _, _ = checkpoint.origin.removeprefix(key.name).partition("/")
    if name or not checkpoint.origin.startswith(key.name):
        raise NoteError(
            f"The checkpoint is of {checkpoint.origin!r}, not of {key.name!r}."
        )
