"""Proofs as texts that travel without the log.

That an entry is in the log of a checkpoint (C2SP, "tlog-proof"):

    c2sp.org/tlog-proof@v1
    index <number>
    <a hash in base64, line by line>

    <the checkpoint, a signed note>

What a witness is asked to cosign (the body of C2SP, "tlog-witness", add-checkpoint):

    old <size of the last checkpoint that it cosigned>
    <a hash in base64, line by line>

    <the checkpoint, a signed note>
"""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.audit.canonical import from_base64, from_decimal, to_base64
from fedjax_comp.audit.checkpoint import (
    Checkpoint,
    parse_checkpoint,
    verify_checkpoint,
)
from fedjax_comp.audit.merkle import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_inclusion,
)
from fedjax_comp.audit.note import Note, NoteError, Verifier, format_note, parse_note

_TITLE = "c2sp.org/tlog-proof@v1"
_MOST_HASHES = 63


class Inclusion(NamedTuple):
    """That an entry is in the log: its place, the proof and the checkpoint."""

    position: int
    hashes: tuple[bytes, ...]
    note: Note


class Request(NamedTuple):
    """A checkpoint for a witness, consistent with the one of `old_size` entries."""

    old_size: int
    hashes: tuple[bytes, ...]
    note: Note


def prove_inclusion(leaves: Sequence[bytes], position: int, note: Note) -> Inclusion:
    """The proof that entry `position` is in the log of a checkpoint.

    Args:
      leaves: the leaf hashes of the entries that the checkpoint covers.
      position: the entry, from 0.
      note: the checkpoint.

    Raises:
      ValueError: when there is no such entry.
    """
    return Inclusion(position, tuple(inclusion_proof(leaves, position)), note)


def verify_entry(proof: Inclusion, entry: bytes, key: Verifier) -> Checkpoint:
    """The checkpoint that covers an entry.

    Args:
      proof: the proof.
      entry: the entry's line, without its newline.
      key: the log's key.

    Raises:
      NoteError: when the checkpoint is not of the log, or the proof not of the entry.
    """
    checkpoint = verify_checkpoint(proof.note, key)
    where = (proof.position, checkpoint.size)
    if not verify_inclusion(leaf_hash(entry), *where, proof.hashes, checkpoint.root):
        raise NoteError(f"This entry is not entry {proof.position} of the log.")
    return checkpoint


def make_request(leaves: Sequence[bytes], old_size: int, note: Note) -> Request:
    """What asks a witness to cosign a checkpoint.

    Args:
      leaves: the leaf hashes of the entries that the checkpoint covers.
      old_size: the size that the witness has cosigned last.
      note: the checkpoint.

    Raises:
      ValueError: when the witness has seen more entries than there are.
    """
    return Request(old_size, tuple(consistency_proof(leaves, old_size)), note)


def format_inclusion(proof: Inclusion) -> str:
    """The proof as a text."""
    head = f"{_TITLE}\nindex {proof.position}\n"
    return head + _format_hashes(proof.hashes) + "\n" + format_note(proof.note)


def format_request(request: Request) -> str:
    """The request as a text."""
    head = f"old {request.old_size}\n"
    return head + _format_hashes(request.hashes) + "\n" + format_note(request.note)


def parse_inclusion(text: str) -> Inclusion:
    """Reads what `format_inclusion` wrote.

    Raises:
      NoteError: for anything else. The format's optional line of extra data, which
        nothing here signs or writes, is refused as well.
    """
    title, _, rest = text.partition("\n")
    if title != _TITLE:
        raise NoteError(f"Expected a proof that begins with {_TITLE!r}.")
    return Inclusion(*_parse("index", rest))


def parse_request(text: str) -> Request:
    """Reads what `format_request` wrote.

    Raises:
      NoteError: for anything else.
    """
    return Request(*_parse("old", text))


def _format_hashes(hashes: Sequence[bytes]) -> str:
    return "".join(f"{to_base64(x)}\n" for x in hashes)


def _parse(word: str, text: str) -> tuple[int, tuple[bytes, ...], Note]:
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    try:
        number = from_decimal(first.removeprefix(f"{word} "))
    except ValueError as error:
        raise NoteError(f"In the line {word!r} of a proof: {error}") from error
    if not blank or first != f"{word} {number}":
        raise NoteError(f"Expected a line {word!r} and a number, got {first[:40]!r}.")
    if len(lines) > _MOST_HASHES:
        raise NoteError(f"Expected at most {_MOST_HASHES} hashes, got {len(lines)}.")
    signed = parse_note(note)
    parse_checkpoint(signed.text)
    return number, tuple(map(_parse_hash, lines)), signed


def _parse_hash(line: str) -> bytes:
    try:
        data = from_base64(line)
    except ValueError as error:
        raise NoteError(f"A hash of a proof: {error}") from error
    if len(data) != HASH_BYTES:
        raise NoteError(f"Expected a hash of {HASH_BYTES} bytes, got {len(data)}.")
    return data
