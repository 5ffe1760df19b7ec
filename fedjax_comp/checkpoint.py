"""Checkpoints of a run by orbax: all state and the ledger in one atomic directory.

A checkpoint is a directory that orbax writes under another name and renames when it is
whole, so a run killed at any moment finds the last whole one. Its ledger carries the
number of the format, `FORMAT`; one of another format is refused.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fedjax_comp.base import PyTree
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.metrics import Ledger
from fedjax_comp.run_directory import check_format
from fedjax_comp.training import TrainState

FORMAT = 1
"""Of checkpoints; raised whenever an older one could not be resumed."""


def saved() -> Hook:
    """Resumes a run from its last checkpoint, and saves the next ones.

    It stands first: what it restores is there for all others to begin with, and what
    they have put into the ledger is there when it saves (`fedjax_comp.hooks`).
    """
    opened: list[Checkpoints] = []

    def begin(live: Live, state: TrainState) -> TrainState:
        folder = live.directory.path / "checkpoints"
        opened[:] = [live.exits.enter_context(Checkpoints(folder))]
        restored = opened[0].restore(state)
        if restored is None:
            return state
        state, live.ledger = restored
        return state

    def checkpoint(live: Live, state: TrainState) -> None:
        opened[0].save(state, live.ledger)

    return Hook(begin=begin, checkpoint=checkpoint)


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager.

    Args:
      directory: where they lie; made when it does not exist.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=False
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, state: PyTree, ledger: Ledger) -> None:
        """Saves a state and its ledger under the ledger's number of rounds."""
        self._manager.save(
            ledger.rounds,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_to_arrays(state)),
                ledger=ocp.args.JsonSave(
                    {"format": FORMAT, **dataclasses.asdict(ledger)}
                ),
            ),
        )

    def restore(self, template: PyTree) -> tuple[PyTree, Ledger] | None:
        """The latest whole checkpoint.

        Args:
          template: a state of the same structure, shapes and dtypes.

        Returns:
          The state and its ledger, or None when there is no checkpoint.

        Raises:
          RunDirectoryError: for a checkpoint of another format.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        # Before the state is read: that of another format has other leaves.
        kept: dict[str, Any] = self._manager.restore(
            step, args=ocp.args.Composite(ledger=ocp.args.JsonRestore())
        ).ledger
        check_format(self._directory / str(step), kept.pop("format", None), FORMAT)
        restored: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_to_arrays(template))
            ),
        )
        return _from_arrays(restored.state, template), Ledger(**kept)


def _to_arrays(state: PyTree) -> dict[str, np.ndarray]:
    """The leaves that hold something, by position; keys as their raw words."""
    leaves = {
        f"{i:05d}": np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)
            else x
        )
        for i, x in enumerate(jax.tree.leaves(state))
    }
    return {name: x for name, x in leaves.items() if x.size}


def _from_arrays(arrays: dict[str, np.ndarray], template: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    restored = []
    for i, like in enumerate(leaves):
        value = arrays.get(f"{i:05d}")
        if value is None:
            restored.append(like)
        elif jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            impl = jax.random.key_impl(like)
            restored.append(jax.random.wrap_key_data(jnp.asarray(value), impl=impl))
        else:
            restored.append(jnp.asarray(value))
    return jax.tree.unflatten(structure, restored)
