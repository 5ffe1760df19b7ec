"""Signed notes: a text, an empty line, and signatures that name their keys.

    <text, whole lines>

    — <key name> base64(key ID || signature)

A key has a name, and an ID that is a hash of name, algorithm and public key:
`SHA-256(name || 0x0A || type || public key)[:4]`. Keys are written as one line,

    <name>+<hex ID>+base64(type || public key)                   a verifier's key
    PRIVATE+KEY+<name>+<hex ID>+base64(type || seed)             a signer's key

with type 1 for Ed25519 (RFC 8032) and type 4 for the same key used by a witness
(`fedjax_comp.audit.checkpoint`). Signatures of unknown keys are passed over, as the
format wants; a signature of a known key that is wrong makes the whole note invalid.

Source: C2SP, "signed-note" (c2sp.org/signed-note).
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.audit.canonical import from_base64, to_base64
from fedjax_comp.extras import needs

ED25519 = 1
"""The type of an Ed25519 key that signs the text itself."""
COSIGNATURE = 4
"""The type of an Ed25519 key that cosigns checkpoints, with the time."""

_DASH = "— "
_KEY_BYTES = 32
_ID_BYTES = 4
_PRIVATE = "PRIVATE+KEY+"


class NoteError(ValueError):
    """A note, a key or a signature is not what it should be; one line says why."""


class Verifier(NamedTuple):
    """A public key with its name.

    Attributes:
      name: of the key: not empty, no space and no plus.
      kind: `ED25519` or `COSIGNATURE`.
      public: 32 bytes.
    """

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before every signature of this key."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(named).digest()[:_ID_BYTES]


class Signer(NamedTuple):
    """A private key with its name.

    Attributes:
      verifier: the public part.
      seed: 32 bytes, the Ed25519 private key.
    """

    verifier: Verifier
    seed: bytes

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature of `message`."""
        with needs("crypto", "signatures"):
            from cryptography.hazmat.primitives.asymmetric import ed25519
        return ed25519.Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


class Signature(NamedTuple):
    """One signature line: `value` is what follows the key ID."""

    name: str
    key_id: bytes
    value: bytes


class Note(NamedTuple):
    """A text, which ends in a newline, and the signatures below it."""

    text: str
    signatures: tuple[Signature, ...]


def make_signer(name: str, seed: bytes, *, kind: int = ED25519) -> Signer:
    """A signer from a name and a seed.

    Args:
      name: of the key.
      seed: 32 random bytes.
      kind: `ED25519` or `COSIGNATURE`.

    Raises:
      NoteError: for a name or a seed that cannot be one.

    >>> make_signer("example.com/log", bytes(32)).verifier.key_id.hex()
    '1dde4531'
    """
    _check_name(name)
    if len(seed) != _KEY_BYTES:
        raise NoteError(f"Expected a seed of {_KEY_BYTES} bytes, got {len(seed)}.")
    with needs("crypto", "signatures"):
        from cryptography.hazmat.primitives.asymmetric import ed25519
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    return Signer(Verifier(name, kind, private.public_key().public_bytes_raw()), seed)


def format_verifier(key: Verifier) -> str:
    """A public key as one line."""
    return f"{key.name}+{key.key_id.hex()}+{to_base64(bytes([key.kind]) + key.public)}"


def format_signer(key: Signer) -> str:
    """A private key as one line: keep it to yourself."""
    public = key.verifier
    secret = to_base64(bytes([public.kind]) + key.seed)
    return f"{_PRIVATE}{public.name}+{public.key_id.hex()}+{secret}"


def parse_verifier(line: str) -> Verifier:
    """Reads what `format_verifier` wrote.

    Raises:
      NoteError: when it is no such line, or its ID is not that of its key.
    """
    name, key_id, kind, public = _read_key(line.strip(), "a verifier's key")
    key = Verifier(name, kind, public)
    _check_id(key, key_id)
    return key


def parse_signer(line: str) -> Signer:
    """Reads what `format_signer` wrote.

    Raises:
      NoteError: when it is no such line, or its ID is not that of its key.
    """
    line = line.strip()
    if not line.startswith(_PRIVATE):
        raise NoteError(f"Expected a signer's key, which begins with {_PRIVATE}.")
    name, key_id, kind, seed = _read_key(line[len(_PRIVATE) :], "a signer's key")
    key = make_signer(name, seed, kind=kind)
    _check_id(key.verifier, key_id)
    return key


def sign_note(text: str, signer: Signer) -> Note:
    """A note with one Ed25519 signature of its text.

    Raises:
      NoteError: when `text` cannot be a note's text, or the key is a witness's.
    """
    _check_text(text)
    key = signer.verifier
    if key.kind != ED25519:
        raise NoteError(f"Expected an Ed25519 key, {key.name} is of type {key.kind}.")
    value = signer.sign(text.encode())
    return Note(text, (Signature(key.name, key.key_id, value),))


