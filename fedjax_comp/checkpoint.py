"""Checkpoints of a run by orbax: all state and the ledger in one atomic directory.

A checkpoint is a directory that orbax writes under another name and renames when it is
whole, so a run killed at any moment finds the last whole one. Its ledger carries the
number of the format, `FORMAT`, and a SHA-256 over every leaf and the ledger itself. A
checkpoint that no longer matches it, or cannot be read, is named on standard error and
put aside, and the one before is used. Rows of evaluations are in `metrics.jsonl`; a
checkpoint has only how long that file was, and its SHA-256.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fedjax_comp import distributed
from fedjax_comp.base import PyTree
from fedjax_comp.by_rows import ByRows, from_array, from_file, sha256, write
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.metrics import Ledger, Row
from fedjax_comp.row_file import NOTHING, Mark, RowFile, read_marked
from fedjax_comp.run_directory import (
    Json,
    RunDirectoryError,
    begin_growth,
    check_format,
    make_entries_durable,
)
from fedjax_comp.training import Dispatch, TrainState

FORMAT = 2
"""Of checkpoints; raised whenever an older one could not be resumed."""

FORMAT_BY_ROWS = 3
"""Of those with arrays in files of their own, which format 2 knows nothing of."""

KEPT = 2
"""Checkpoints that are kept at a time; `fedjax_comp.client_store` counts on two."""

FOLDER, DAMAGED = "checkpoints", "checkpoints-damaged"
ROWS = "checkpoints-rows"
"""Holds, by checkpoint, the arrays that no process has all of: one file each."""


def saved() -> Hook:
    """Resumes a run from its last checkpoint, saves the next ones, and keeps the rows.

    This hook is the first: all others begin with what it restores, and it saves after
    they have added to the ledger (`fedjax_comp.hooks`). When a finished run is
    extended, it counts as unfinished from its next dispatch on.
    """
    opened: list[tuple[Checkpoints, RowFile]] = []

    def begin(live: Live, state: TrainState) -> TrainState:
        path = live.directory.path
        checkpoints = live.exits.enter_context(Checkpoints(path))
        restored = checkpoints.restore(state)
        mark = NOTHING
        if restored is not None:
            state, live.ledger, mark = restored
        if live.store is not None:
            live.store.restore(state.clients)
        rows = live.exits.enter_context(RowFile(live.directory.metrics_path, mark))
        opened[:] = [(checkpoints, rows)]
        return state

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state, dispatch
        live.directory = begin_growth(live.directory)

    def row(live: Live, row: Row) -> None:
        del live
        _, rows = opened[0]
        rows.append(row)

    def checkpoint(live: Live, state: TrainState) -> None:
        checkpoints, rows = opened[0]
        if live.store is not None:
            state = state._replace(clients=live.store.sync())
        clients = distributed.gathered(state.clients, live.problem.num_clients)
        state = state._replace(clients=clients)
        checkpoints.save(state, live.ledger, rows.mark())
        if live.store is not None:
            live.store.committed()

    def finish(live: Live, params: PyTree) -> None:
        del params
        live.directory = begin_growth(live.directory)

    return Hook(begin=begin, after=after, row=row, checkpoint=checkpoint, finish=finish)


_Array = np.ndarray | ByRows


class Restored(NamedTuple):
    """What a checkpoint held: the state, its ledger, and how far the rows went."""

    state: PyTree
    ledger: Ledger
    mark: Mark


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager.

    Args:
      path: the run directory.
      keep: how many of the latest are kept.
    """

    def __init__(self, path: Path, *, keep: int = KEPT) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._path = path.absolute()
        (self._path / FOLDER).mkdir(parents=True, exist_ok=True)
        # Of several processes the first alone is here: orbax would wait for all.
        alone = {0} if distributed.count() > 1 else None
        self._manager = ocp.CheckpointManager(
            self._path / FOLDER,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,
                enable_async_checkpointing=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    active_processes=alone
                ),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, state: PyTree, ledger: Ledger, mark: Mark) -> None:
        """Saves a state and its ledger under the ledger's number of rounds.

        Args:
          state: of the run; a `ByRows` in it is written a block at a time.
          ledger: of the run; its rows are not written again.
          mark: how far the file of durable rows goes.

        Raises:
          OSError: when it cannot be written; the one before stays.
        """
        # A run that ends where it was restored has this very state on disk.
        if ledger.rounds in self._manager.all_steps():
            return
        arrays, by_rows = _to_arrays(state)
        # One level deep: `dataclasses.asdict` would copy every row.
        kept = {
            field.name: getattr(ledger, field.name)
            for field in dataclasses.fields(ledger)
            if field.name != "rows"
        }
        kept |= {"format": FORMAT, "mark": mark._asdict()}
        if by_rows:
            kept["format"] = FORMAT_BY_ROWS
            kept["by_rows"] = self._write_rows(ledger.rounds, by_rows)
        kept["sha256"] = _sha256(arrays, kept)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), ledger=ocp.args.JsonSave(kept)
        )
        try:
            with _told_once():
                self._manager.save(ledger.rounds, args=items)
        except ValueError as error:
            # Tensorstore's own error, of some thousand characters.
            found = re.search(r"os_error_code='(\d+)'", str(error))
            if found is None:
                raise
            number, where = int(found[1]), self._path / FOLDER / str(ledger.rounds)
            raise OSError(number, os.strerror(number), str(where)) from error
        self._forget_rows()

    def _write_rows(self, step: int, by_rows: Mapping[str, ByRows]) -> Json:
        folder = self._path / ROWS / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            name: {
                "shape": list(x.shape),
                "dtype": str(x.dtype),
                "sha256": write(folder / name, x),
            }
            for name, x in by_rows.items()
        }
        for place in (folder, folder.parent, self._path):
            make_entries_durable(place)
        return told

    def _forget_rows(self) -> None:
        """Removes the rows of checkpoints that are not kept."""
        steps = {str(step) for step in self._manager.all_steps()}
        if (self._path / ROWS).is_dir():
            for folder in (self._path / ROWS).iterdir():
                if folder.name not in steps:
                    shutil.rmtree(folder, ignore_errors=True)

    def restore(self, template: PyTree) -> Restored | None:
        """The latest checkpoint that is undamaged.

        A damaged one is named on standard error and put aside.

        Args:
          template: a state of the same structure, shapes and dtypes.

        Returns:
          What it held, or None when there is no checkpoint.

        Raises:
          RunDirectoryError: for a checkpoint of another format or of another state, and
            when none is both undamaged and has its rows.
        """
        damaged: list[int] = []
        folder = self._path / FOLDER
        refusal = f"Every checkpoint in {folder} is damaged; delete that folder"
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                arrays, ledger, mark = self._read(step)
            except _RowsChanged as error:
                damaged.append(step)
                refusal = f"{error}: restore it, or delete {folder}"
                print(f"checkpoint {step} cannot be used: {error}.", file=sys.stderr)
                continue
            except _Damaged as error:
                damaged.append(step)
                print(f"checkpoint {step} is damaged: {error}.", file=sys.stderr)
                continue
            state = _from_arrays(folder / str(step), arrays, template)
            self._put_aside(damaged, f"round {step} is resumed instead")
            return Restored(state, ledger, mark)
        if damaged:
            raise RunDirectoryError(
                f"{refusal} to start from the first round, or choose another --workdir."
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, _Array], Ledger, Mark]:
        where = self._path / FOLDER / str(step)
        # Before the state is read: that of another format has other leaves.
        kept: Any = self._item(step, ledger=ocp.args.JsonRestore()).ledger
        if not isinstance(kept, dict):
            raise _Damaged("its ledger is no JSON object")
        digest = kept.pop("sha256", None)
        number = FORMAT_BY_ROWS if "by_rows" in kept else FORMAT
        if digest is None:
            check_format(where, kept.get("format"), number)
        arrays: Any = self._item(step, state=ocp.args.StandardRestore()).state
        arrays = {name: np.asarray(x) for name, x in (arrays or {}).items()}
        if digest != _sha256(arrays, kept):
            raise _Damaged("its SHA-256 differs from that of what it holds")
        check_format(where, kept.pop("format"), number)
        arrays |= self._rows(step, kept.pop("by_rows", {}))
        mark = Mark(**kept.pop("mark"))
        try:
            rows = read_marked(self._path / "metrics.jsonl", mark)
        except RunDirectoryError as error:
            raise _RowsChanged(str(error).rstrip(".")) from error
        return arrays, Ledger(**kept, rows=rows), mark

    def _rows(self, step: int, told: Json) -> dict[str, ByRows]:
        found = {}
        for name, of_leaf in told.items():
            path = self._path / ROWS / str(step) / name
            try:
                digest = sha256(path)
            except OSError as error:
                raise _Damaged(f"{path} cannot be read ({error.strerror})") from error
            if digest != of_leaf["sha256"]:
                raise _Damaged(f"the SHA-256 of {path} differs from that it had")
            shape, dtype = tuple(of_leaf["shape"]), jnp.dtype(of_leaf["dtype"])
            found[name] = from_file(path, shape, dtype)
        return found

    def _item(self, step: int, **item: ocp.args.CheckpointArgs) -> Any:
        with _told_once():
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**item))
            except Exception as error:
                # What a damaged file does to its reader is any of many errors.
                told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            time.sleep(0.2)  # for the readers of the other leaves
            gc.collect()
        raise _Damaged(f"it cannot be read ({told})")

    def _put_aside(self, steps: list[int], instead: str) -> None:
        for step in steps:
            aside = self._path / DAMAGED / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self._path / FOLDER / str(step)).rename(aside)
            if (self._path / ROWS / str(step)).is_dir():
                (self._path / ROWS / str(step)).rename(aside / ROWS)
            print(f"{aside}: put aside; {instead}.", file=sys.stderr)
        if steps:
            self._manager.reload()


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """Keeps standard error for our own line about a checkpoint that cannot be read.

    Orbax reads leaves side by side: of several that fail one raises, and the others
    print their tracebacks when they are collected.
    """
    log, hook = logging.getLogger("asyncio"), sys.unraisablehook
    log.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    finally:
        log.disabled, sys.unraisablehook = False, hook


