"""Logs a run's messages in a thread, while the next round is computed.

Every message that was sent is written to bytes (`fedjax_comp.wire.message`), and the
hash of these bytes becomes an entry. A thread does this for one round while the devices
compute the next; hashing and writing let go of Python's lock. At most one round waits,
so a log that is slower than the rounds holds them back instead of filling the memory.
Every row of `metrics.jsonl` leaves an entry too, behind those of its round.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fedjax_comp.audit.configuration import (
    config_sha256,
    origin_of,
    read_config,
    run_id_of,
)
from fedjax_comp.audit.entry import (
    EVALUATION,
    EVERYONE_NAME,
    FORMAT,
    RESULT,
    SERVER_NAME,
    SILENCE,
    Beginning,
    Entry,
    format_entry,
    format_of,
    parse_beginning,
    parse_entry,
    row_sha256,
    sha256_hex,
)
from fedjax_comp.audit.log import FOLDER, LOG, Log, LogError, read_log
from fedjax_comp.audit.note import Signer
from fedjax_comp.base import EVERYONE, SERVER, Ends, Messages, PyTree
from fedjax_comp.wire.message import to_bytes_all


class Sent(NamedTuple):
    """The messages of one kind: `payload`, `spoke` and `ends` of `Messages`."""

    payload: PyTree
    spoke: jax.Array
    ends: Ends


def params_sha256(params: PyTree) -> str:
    """SHA-256 of the parameters' bytes, leaf by leaf in the order of their paths."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for _, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


class Recorder:
    """Logs every exchange of a run; use as a context manager.

    Args:
      run: the run directory; the log lies below it.
      signer: the log's key.
      run_id: the run's id in the log's name; from `config.json` when None
        (`fedjax_comp.audit.configuration`).

    Raises:
      LogError: as `Log`, when the run directory has no `config.json`, and when it has
        another than the log began with, or a log of another format.
      ValueError: for an id that cannot be one.
    """

    def __init__(self, run: Path, signer: Signer, run_id: str | None = None) -> None:
        try:
            config = read_config(run / "config.json")
            if (run / FOLDER / LOG).exists():
                _check_format(read_log(run / FOLDER).lines)
        except ValueError as error:
            raise LogError(str(error)) from error
        run_id = run_id_of(config) if run_id is None else run_id
        origin = origin_of(signer.verifier, run_id)
        self._config = config_sha256(config)
        self._log = Log(run / FOLDER, signer, origin)
        try:
            self._begin(Beginning(FORMAT, origin, self._config))
        except LogError:
            self._log.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit-log")
        self._pending: Future[None] | None = None
        self.waited_seconds = 0.0
        """How long the run waited for the log."""

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self._log.close()

    @property
    def entries(self) -> int:
        """How many entries the log has."""
        return self._log.size

    def resume(self, rounds: int, evaluations: int) -> None:
        """Goes to where a checkpoint was made; what follows must be what was logged.

        Args:
          rounds: how many the checkpoint has.
          evaluations: how many rows it has, that before the first round included.

        Raises:
          LogError: when the log does not reach that far.
        """
        done, last, rows_done = 1, 0, 0
        for line in self._log.lines[1:]:
            entry = _parse(line)
            ahead = entry.kind == EVALUATION and rows_done == evaluations
            # The result of a run that went on is passed, that of these rounds is not:
            # `_append` compares it, or goes on behind it.
            ended = entry.kind == RESULT and entry.round >= rounds
            if entry.round > rounds or ended or ahead:
                break
            done, last = done + 1, entry.round
            rows_done += entry.kind == EVALUATION
        if (last, rows_done) != (rounds, evaluations):
            raise LogError(
                f"The run's checkpoint is of round {rounds} and {evaluations} "
                f"evaluations, the log ends at round {last} and {rows_done}: entries "
                "were removed from its end."
            )
        if self._log.lines:
            self._log.rewind(done)

    def record(
        self,
        round_index: int,
        model: PyTree,
        messages: Mapping[str, Messages],
    ) -> None:
        """Logs one round, later.

        Args:
          round_index: the round, from 1.
          model: the parameters before the round, copied to the host.
          messages: the round's messages.

        Raises:
          LogError: when an earlier round could not be logged.
        """
        # Contexts and receivers' states go now, so that only payloads take memory.
        sent = {name: Sent(x.payload, x.spoke, x.ends) for name, x in messages.items()}
        self._wait()
        self._submit(lambda: self._record(round_index, model, sent))

    def record_row(self, round_index: int, row: Mapping[str, object]) -> None:
        """Logs an evaluation, later; the next round's signature covers it.

        Args:
          round_index: the round that it follows, from 0.
          row: the row of `metrics.jsonl`.
        """
        digest, at = row_sha256(row), (round_index, EVALUATION, 0)
        entry = Entry(*at, SERVER_NAME, "", digest, "", self._config)
        self._submit(lambda: self._append([entry]))

    def flush(self) -> None:
        """Returns when all that was recorded is logged, signed and durable.

        Raises:
          LogError: when one could not be.
        """
        self._wait()
        self._log.checkpoint()

    def finish(self, rounds: int, params: PyTree) -> None:
        """Logs the model that the run ends with.

        Raises:
          LogError: as `record`.
        """
        self._wait()
        digest = params_sha256(params)
        entry = Entry(rounds, RESULT, 0, SERVER_NAME, "", digest, digest, self._config)
        self._append([entry])
        self._log.checkpoint()

    def _begin(self, beginning: Beginning) -> None:
        line = format_entry(beginning)
        if self._log.lines and self._log.lines[0] != line:
            raise LogError(
                "config.json holds another configuration than the log began with: "
                "flags, versions or commit were changed in it."
            )
        self._log.append([line])

    def _submit(self, work: Callable[[], None]) -> None:
        before = self._pending

        def after_that() -> None:
            if before is not None:
                before.result()  # done by now; nothing follows what failed
            work()

        self._pending = self._thread.submit(after_that)

    def _append(self, entries: Sequence[Entry]) -> None:
        # A run that ended may go on for more rounds: its former result stays.
        at, known = self._log.position, self._log.lines
        if at < len(known):
            old = _parse(known[at])
            if old.kind == RESULT and entries[0].round > old.round:
                self._log.rewind(at + 1)
        self._log.append([format_entry(entry) for entry in entries])

    def _wait(self) -> None:
        if self._pending is not None:
            started = time.perf_counter()
            pending, self._pending = self._pending, None
            pending.result()
            self.waited_seconds += time.perf_counter() - started

    def _record(
        self,
        round_index: int,
        model: PyTree,
        messages: dict[str, Sent],
    ) -> None:
        before = params_sha256(model)
        entries = [
            Entry(round_index, kind, number, *ends, digest, before, self._config)
            for kind, sent in messages.items()
            for number, ends, digest in digests(sent)
        ]
        if not entries:
            nothing = Entry(round_index, SILENCE, 0, "", "", "", before, self._config)
            entries = [nothing]
        self._append(entries)
        self._log.checkpoint()


