"""`metrics.jsonl`: a line for every evaluation, appended and never written again.

A checkpoint keeps a `Mark`, how far the file had grown, and not the rows: so it costs
the same after a million evaluations. On resuming, all rows after the mark are cut off,
since their rounds will be run again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_comp import strict_json
from fedjax_comp.run_directory import RunDirectoryError


class Mark(NamedTuple):
    """How far a file of rows had grown.

    Attributes:
      size: in bytes.
      sha256: of those bytes, as hexadecimal digits.
    """

    size: int = 0
    sha256: str = hashlib.sha256().hexdigest()


NOTHING = Mark()
"""The mark of an empty file."""


def read_marked(path: Path, mark: Mark) -> list[Any]:
    """The rows before a mark.

    Raises:
      RunDirectoryError: when the file no longer holds what it held then.
    """
    text = path.read_bytes()[: mark.size] if path.exists() else b""
    if len(text) != mark.size or hashlib.sha256(text).hexdigest() != mark.sha256:
        raise RunDirectoryError(f"{path} has been changed since.")
    return [json.loads(line) for line in text.splitlines()]


class RowFile:
    """A file of rows that grows; use as a context manager.

    Args:
      path: of the file.
      mark: how much of the file to keep, checked before by `read_marked`; the rest is
        cut off. An empty mark begins anew.
    """

    def __init__(self, path: Path, mark: Mark = NOTHING) -> None:
        path.touch()
        self._file = path.open("r+b")
        self._size = mark.size
        self._digest = hashlib.sha256(self._file.read(mark.size))
        self._file.truncate(mark.size)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, row: Mapping[str, object]) -> None:
        """Adds one row as one whole line, for all readers to see."""
        line = (strict_json.to_text(row) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self._digest.update(line)
        self._size += len(line)

    def mark(self) -> Mark:
        """Makes all rows durable, and says how far they go."""
        os.fsync(self._file.fileno())
        return Mark(self._size, self._digest.hexdigest())
