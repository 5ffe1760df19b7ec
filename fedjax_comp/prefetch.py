"""Reads a store's rows before they are needed, and writes them after, during rounds.

One thread does all reading and writing, in order. While round `t` is computed it writes
the rows of round `t - 1` and reads those of round `t + 1`; clients that are in `t` as
well come from what round `t` hands back, and are not read.

    read 1 | write 0, read 2 | write 1, read 3 | ...        the thread
    -------|  round 1        |  round 2        | ...        the devices
"""

import itertools
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.client_store import FILE, ClientStore, Index


class _Ahead(NamedTuple):
    """What is being read for a round that has not begun.

    Attributes:
      ids: int `[C]`, its clients.
      absent: bool `[C]`, those that are read; the others come from the round before.
      rows: of `absent`, when they have been read.
    """

    ids: np.ndarray
    absent: np.ndarray
    rows: Future[PyTree]


class Prefetch:
    """Reads ahead of a run and writes behind it; use as a context manager.

    Args:
      directory: of the run.
      template: the state of one client before it takes part.
      num_clients: `K`.
      file: what the store's file is called.

    Raises:
      ValueError, OSError: as `ClientStore`.
    """

    def __init__(
        self, directory: Path, template: PyTree, num_clients: int, file: str = FILE
    ) -> None:
        self.store = ClientStore(directory, template, num_clients, file)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="client-store")
        self._ahead: _Ahead | None = None
        self._last: tuple[np.ndarray, PyTree] | None = None
        self._writes: deque[Future[None]] = deque()
        self.seconds_waited = 0.0

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.store.close()

    def restore(self, index: Index) -> None:
        """Goes on from a checkpoint: `ClientStore.restore`.

        What was read ahead and handed back is forgotten as well.

        Raises:
          OSError: when something could not be written before.
        """
        self.drain()
        self._ahead = self._last = None
        self._thread.submit(self.store.restore, index).result()

    def ask(self, ids: np.ndarray, running: np.ndarray) -> None:
        """Begins to read the rows of the next round, before this one is dispatched.

        Args:
          ids: int `[C]`, the clients of the next round.
          running: int `[C]`, those of this one, whose states `give` will bring.
        """
        absent = ~np.isin(ids, running)
        rows = self._thread.submit(self.store.read, ids[absent])
        self._ahead = _Ahead(ids, absent, rows)

    def take(self, ids: np.ndarray) -> PyTree:
        """The states of a round's clients, read ahead or now.

        Args:
          ids: int `[C]`.

        Returns:
          A tree with leaves `[C, ...]`, arrays of its own.

        Raises:
          RunDirectoryError, OSError: as `ClientStore.read`, and what writing raised.
          RuntimeError: when clients of the round before, whose states `give` was to
            bring, are among them and it was not called.
        """
        started = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        last, self._last = self._last, None
        if ahead is None or not np.array_equal(ahead.ids, ids):
            self.drain()
            states = self._thread.submit(self.store.read, ids).result()
        else:
            states = _merged(ahead, last)
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()
        self.seconds_waited += time.perf_counter() - started
        return states

    def give(
        self, ids: np.ndarray, states: PyTree, kept: np.ndarray | None = None
    ) -> None:
        """Begins to write what a round handed back.

        Args:
          ids: int `[C]`.
          states: leaves `[C, ...]`, on the device; the thread waits for them.
          kept: bool `[C]`, those that are written; all when None.
        """
        self._last = (ids, states)
        self._writes.append(self._thread.submit(self._write, ids, states, kept))

    def drain(self) -> None:
        """Waits until everything is written.

        Raises:
          OSError: when something could not be.
        """
        while self._writes:
            self._writes.popleft().result()

    def sync(self) -> Index:
        """Makes everything durable: `ClientStore.sync`."""
        started = time.perf_counter()
        self.drain()
        index = self._thread.submit(self.store.sync).result()
        self.seconds_waited += time.perf_counter() - started
        return index

    def committed(self) -> None:
        """Call it when the last `sync`'s checkpoint exists: `ClientStore.committed`."""
        self.store.committed()

    def measured(self) -> dict[str, float]:
        """What a run's summary says of its store.

        `client_store_clients` have a row, which take `client_store_bytes`; rows that
        only checkpoints refer to are not counted. `client_store_wait_seconds` is how
        long rounds and checkpoints waited for the disk.
        """
        rows = self.store.num_rows
        return {
            "client_store_clients": rows,
            "client_store_bytes": rows * self.store.stride,
            "client_store_wait_seconds": self.seconds_waited,
        }

    def _write(self, ids: np.ndarray, states: PyTree, kept: np.ndarray | None) -> None:
        # Device by device: an array of several, as one of NumPy's, would be a copy.
        leaves, structure = jax.tree.flatten(states)
        spans = {_spans(x) for x in leaves}
        for span in spans.pop() if len(spans) == 1 else ((0, len(ids)),):
            begin, end = span
            rows = [_rows_between(x, begin, end) for x in leaves]
            own = ids[begin:end]
            if kept is not None:
                rows = [x[kept[begin:end]] for x in rows]
                own = own[kept[begin:end]]
            self.store.write(own, jax.tree.unflatten(structure, rows))


def _merged(ahead: _Ahead, last: tuple[np.ndarray, PyTree] | None) -> PyTree:
    """What was read, and of clients that were in the last round what it handed back."""
    read = ahead.rows.result()
    if ahead.absent.all():
        return read
    if last is None:
        raise RuntimeError(
            "Expected give() between ask() and take(): clients of the round before are "
            "in this one as well, and what it handed back is not known."
        )
    last_ids, states = last
    order = np.argsort(last_ids)
    here = ahead.ids[~ahead.absent]
    places = order[np.searchsorted(last_ids, here, sorter=order)]

    def merge(rows: np.ndarray, before: jax.Array) -> np.ndarray:
        merged = np.empty((len(ahead.ids), *rows.shape[1:]), rows.dtype)
        merged[ahead.absent] = rows
        to = np.flatnonzero(~ahead.absent)
        for begin, end in _spans(before):
            inside = (begin <= places) & (places < end)
            part = _rows_between(before, begin, end)
            merged[to[inside]] = part[places[inside] - begin]
        return merged

    return jax.tree.map(merge, read, states)


def _spans(x: jax.Array) -> tuple[tuple[int, int], ...]:
    """The rows that each device has, where they are spread over devices by rows."""
    whole = ((0, x.shape[0]),)
    spans = []
    for shard in x.addressable_shards:
        if shard.data.shape[1:] != x.shape[1:]:
            return whole
        begin, end, _ = shard.index[0].indices(x.shape[0])
        spans.append((begin, end))
    spans.sort()
    joined = [*itertools.pairwise(spans)]
    if (
        spans[0][0]
        or spans[-1][1] != x.shape[0]
        or any(a[1] != b[0] for a, b in joined)
    ):
        return whole  # copies of one another, or not all here
    return tuple(spans)


def _rows_between(x: jax.Array, begin: int, end: int) -> np.ndarray:
    for shard in x.addressable_shards:
        here = shard.index[0].indices(x.shape[0])[:2] == (begin, end)
        if here and shard.data.shape[1:] == x.shape[1:]:
            return np.asarray(shard.data)
    return np.asarray(x)[begin:end]