def digests(sent: Sent) -> list[tuple[int, tuple[str, str], str]]:
    """Place, ends and SHA-256 of every message that was sent.

    Args:
      sent: the messages of one kind, leaves `[M, ...]`.

    Returns:
      `(place, (sender, receiver), hash of the message's bytes)` for each.
    """
    spoke = np.asarray(sent.spoke)
    senders, receivers = (np.asarray(x).tolist() for x in sent.ends)
    payloads = rows(sent.payload, spoke.size)
    places = np.flatnonzero(spoke).tolist()
    written = to_bytes_all([payloads[i] for i in places])
    return [
        (i, (party(senders[i]), party(receivers[i])), sha256_hex(data))
        for i, data in zip(places, written, strict=True)
    ]


def party(end: int) -> str:
    """One of `Ends` in the words of an entry.

    >>> party(12), party(-1)
    ('client 12', 'server')
    """
    return {SERVER: SERVER_NAME, EVERYONE: EVERYONE_NAME}.get(end, f"client {end}")


def rows(stacked: PyTree, count: int) -> list[PyTree]:
    """The payloads of `count` clients from leaves `[count, ...]`, without copies.

    Where a leaf lies on several devices, each client's part is read where it is.
    """
    leaves, structure = jax.tree.flatten(stacked)
    columns = [_rows_of(leaf, count) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [column[i] for column in columns])
        for i in range(count)
    ]


def _rows_of(leaf: jax.Array, count: int) -> list[np.ndarray]:
    shards = leaf.addressable_shards
    split = all(x.data.shape[1:] == leaf.shape[1:] for x in shards)
    if not (split and leaf.is_fully_addressable):
        return list(np.asarray(leaf))
    found: dict[int, np.ndarray] = {}
    for shard in shards:
        first = shard.index[0].start or 0
        if first not in found:
            for i, row in enumerate(np.asarray(shard.data)):
                found[first + i] = row
    return [found[i] for i in range(count)]


def host_copy(params: PyTree) -> PyTree:
    """A copy that stays as it is when the run gives its buffers away."""
    return jax.tree.map(lambda x: np.array(x, copy=True), params)


def _check_format(lines: Sequence[bytes]) -> None:
    # What is not a first line of any format is told, or removed, by the log itself.
    if lines and format_of(lines[0]) is not None:
        parse_beginning(lines[0])


def _parse(line: bytes) -> Entry:
    try:
        return parse_entry(line)
    except ValueError as error:
        raise LogError(str(error)) from error