class _Damaged(Exception):
    """A checkpoint is not what was written; the message says in what."""


class _RowsChanged(Exception):
    """The checkpoint is sound, and the rows that it counts on are not there."""


def _sha256(arrays: Mapping[str, np.ndarray], ledger: Json) -> str:
    """Over every leaf's name, dtype, shape and bytes, and the ledger."""
    digest = hashlib.sha256(json.dumps(ledger, sort_keys=True).encode())
    for name, x in sorted(arrays.items()):
        digest.update(f"\n{name} {x.dtype} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _to_arrays(state: PyTree) -> tuple[dict[str, np.ndarray], dict[str, ByRows]]:
    """The leaves that hold something, by position; keys as their raw words.

    Those that are read by rows are apart.
    """
    leaves = {f"{i:05d}": x for i, x in enumerate(jax.tree.leaves(state))}
    by_rows = {n: x for n, x in leaves.items() if isinstance(x, ByRows) and x.size}
    arrays = {n: _to_array(x) for n, x in leaves.items() if not isinstance(x, ByRows)}
    return {name: x for name, x in arrays.items() if x.size}, by_rows


def _to_array(leaf: jax.Array) -> np.ndarray:
    if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


def _from_arrays(where: Path, arrays: Mapping[str, _Array], template: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    whole, by_rows = _to_arrays(template)
    likes: dict[str, _Array] = {**whole, **by_rows}
    expected = {name: (x.shape, str(x.dtype)) for name, x in likes.items()}
    found = {name: (x.shape, str(x.dtype)) for name, x in arrays.items()}
    differing = {**expected, **found}.items() - (expected.items() & found.items())
    if differing:
        name, _ = min(differing)
        raise RunDirectoryError(
            f"{where} holds the state of another program (leaf {name} is "
            f"{found.get(name, 'missing')} there, {expected.get(name, 'missing')} "
            "now): run it with the version that wrote it, or choose another --workdir."
        )
    restored = []
    for i, like in enumerate(leaves):
        value = arrays.get(f"{i:05d}")
        if value is None:
            restored.append(like)
        elif isinstance(like, ByRows):
            restored.append(value if isinstance(value, ByRows) else from_array(value))
        elif isinstance(value, ByRows):
            restored.append(jnp.asarray(value.whole()))
        elif jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            impl = jax.random.key_impl(like)
            restored.append(jax.random.wrap_key_data(jnp.asarray(value), impl=impl))
        else:
            restored.append(jnp.asarray(value))
    return jax.tree.unflatten(structure, restored)
