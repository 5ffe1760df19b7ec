"""The clients' states on disk: a population that does not fit into memory.

A client that has taken part has a row in one file, `clients.rows`; any other still has
the state of the template, and takes no space. Rows are copied on write. What a kept
checkpoint refers to is never written over, so a run that is killed at any moment finds
the rows of its last checkpoint as they were:

    slots   | a0 | b0 | a1 | c1 |        index of checkpoint 1   a: 0, b: 1
              ^    ^    ^                index of checkpoint 2   a: 2, b: 1, c: 3
              |    |    `- client a, written anew after checkpoint 1
              |    `- of both checkpoints
              `- of checkpoint 1: free when that one is no longer kept

The index is part of the checkpoint, under its SHA-256, and holds a CRC-32 of each row:
a row that is not what was written is reported and never trained on.

Rows are read and written at their offsets; the file is not memory-mapped. Mapped pages
would count as the process's memory, while those of a file that is read are in the
system's cache, which gives way. Each row begins on a page of its own, so no durable row
shares a sector with one that is being written.
"""

import os
import zlib
from collections import deque
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.run_directory import RunDirectoryError, make_entries_durable

FILE = "clients.rows"
PAGE = 4096
NOWHERE = -1
"""The slot of a client that has no row."""


class Index(NamedTuple):
    """Where the clients' rows lie: what a checkpoint keeps of them.

    Attributes:
      slots: int32 `[K]`, `NOWHERE` for a client that has never taken part.
      checks: uint32 `[K]`, the CRC-32 of each row, 0 where there is none.
      before: int32 `[K]`, the slots of the checkpoint before, which is kept as well.
      end: int32 scalar, the number of slots in the file.
    """

    slots: np.ndarray
    checks: np.ndarray
    before: np.ndarray
    end: np.ndarray


def empty_index(num_clients: int) -> Index:
    """The index of a population of which nobody has taken part.

    >>> empty_index(2).slots.tolist()
    [-1, -1]
    """
    return Index(
        np.full(num_clients, NOWHERE, np.int32),
        np.zeros(num_clients, np.uint32),
        np.full(num_clients, NOWHERE, np.int32),
        np.zeros((), np.int32),
    )


