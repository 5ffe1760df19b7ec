"""Where the states of a run's clients are between their rounds.

A single process holds the states of all clients, on its device or in a store on disk
(`fedjax_comp.shared_store`). Of several processes each holds a part: the rows on its
own devices (`fedjax_comp.distributed`), or a file of its own clients. Where a hook
looks into the states of all clients, each process holds all of them.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from fedjax_comp import distributed
from fedjax_comp.base import PyTree
from fedjax_comp.by_rows import ByRows
from fedjax_comp.hooks import Hook
from fedjax_comp.problem import Problem
from fedjax_comp.shared_store import SharedStore
from fedjax_comp.training import TrainState


def is_split(template: PyTree, hooks: Sequence[Hook]) -> bool:
    """Whether each of a run's processes holds a share of the clients' states.

    Args:
      template: the state of one client; if it holds keys, each process holds all.
      hooks: of the run; if one looks into all states, each process holds all.
    """
    keyed = any(
        jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.extended)
        for x in jax.tree.leaves(template)
    )
    return distributed.count() > 1 and not (
        keyed or any(hook.whole_clients for hook in hooks)
    )


def stored(
    directory: Path, problem: Problem, state: TrainState
) -> tuple[SharedStore, TrainState]:
    """A store for the clients of a `first_state`, and the state with its index.

    Args:
      directory: of the run.
      problem: what is run.
      state: its `clients` are the template of one.

    Raises:
      RunDirectoryError, ValueError, OSError: as `SharedStore`, in every process.
    """
    template, count = state.clients, problem.num_clients
    store = distributed.together(lambda: SharedStore(directory, template, count))
    return store, state._replace(clients=store.empty_index())


def shared(state: TrainState, new: PyTree) -> TrainState:
    """Gives all processes the state of the first one.

    Args:
      state: as the hooks have left it.
      new: its `clients` before that.
    """
    clients = state.clients
    if not any(isinstance(x, ByRows) for x in jax.tree.leaves(clients)):
        return distributed.share(state)
    state = distributed.share(state._replace(clients=()))
    # Every process makes those of clients that have never taken part for itself.
    split = distributed.repeated_rows(
        jax.tree.map(lambda x: x.read(0, 1)[0], new), jax.tree.leaves(new)[0].shape[0]
    )
    if clients is not new:
        split = distributed.filled(split, clients)
    return state._replace(clients=split)
