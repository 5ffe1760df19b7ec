"""Keys in files: `PATH` holds the signer's key, `PATH.pub` the verifier's."""

import os
import secrets
from pathlib import Path

from fedjax_comp.audit.note import (
    ED25519,
    NoteError,
    Signer,
    Verifier,
    format_signer,
    format_verifier,
    make_signer,
    parse_signer,
    parse_verifier,
)

SEED_BYTES = 32


def make_key(path: Path, name: str, *, kind: int = ED25519) -> Signer:
    """Makes a key and writes both files, the private one readable by its owner alone.

    Args:
      path: of the private key; the public one's ends in `.pub`.
      name: of the key, by custom a URL without its scheme.
      kind: `ED25519` for a log, `COSIGNATURE` for a witness.

    Returns:
      The signer.

    Raises:
      NoteError: for a name that cannot be one, or when `path` exists.
    """
    signer = make_signer(name, secrets.token_bytes(SEED_BYTES), kind=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise NoteError(f"{path} exists; a key is never overwritten.") from error
    with open(file, "w", encoding="utf-8") as private:
        private.write(format_signer(signer) + "\n")
        private.flush()
        os.fsync(private.fileno())
    public = path.with_name(path.name + ".pub")
    public.write_text(format_verifier(signer.verifier) + "\n", encoding="utf-8")
    return signer


def load_signer(path: Path) -> Signer:
    """Reads a private key.

    Raises:
      NoteError: when there is none.
    """
    return parse_signer(_read(path))


def load_verifier(text: str) -> Verifier:
    """Reads a public key, given as its line or as the path of a file that holds it.

    Raises:
      NoteError: when it is neither.
    """
    try:
        return parse_verifier(text)
    except NoteError:
        if not Path(text).exists():
            raise NoteError(
                f"Expected a verifier's key or a file that holds one, got {text!r}."
            ) from None
    return parse_verifier(_read(Path(text)))


def load_or_make(path: Path, name: str) -> Signer:
    """The log's key at `path`, made under `name` when there is none yet."""
    return load_signer(path) if path.exists() else make_key(path, name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise NoteError(f"{path} cannot be read: {reason}.") from error
