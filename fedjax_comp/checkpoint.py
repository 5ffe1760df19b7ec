"""Checkpoints of a run by orbax: all state and the ledger in one atomic directory.

A checkpoint is a directory that orbax writes under another name and renames when it is
whole, so a run killed at any moment finds the last whole one.
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
from fedjax_comp.metrics import Ledger


class Checkpoints:
    """The checkpoints of one run directory; use as a context manager.

    Args:
      directory: where they lie; made when it does not exist.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
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
                ledger=ocp.args.JsonSave(dataclasses.asdict(ledger)),
            ),
        )

    def restore(self, template: PyTree) -> tuple[PyTree, Ledger] | None:
        """The latest whole checkpoint.

        Args:
          template: a state of the same structure, shapes and dtypes.

        Returns:
          The state and its ledger, or None when there is no checkpoint.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        restored: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_to_arrays(template)),
                ledger=ocp.args.JsonRestore(),
            ),
        )
        return _from_arrays(restored.state, template), Ledger(**restored.ledger)


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
