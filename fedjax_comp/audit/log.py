"""The log on disk: lines of entries, their hashes, and the checkpoints signed.

    audit/log.jsonl     an entry a line; only ever grows
    audit/hashes        32 bytes an entry, by which a changed entry is named
    audit/checkpoints   signed notes, one after another; only ever grows
    audit/cosigned      the notes that witnesses signed as well
    audit/log.pub       the verifier's key, for convenience: nothing is shown by it

An entry is in the log when its line is complete, newline and all: a line that was cut
short by a kill is removed when the log is next opened. A checkpoint is signed only
after the entries it covers have been synced to the disk, so what is signed survives a
loss of power. `hashes` can be computed from the lines and is completed when it is found
short.
"""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_comp.audit.checkpoint import (
    Checkpoint,
    read_checkpoint,
    sign_checkpoint,
)
from fedjax_comp.audit.entry import MAX_ENTRY_BYTES, describe
from fedjax_comp.audit.merkle import (
    HASH_BYTES,
    CompactRange,
    extend,
    leaf_hash,
    root_of,
)
from fedjax_comp.audit.note import (
    Note,
    NoteError,
    Signer,
    format_note,
    format_verifier,
    parse_note,
    split_notes,
)

FOLDER = "audit"
LOG, HASHES, CHECKPOINTS = "log.jsonl", "hashes", "checkpoints"
COSIGNED, PUBLIC_KEY, PRIVATE_KEY = "cosigned", "log.pub", "log.key"


class LogError(ValueError):
    """The log cannot be continued; the message says why, in one line."""


class Stored(NamedTuple):
    """What lies on the disk, not verified.

    Attributes:
      lines: the whole lines, without their newlines.
      torn: what stands behind the last newline.
      hashes: the leaf hashes in `hashes`, as many as are whole.
      notes: the signed checkpoints, oldest first.
      cosigned: those that witnesses signed.
    """

    lines: list[bytes]
    torn: bytes
    hashes: list[bytes]
    notes: list[str]
    cosigned: list[str]


def read_log(folder: Path) -> Stored:
    """Reads a log's folder; files that are missing are empty.

    It may be written meanwhile. What is signed is read before what it signs, which was
    written before it: so an entry that is signed here is here.

    Raises:
      LogError: when there is no log.
    """
    if not (folder / LOG).exists():
        raise LogError(f"There is no log at {folder / LOG}.")
    cosigned, notes = (_read_text(folder / name) for name in (COSIGNED, CHECKPOINTS))
    packed = _read(folder / HASHES)
    whole = len(packed) // HASH_BYTES * HASH_BYTES
    *lines, torn = (folder / LOG).read_bytes().split(b"\n")
    return Stored(
        lines=lines,
        torn=torn,
        hashes=[packed[i : i + HASH_BYTES] for i in range(0, whole, HASH_BYTES)],
        notes=split_notes(notes),
        cosigned=split_notes(cosigned),
    )


