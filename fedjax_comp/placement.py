"""Where the states of a run's clients are between their rounds.

One process holds them whole, on its device or in a store on disk
(`fedjax_comp.shared_store`). Of several each has a part: of the rows on the devices
(`fedjax_comp.distributed`), or of the files. Where a hook looks into all of them each
has them whole.
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
    """Whether a run's processes hold a share of its clients' states each.

    Args:
      template: the state of one client; one that holds keys lies whole on each.
      hooks: of the run; with one that looks into all states they lie whole as well.
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
    """The first process's state, in all of them.

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
