"""A witness: it remembers the last checkpoint of a log and cosigns what extends it.

The operator of a log can show two histories to two people, each without a fault in
itself, but cannot have both cosigned by one honest witness. A witness signs a
checkpoint only with the proof that it extends the last one it signed, which it keeps on
its own disk.

The witness has signed what it remembers, and verifies the signature whenever it reads
it: a file that was damaged, exchanged or put there by somebody else is refused, not
taken for a smaller history. It cannot notice that a file was deleted, or that all of
them were taken back to an earlier day, so nobody else may have access to its folder.

Source: C2SP, "tlog-witness" and "tlog-cosignature"; the file takes HTTP's place.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fedjax_comp.audit.checkpoint import (
    Checkpoint,
    check_witness,
    cosign,
    parse_checkpoint,
    verify_checkpoint,
    verify_cosignature,
)
from fedjax_comp.audit.merkle import EMPTY_ROOT, verify_consistency
from fedjax_comp.audit.note import (
    Note,
    NoteError,
    Signer,
    Verifier,
    format_note,
    parse_note,
    signatures_of,
)
from fedjax_comp.audit.proof import Request

_WAY_OUT = "What is meant to be another run needs a --run_id of its own."


class SplitHistory(NoteError):
    """A log signed a checkpoint that does not extend the one cosigned before."""


class Witness:
    """A witness's memory: one note for each log, in a folder of its own.

    Args:
      folder: where it remembers; made when it does not exist.
      signer: the witness's key, of type `COSIGNATURE`.
      log_key: the key of the logs that it watches.

    Raises:
      NoteError: when `signer` is not a witness's key.
    """

    def __init__(self, folder: Path, signer: Signer, log_key: Verifier) -> None:
        check_witness(signer.verifier)
        self._folder, self._signer, self._log_key = folder, signer, log_key
        folder.mkdir(parents=True, exist_ok=True)

    def last(self, origin: str) -> Checkpoint:
        """The last checkpoint cosigned of a log; an empty one when there is none.

        Raises:
          NoteError: when what it remembers is not what it signed.
        """
        path = self._path(origin)
        if not path.exists():
            return Checkpoint(origin, 0, EMPTY_ROOT)
        note = self._remembered(path)
        try:
            checkpoint = verify_checkpoint(note, self._log_key)
        except NoteError as error:
            raise NoteError(f"{path} is not what this witness keeps: {error}") from (
                error
            )
        if checkpoint.origin != origin:
            raise NoteError(f"{path} holds {checkpoint.origin}, not {origin}.")
        return checkpoint

    def logs(self) -> list[Note]:
        """The last checkpoint cosigned of every log of the key, by the logs' names.

        Raises:
          NoteError: when what it remembers is not what it signed.
        """
        found = {}
        for path in sorted(self._folder.glob("*.note")):
            note = self._remembered(path)
            origin = parse_checkpoint(note.text).origin
            if path != self._path(origin):
                raise NoteError(f"{path} holds {origin}: it was renamed.")
            # A witness may watch logs of several keys from one folder.
            if signatures_of(note, self._log_key):
                self.last(origin)
                found[origin] = note
        return [found[origin] for origin in sorted(found)]

    def add(self, request: Request, *, time_seconds: int) -> Note:
        """Cosigns a checkpoint, once what it remembers is on the disk.

        Args:
          request: the checkpoint and its proof.
          time_seconds: now, seconds since 1970.

        Returns:
          The checkpoint with the cosignature.

        Raises:
          SplitHistory: when it does not extend the last one; nothing is signed.
          NoteError: when it is not signed by the log, or the proof is from another
            size than the last one's.
        """
        checkpoint = verify_checkpoint(request.note, self._log_key)
        with self._lock():
            last = self.last(checkpoint.origin)
            self._check(checkpoint, last, request)
            note = cosign(request.note, self._signer, time_seconds=time_seconds)
            _replace(self._path(checkpoint.origin), format_note(note))
        return note

    def _check(self, new: Checkpoint, last: Checkpoint, request: Request) -> None:
        if new.size < last.size:
            raise SplitHistory(
                f"{new.origin}: a checkpoint of {new.size} entries was shown after one "
                f"of {last.size}: entries were removed, or there are two histories. "
                f"{_WAY_OUT}"
            )
        if request.old_size != last.size:
            raise NoteError(
                f"{new.origin}: expected a proof from {last.size} entries on, not from "
                f"{request.old_size}."
            )
        extends = verify_consistency(
            last.size, last.root, new.size, new.root, request.hashes
        )
        if not extends:
            raise SplitHistory(
                f"{new.origin}: the checkpoint of {new.size} entries does not extend "
                f"the one of {last.size} cosigned before: there are two histories. "
                f"{_WAY_OUT}"
            )

    def _remembered(self, path: Path) -> Note:
        try:
            note = parse_note(path.read_text(encoding="utf-8"))
            verify_cosignature(note, self._signer.verifier)
        except (NoteError, OSError, UnicodeDecodeError) as error:
            raise NoteError(f"{path} is not what this witness keeps: {error}") from (
                error
            )
        return note

    def _path(self, origin: str) -> Path:
        return self._folder / f"{hashlib.sha256(origin.encode()).hexdigest()}.note"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        # Two requests at once must not both be compared with the same old checkpoint.
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(f".{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