class Log:
    """A log open for appending, by one process at a time; use as a context manager.

    A log that is opened again is read from its beginning: `rewind` says where, and from
    there `append` compares entries with those that are there already. So a run that
    resumes from a checkpoint older than its log is held to what it logged before.

    Args:
      folder: where it lies; made when it does not exist.
      signer: the log's key.
      origin: the log's name, `signer`'s name or below it.

    Raises:
      LogError: when the folder holds another log, or one that does not match its last
        signed checkpoint, or is in use.
    """

    def __init__(self, folder: Path, signer: Signer, origin: str) -> None:
        self._folder, self._signer, self._origin = folder, signer, origin
        self._open = contextlib.ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self._known: list[bytes] = []
        self._tree, self._signed = CompactRange(), 0
        with contextlib.ExitStack() as opening:
            self._log = _open_file(opening, folder / LOG)
            _lock(self._log, folder / LOG)
            self._hashes = _open_file(opening, folder / HASHES)
            self._checkpoints = _open_file(opening, folder / CHECKPOINTS)
            _sync_names(folder)
            self._recover()
            self._open = opening.pop_all()
        self._position = 0

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; what was appended stays, signed or not."""
        self._open.close()

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self._tree.size

    @property
    def position(self) -> int:
        """Where the next entry goes, or is compared; `size` at the end."""
        return self._position

    @property
    def lines(self) -> Sequence[bytes]:
        """The entries that were there when the log was opened."""
        return self._known

    def rewind(self, position: int) -> None:
        """Goes back to an entry that was there when the log was opened.

        Raises:
          LogError: when there are not that many.
        """
        if not 0 <= position <= len(self._known):
            raise LogError(
                f"The log has {len(self._known)} entries, {position} expected: entries "
                "were removed from its end."
            )
        self._position = position

    def append(self, entries: Iterable[bytes]) -> None:
        """Adds entries, or compares them with those that are there.

        Args:
          entries: bytes without a newline.

        Raises:
          LogError: when one differs from the entry in its place, which is kept.
        """
        fresh = []
        for entry in entries:
            if len(entry) > MAX_ENTRY_BYTES or b"\n" in entry:
                raise LogError(
                    f"Expected an entry of one line of at most {MAX_ENTRY_BYTES} bytes."
                )
            if self._position < len(self._known):
                self._compare(entry)
                self._position += 1
            else:
                fresh.append(entry)
        if fresh:
            leaves = [leaf_hash(entry) for entry in fresh]
            _write(self._log, b"".join(entry + b"\n" for entry in fresh))
            _write(self._hashes, b"".join(leaves))
            self._tree = extend(self._tree, leaves)
            self._position += len(fresh)

    def checkpoint(self) -> None:
        """Signs the log as it is; returns when the entries and the note are durable."""
        if self._tree.size == self._signed:
            return
        os.fdatasync(self._log)
        checkpoint = Checkpoint(self._origin, self._tree.size, root_of(self._tree))
        note = format_note(sign_checkpoint(checkpoint, self._signer))
        _write(self._checkpoints, note.encode())
        os.fdatasync(self._checkpoints)
        self._signed = self._tree.size

    def _compare(self, entry: bytes) -> None:
        old = self._known[self._position]
        if entry != old:
            raise LogError(
                f"Entry {self._position} differs from the one logged before the "
                f"interruption ({describe(old)}; now {describe(entry)}): these rounds "
                "are not what they were."
            )

    def _recover(self) -> None:
        stored = read_log(self._folder)
        signed = self._last_signed(stored.notes)
        size = 0 if signed is None else signed.size
        lines = stored.lines[:size] + _readable(stored.lines[size:])
        leaves = [leaf_hash(line) for line in lines]
        covered = extend(CompactRange(), leaves[:size])
        if signed is not None and (covered.size, root_of(covered)) != signed[1:]:
            raise LogError(
                f"{self._folder / LOG} is not what its last checkpoint of {size} "
                "entries signed: see python -m fedjax_comp.audit verify."
            )
        if sum(map(len, lines)) + len(lines) != os.fstat(self._log).st_size:
            os.ftruncate(self._log, sum(map(len, lines)) + len(lines))
        _complete(self._hashes, stored.hashes, leaves)
        self._tree = extend(covered, leaves[size:])
        self._known, self._signed = lines, size
        (self._folder / PUBLIC_KEY).write_text(
            format_verifier(self._signer.verifier) + "\n", encoding="utf-8"
        )

    def _last_signed(self, notes: list[str]) -> Checkpoint | None:
        """The last checkpoint; one that a kill cut short is removed."""
        notes = _without_torn(self._checkpoints, notes)
        if not notes:
            return None
        where = self._folder / CHECKPOINTS
        try:
            checkpoint = read_checkpoint(notes[-1], self._signer.verifier)
        except NoteError as error:
            raise LogError(f"{where}, note {len(notes) - 1}: {error}") from error
        if checkpoint.origin != self._origin:
            raise LogError(f"{where} is of {checkpoint.origin}, not of {self._origin}.")
        return checkpoint


def add_cosigned(folder: Path, note: Note) -> None:
    """Adds a checkpoint that a witness signed; returns when it is durable.

    A note before it that a kill cut short is removed, as its own would be with it.

    Args:
      folder: the log's.
      note: the checkpoint, with the witness's signature.
    """
    path = folder / COSIGNED
    with contextlib.ExitStack() as opened:
        file = _open_file(opened, path)
        fcntl.flock(file, fcntl.LOCK_EX)  # another witness is waited for
        _without_torn(file, split_notes(_read_text(path)))
        _write(file, format_note(note).encode())
        os.fsync(file)
        _sync_names(folder)


def _without_torn(file: int, notes: list[str]) -> list[str]:
    """The notes of a file, the last one removed from both where it is not whole."""
    if notes and not is_whole(notes[-1]):
        notes = notes[:-1]
        os.ftruncate(file, sum(len(_encode(x)) for x in notes))
    return notes


def _readable(lines: list[bytes]) -> list[bytes]:
    """Lines not signed yet, up to the first that a loss of power left as garbage."""
    return list(itertools.takewhile(lambda x: describe(x) != "unreadable", lines))


def _complete(file: int, hashes: list[bytes], leaves: list[bytes]) -> None:
    same = 0
    for old, new in zip(hashes, leaves, strict=False):
        if old != new:
            break
        same += 1
    os.ftruncate(file, same * HASH_BYTES)
    _write(file, b"".join(leaves[same:]))


def _open_file(stack: contextlib.ExitStack, path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    stack.callback(os.close, file)
    return file


def _sync_names(folder: Path) -> None:
    """Makes the names of new files durable, in the folder and in the one above."""
    for each in (folder, folder.parent):
        file = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise LogError(f"{path} is being written by another process.") from error


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _read_text(path: Path) -> str:
    return _read(path).decode("utf-8", errors="surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def is_whole(note: str) -> bool:
    """Whether a note is complete, and not what a kill left of it."""
    try:
        parse_note(note)
    except NoteError:
        return False
    return True