def format_note(note: Note) -> str:
    """The note as it is stored and sent."""
    lines = (
        f"{_DASH}{sign.name} {to_base64(sign.key_id + sign.value)}\n"
        for sign in note.signatures
    )
    return note.text + "\n" + "".join(lines)


def parse_note(data: str) -> Note:
    """Reads what `format_note` wrote; no signature is verified.

    Args:
      data: the note, in which bytes that are no UTF-8 are surrogates.

    Raises:
      NoteError: when it is not a signed note, or has one signature line twice.
    """
    text, blank, below = data.rpartition("\n\n")
    text = text + "\n"
    if not blank or not below.endswith("\n"):
        raise NoteError("Expected a text, an empty line and signature lines.")
    _check_text(text)
    lines = below[:-1].split("\n")
    if len(set(lines)) != len(lines):
        raise NoteError("Expected each signature line of a note once.")
    return Note(text, tuple(map(_parse_signature, lines)))


def split_notes(data: str) -> list[str]:
    r"""The notes that a file holds one after another.

    >>> split_notes("a\n\n— k AAAA\nb\n\n— k AAAA\n")
    ['a\n\n— k AAAA\n', 'b\n\n— k AAAA\n']
    """
    notes: list[list[str]] = []
    signed = True
    for line in re.findall(r"[^\n]*\n|[^\n]+", data):
        is_signature = line.startswith(_DASH)
        if signed and not is_signature:
            notes.append([])
        signed = is_signature
        if not notes:
            notes.append([])
        notes[-1].append(line)
    return ["".join(lines) for lines in notes]


def verify_note(note: Note, key: Verifier) -> None:
    """Checks the Ed25519 signature of the text by one key.

    Raises:
      NoteError: when there is none, or one that is wrong.
    """
    values = signatures_of(note, key)
    if not values:
        raise NoteError(f"There is no signature by {key.name}+{key.key_id.hex()}.")
    for value in values:
        verify_signature(key, value, note.text.encode())


def signatures_of(note: Note, key: Verifier) -> Sequence[bytes]:
    """What `key` is said to have signed a note with."""
    return [
        sign.value
        for sign in note.signatures
        if (sign.name, sign.key_id) == (key.name, key.key_id)
    ]


def verify_signature(key: Verifier, value: bytes, message: bytes) -> None:
    """Checks one Ed25519 signature.

    Raises:
      NoteError: when it is wrong.
      MissingExtra: without `cryptography`, of the extra `crypto`.
    """
    with needs("crypto", "signatures"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ed25519
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(key.public)
        public.verify(value, message)
    except (InvalidSignature, ValueError) as error:
        raise NoteError(f"The signature by {key.name} is wrong.") from error


def _read_key(line: str, what: str) -> tuple[str, str, int, bytes]:
    # Base64 may hold a plus, so the line is read from the left.
    parts = line.split("+", 2)
    if len(parts) != 3:
        raise NoteError(f"Expected {what}, NAME+ID+KEY, got {line[:40]!r}.")
    name, key_id, encoded = parts
    _check_name(name)
    data = _decode(encoded)
    if len(data) != 1 + _KEY_BYTES or data[0] not in (ED25519, COSIGNATURE):
        raise NoteError(f"Expected {what} of type {ED25519} or {COSIGNATURE}.")
    return name, key_id, data[0], data[1:]


def _check_id(key: Verifier, key_id: str) -> None:
    if key.key_id.hex() != key_id:
        raise NoteError(
            f"The key named {key.name[:80]} has ID {key.key_id.hex()}, not "
            f"{key_id[:20]!r}."
        )


def _check_name(name: str) -> None:
    # A surrogate stands for what is not UTF-8, and has no bytes to be hashed.
    odd = any(x.isspace() or "\ud800" <= x <= "\udfff" for x in name)
    if not name or "+" in name or odd:
        raise NoteError(
            f"Expected a key name in UTF-8 without space or plus, got {name[:80]!r}."
        )


def _check_text(text: str) -> None:
    # The one control character that a note's text may hold is the newline. What is no
    # UTF-8 on the disk is read as surrogates.
    odd = any((x < " " and x != "\n") or "\ud800" <= x <= "\udfff" for x in text)
    if odd or not text.endswith("\n"):
        raise NoteError("Expected a note's text to be whole lines of plain text.")


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise NoteError(f"Expected a signature line, got {line[:40]!r}.")
    name, space, encoded = line[len(_DASH) :].partition(" ")
    _check_name(name)
    data = _decode(encoded)
    if not space or len(data) <= _ID_BYTES:
        raise NoteError(f"Expected a key ID and a signature by {name[:40]}.")
    return Signature(name, data[:_ID_BYTES], data[_ID_BYTES:])


def _decode(text: str) -> bytes:
    try:
        return from_base64(text)
    except ValueError as error:
        raise NoteError(str(error)) from error
