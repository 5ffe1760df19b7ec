"""Arrays that are read a block of rows at a time, and files of them.

Such an array may lie in a file or on the devices of several processes, or be one row
repeated. Code that goes through it holds one block of rows in memory, never all of it.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BLOCK_BYTES = 2**24
"""About so many bytes are read at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class ByRows:
    """An array `[N, ...]` that is not in memory as a whole; in a tree it is a leaf.

    Attributes:
      shape: its shape.
      dtype: its dtype.
      read: `(begin, end) -> array[end - begin, ...]`, some of its rows on the host: at
        most one of `blocks`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Its rows in order: where each block begins, and the block."""
        step = rows_in_block(self.shape, self.dtype)
        for begin in range(0, self.shape[0] if self.size else 0, step):
            yield begin, self.read(begin, min(begin + step, self.shape[0]))

    def whole(self) -> np.ndarray:
        """All of it, on the host."""
        found = [block for _, block in self.blocks()]
        return np.concatenate(found) if found else np.zeros(self.shape, self.dtype)


def rows_in_block(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Rows of about `BLOCK_BYTES`, at least one.

    >>> rows_in_block((10, 2**20), np.dtype(np.float32))
    4
    """
    return max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))


def from_array(x: np.ndarray) -> ByRows:
    """An array of the host, to be read by rows."""
    return ByRows(x.shape, x.dtype, lambda begin, end: x[begin:end])


def repeated(row: np.ndarray, count: int) -> ByRows:
    """One row repeated `count` times, in the memory of one.

    >>> repeated(np.array([1, 2]), 1000).read(998, 1000).tolist()
    [[1, 2], [1, 2]]
    """
    return ByRows(
        (count, *row.shape),
        row.dtype,
        lambda begin, end: np.broadcast_to(row, (end - begin, *row.shape)),
    )


def from_file(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> ByRows:
    """An array in a file that `write` has made."""
    row = math.prod(shape[1:])

    def read(begin: int, end: int) -> np.ndarray:
        found = np.fromfile(
            path, dtype, (end - begin) * row, offset=begin * row * dtype.itemsize
        )
        return found.reshape(end - begin, *shape[1:])

    return ByRows(shape, dtype, read)


def write(path: Path, array: ByRows) -> str:
    """Writes an array's numbers to a file, row after row, and makes them durable.

    Returns:
      The SHA-256 of the file, as hexadecimal digits.

    Raises:
      OSError: when they cannot be written.
    """
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for _, block in array.blocks():
                own = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                digest.update(own)
                file.write(own)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
