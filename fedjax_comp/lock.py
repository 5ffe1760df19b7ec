"""One run, one process: an exclusive lock on a run directory.

The operating system lets go of it when the process ends, however it ends.
"""

import fcntl
import os
import sys
import weakref
from pathlib import Path

LOCK = ".lock"


class Locked(Exception):
    """Another process holds the lock; the message says which, as far as is known."""


class Lock:
    """An exclusive lock on a directory, held for as long as the object lives.

    Args:
      path: the directory; it must exist.

    Raises:
      Locked: when another process holds it.
      OSError: when no file can be made there.
    """

    def __init__(self, path: Path) -> None:
        self._file = (path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "another process"
            self._file.close()
            raise Locked(holder) from None
        except OSError as error:
            # Some network file systems know no locks.
            print(
                f"{path} cannot be locked ({error.strerror}): do not use it by two "
                "commands at once.",
                file=sys.stderr,
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def __del__(self) -> None:
        # Absent where the file could not be opened.
        if hasattr(self, "_file"):
            self._file.close()


_HELD: "weakref.WeakValueDictionary[Path, Lock]" = weakref.WeakValueDictionary()


def hold(path: Path) -> Lock:
    """The lock on a directory, which all callers in this process share.

    It is let go when the last of them has dropped it.

    Raises:
      Locked: when another process holds it.
      OSError: when no file can be made there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hold(Path(folder)) is not None
    True
    """
    key = path.resolve()
    held = _HELD.get(key)
    if held is None:
        held = _HELD[key] = Lock(path)
    return held