class ClientStore:
    """One state per client, on disk; use as a context manager.

    It begins empty; `restore` gives it the rows of a checkpoint. It is not locked:
    `fedjax_comp.prefetch` calls it from one thread.

    Args:
      directory: where `clients.rows` lies, or is made.
      template: the state of one client before it takes part, as `Algorithm.init` says.
      num_clients: `K`.
      file: what the file is called.

    Raises:
      ValueError: for a template that holds keys.
      OSError: when the file cannot be made.
    """

    def __init__(
        self, directory: Path, template: PyTree, num_clients: int, file: str = FILE
    ) -> None:
        leaves, self._structure = jax.tree.flatten(template)
        for leaf in leaves:
            if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.extended):
                raise ValueError(
                    f"Expected clients' states of numbers, got {leaf.dtype}: a store "
                    "on disk holds no keys; keep the states on the device."
                )
        self._template = [np.asarray(leaf) for leaf in leaves]
        # One row, as it lies on disk, and its leaves as views of it.
        self._row = np.empty(sum(x.nbytes for x in self._template), np.uint8)
        self._bytes = self._row.data
        self._parts = _views(self._row, self._template)
        self._index = empty_index(num_clients)
        self._end = 0
        self._free: deque[int] = deque()
        self._fresh: set[int] = set()
        # Of the last two checkpoints, which are kept: the slots that the older alone
        # refers to, and those of the newer that the run has left since.
        self._of_older: list[int] = []
        self._left: list[int] = []
        self.path = directory / file
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> "ClientStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what has not been made durable may be lost."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    @property
    def row_bytes(self) -> int:
        """Bytes of one client's state."""
        return self._row.nbytes

    @property
    def stride(self) -> int:
        """Bytes from one row to the next: whole pages."""
        return -(-self.row_bytes // PAGE) * PAGE

    @property
    def bytes_on_disk(self) -> int:
        """What the file takes on disk."""
        return os.fstat(self._file).st_blocks * 512

    @property
    def num_rows(self) -> int:
        """Clients that have a row."""
        return int(np.count_nonzero(self._index.slots != NOWHERE))

    def restore(self, index: Index) -> None:
        """Goes on from the rows of a checkpoint; all written after it is forgotten.

        Args:
          index: as `sync` returned it, or `empty_index`.
        """
        slots, checks, before, end = map(np.array, index)  # copies, to be written to
        self._index, self._end = Index(slots, checks, slots.copy(), end), int(end)
        self._fresh.clear()
        held, older = (set(x[x != NOWHERE].tolist()) for x in (slots, before))
        self._of_older, self._left = sorted(older - held), []
        self._free = deque(s for s in range(self._end) if s not in held | older)
        if os.fstat(self._file).st_size > self._end * self.stride:
            os.ftruncate(self._file, self._end * self.stride)

    def read(self, ids: np.ndarray) -> PyTree:
        """The states of some clients.

        Args:
          ids: int `[C]`.

        Returns:
          The template's tree, leaves `[C, ...]` in new NumPy arrays.

        Raises:
          RunDirectoryError: for a row that is not what was written.
          OSError: when it cannot be read.
        """
        found = [np.empty((len(ids), *x.shape), x.dtype) for x in self._template]
        for place, client in enumerate(ids.tolist()):
            slot = int(self._index.slots[client])
            if slot == NOWHERE:
                for rows, leaf in zip(found, self._template, strict=True):
                    rows[place] = leaf
                continue
            size = self._read_row(slot * self.stride)
            expected = int(self._index.checks[client])
            if size != self.row_bytes or zlib.crc32(self._bytes) != expected:
                self._refuse(client, slot, size)
            for rows, part in zip(found, self._parts, strict=True):
                rows[place] = part
        return jax.tree.unflatten(self._structure, found)

    def _read_row(self, start: int) -> int:
        """Reads a row, of which a call may give a part; how many bytes there were."""
        size, view = 0, memoryview(self._bytes)
        while size < self.row_bytes:
            more = os.preadv(self._file, [view[size:]], start + size)
            if more == 0:
                break
            size += more
        return size

    def write(self, ids: np.ndarray, states: PyTree) -> None:
        """Writes the states of some clients, each once.

        Args:
          ids: int `[C]`, distinct.
          states: the template's tree, leaves `[C, ...]`.

        Raises:
          OSError: when they cannot be written; checkpoints are not touched.
        """
        leaves = [np.asarray(x) for x in jax.tree.leaves(states)]
        for place, client in enumerate(ids.tolist()):
            for rows, part in zip(leaves, self._parts, strict=True):
                part[...] = rows[place]
            self._write_row(self._slot_for(client) * self.stride)
            self._index.checks[client] = zlib.crc32(self._bytes)

    def sync(self) -> Index:
        """Makes all rows durable.

        Returns:
          The index, for the checkpoint that is to be made. Call `committed` when it has
          been made, before anything else is written.

        Raises:
          OSError: when they cannot be made durable.
        """
        os.fsync(self._file)
        make_entries_durable(self.path.parent)
        self._fresh.clear()
        slots, checks, before, _ = self._index
        end = np.asarray(self._end, np.int32)
        self._index = Index(slots, checks, slots.copy(), end)
        return Index(slots.copy(), checks.copy(), before, end)

    def committed(self) -> None:
        """Call it when the last `sync`'s checkpoint exists and the oldest is gone."""
        self._free.extend(self._of_older)
        self._of_older, self._left = self._left, []

    def _slot_for(self, client: int) -> int:
        """Where a client is to be written: where no kept checkpoint looks."""
        slot = int(self._index.slots[client])
        if slot in self._fresh:
            return slot
        if slot != NOWHERE:
            self._left.append(slot)
        if self._free:
            slot = self._free.popleft()
        else:
            slot, self._end = self._end, self._end + 1
        self._fresh.add(slot)
        self._index.slots[client] = slot
        return slot

    def _write_row(self, offset: int) -> None:
        done = 0
        try:
            while done < self.row_bytes:  # a disk that is nearly full takes a part
                done += os.pwrite(self._file, self._bytes[done:], offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _refuse(self, client: int, slot: int, size: int) -> None:
        how = (
            "its CRC-32 is not that of what was written"
            if size == self.row_bytes
            else f"{size} of {self.row_bytes} bytes are there"
        )
        raise RunDirectoryError(
            f"{self.path}: the state of client {client} (at byte {slot * self.stride}) "
            f"is damaged: {how}; it was not trained on. The same command goes on from "
            "the last checkpoint; if the row is damaged there too, move the newest "
            "folder out of checkpoints/ to go on from the one before, or choose "
            "another --workdir."
        )


def _views(row: np.ndarray, like: list[np.ndarray]) -> list[np.ndarray]:
    """The leaves of one client within the bytes of its row, one after another."""
    ends = np.cumsum([leaf.nbytes for leaf in like], dtype=np.int64).tolist()
    return [
        row[end - leaf.nbytes : end].view(leaf.dtype).reshape(leaf.shape)
        for leaf, end in zip(like, ends, strict=True)
    ]
