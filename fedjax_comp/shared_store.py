"""A population on disk, by several processes: each keeps a file of its own clients.

Client `k` belongs to process `k mod P`, which alone reads and writes its row, in
`clients-I-of-P.rows` under its own `--workdir`. Before a round every process reads the
rows of its own clients that take part, and the processes put these together, so that
all devices have the whole cohort; after the round every process writes the rows of its
own clients. So each process holds a cohort in memory, as a single one would, and its
share of the population on disk.

Rows are copied on write (`fedjax_comp.client_store`). One checkpoint, made by the first
process, covers all files: it is made when every process has made its rows durable, and
says where all rows lie. The rows it refers to stay unchanged until the next one exists.
"""

import re
from pathlib import Path

import jax
import numpy as np

from fedjax_comp import distributed
from fedjax_comp.base import PyTree
from fedjax_comp.client_store import FILE, NOWHERE, Index, empty_index
from fedjax_comp.prefetch import Prefetch
from fedjax_comp.run_directory import RunDirectoryError

SYNC, COMMITTED = "sync", "committed"


def file_name(process: int, count: int) -> str:
    """What the file of a process is called.

    >>> file_name(0, 1), file_name(1, 2)
    ('clients.rows', 'clients-1-of-2.rows')
    """
    return FILE if count == 1 else f"clients-{process}-of-{count}.rows"


def check_same_count(directory: Path, count: int) -> None:
    """Refuses clients' states that were written by another number of processes.

    Raises:
      RunDirectoryError: when they were; it says by how many.
    """
    for path in sorted(directory.glob("clients*.rows")):
        named = re.fullmatch(r"clients-\d+-of-(\d+)", path.stem)
        there = int(named[1]) if named else 1
        if there != count:
            raise RunDirectoryError(
                f"{path}: with --client_store=disk each of {there} processes has "
                f"written its own clients' states; go on with --num_processes={there} "
                f"(it is {count} now), or choose another --workdir."
            )


class SharedStore:
    """The part of a population that one process has; use as a context manager.

    With one process it is a `Prefetch` that has all clients.

    Attributes:
      own: what reads and writes this process's file.

    Args:
      directory: of the run, on this process's machine.
      template: the state of one client before it takes part.
      num_clients: `K`.

    Raises:
      RunDirectoryError: for files of another number of processes.
      ValueError, OSError: as `ClientStore`.
    """

    def __init__(self, directory: Path, template: PyTree, num_clients: int) -> None:
        self._count = distributed.count()
        self._process = jax.process_index() if self._count > 1 else 0
        check_same_count(directory, self._count)
        directory.mkdir(parents=True, exist_ok=True)
        name = file_name(self._process, self._count)
        self.own = Prefetch(directory, template, num_clients, name)
        self._is_own = np.arange(num_clients) % self._count == self._process
        self._seen = np.zeros(num_clients, bool)

    def __enter__(self) -> "SharedStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.own.__exit__()

    def empty_index(self) -> Index:
        """The index of all files before anybody has taken part."""
        index = empty_index(len(self._is_own))
        ends = () if self._count == 1 else (self._count,)
        return index._replace(end=np.zeros(ends, np.int32))

    def restore(self, index: Index) -> None:
        """Goes on from a checkpoint, each process with its own rows."""
        slots, checks, before, end = map(np.asarray, index)
        self._seen = slots != NOWHERE
        if self._count > 1:
            slots = np.where(self._is_own, slots, NOWHERE)
            checks = np.where(self._is_own, checks, np.uint32(0))
            before = np.where(self._is_own, before, NOWHERE)
            end = end[self._process]
        self.own.restore(Index(slots, checks, before, end))

    def ask(self, ids: np.ndarray, running: np.ndarray) -> None:
        """Begins to read the next round's own rows: `Prefetch.ask`."""
        self.own.ask(ids[self._is_own[ids]], running)

    def take(self, ids: np.ndarray) -> PyTree:
        """The states of a round's clients, leaves `[C, ...]`; all have to ask.

        Raises:
          RunDirectoryError, OSError: as `Prefetch.take`.
          fedjax_comp.distributed.OtherFailed: when another process's rows are damaged.
        """
        if self._count == 1:
            return self.own.take(ids)
        mine = self._is_own[ids]
        states = distributed.together(lambda: self.own.take(ids[mine]))

        def seated(rows: np.ndarray) -> np.ndarray:
            seats = np.zeros((len(ids), *rows.shape[1:]), rows.dtype)
            seats[mine] = rows
            return seats

        return distributed.total(jax.tree.map(seated, states))

    def give(self, ids: np.ndarray, states: PyTree) -> None:
        """Begins to write what a round handed back, own rows alone: `Prefetch.give`."""
        self._seen[ids] = True
        self.own.give(ids, distributed.to_here(states), self._is_own[ids])

    def sync(self) -> Index:
        """Makes everything durable in all processes; the first one calls it.

        Returns:
          Where all rows lie.
        """
        distributed.tell({"do": SYNC})
        return self._synced()

    def committed(self) -> None:
        """Call it in the first process when the last `sync`'s checkpoint exists."""
        distributed.tell({"do": COMMITTED})
        self.own.committed()

    def obeyed(self, what: str) -> None:
        """What another process does when the first one calls `sync` or `committed`."""
        if what == SYNC:
            self._synced()
        else:
            self.own.committed()

    def _synced(self) -> Index:
        index = distributed.together(self.own.sync)
        if self._count == 1:
            return index
        slots, checks, before, end = index
        ends = np.zeros(self._count, np.int32)
        ends[self._process] = end
        # 0 where others have theirs, so that they can be added up.
        parts = Index(
            np.where(self._is_own, slots + 1, 0), checks, (before + 1) * self._is_own,
            ends,
        )  # fmt: skip
        whole: Index = jax.tree.map(
            np.asarray, distributed.to_here(distributed.total(parts))
        )
        return whole._replace(slots=whole.slots - 1, before=whole.before - 1)

    def measured(self) -> dict[str, float]:
        """What a run's summary says: `Prefetch.measured`, of all processes' clients."""
        told = self.own.measured()
        clients = int(np.count_nonzero(self._seen))
        stride = self.own.store.stride
        return told | {
            "client_store_clients": clients,
            "client_store_bytes": clients * stride,
        }
