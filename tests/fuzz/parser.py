"""What a fuzzed reader is: a valid input, the reader, and what it may raise."""

import atexit
import functools
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutations import Mutate, mutate_bytes


class Parser(NamedTuple):
    """A reader and what it may do.

    Attributes:
      valid: an input that it reads.
      parse: `(data) -> value`.
      allowed: what it may raise.
      mutate: makes further inputs of `valid`.
    """

    valid: bytes
    parse: Callable[[bytes], Any]
    allowed: tuple[type[Exception], ...]
    mutate: Mutate = mutate_bytes


@functools.cache
def _scratch() -> Path:
    memory = Path("/dev/shm")  # where there is one, it is faster than a disk
    parent = memory if memory.is_dir() else None
    path = tempfile.mkdtemp(prefix="fuzz-", dir=parent)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def scratch_folder(name: str) -> Path:
    path = _scratch() / name
    path.mkdir(exist_ok=True)
    return path


def in_file(path: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        path.write_bytes(data)
        return read()

    return parse


def in_text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """As the log's files are read: what is not UTF-8 are surrogates."""
    return lambda data: parse(data.decode("utf-8", errors="surrogateescape"))


def tar_gz(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()
