"""A witness: it remembers the last checkpoint of a log and cosigns what extends it.

A log's operator can show two histories to two people, each in itself without a fault.
He cannot have both cosigned by one honest witness, which signs a checkpoint only with
the proof that it extends the last one it signed, and keeps that one on its own disk.

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
    cosign,
    parse_checkpoint,
    verify_checkpoint,
)
from fedjax_comp.audit.merkle import EMPTY_ROOT, verify_consistency
from fedjax_comp.audit.note import (
    Note,
    NoteError,
    Signer,
    Verifier,
    format_note,
    parse_note,
)
from fedjax_comp.audit.proof import Request


class SplitHistory(NoteError):
    """A log signed a checkpoint that does not extend the one cosigned before."""


class Witness:
    """What a witness remembers, a note a log, in a folder of its own.

    Args:
      folder: where it remembers; made when it does not exist.
      signer: the witness's key, of type `COSIGNATURE`.
      log_key: the key of the logs that it watches.
    """

    def __init__(self, folder: Path, signer: Signer, log_key: Verifier) -> None:
        self._folder, self._signer, self._log_key = folder, signer, log_key
        folder.mkdir(parents=True, exist_ok=True)

    def last(self, origin: str) -> Checkpoint:
        """The last checkpoint cosigned of a log; an empty one when there is none.

        Raises:
          NoteError: when what it remembers cannot be read.
        """
        path = self._path(origin)
        if not path.exists():
            return Checkpoint(origin, 0, EMPTY_ROOT)
        return parse_checkpoint(parse_note(path.read_text(encoding="utf-8")).text)

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
                f"of {last.size}: entries were removed, or there are two histories."
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
                f"the one of {last.size} cosigned before: there are two histories."
            )

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
