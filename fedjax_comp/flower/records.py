"""Trees as Flower's records, and back; a client's memory between two rounds.

Flower's arrays are named: a model is a flat dictionary of arrays here.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import PyTree
from fedjax_comp.extras import needs

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, RecordDict

KEY = "fedjax_comp"
"""The record that has a sealed message, and in a client's state its memory."""

_ROUND = f"{KEY}.round"


def to_record(tree: dict[str, jax.Array]) -> "ArrayRecord":
    """A model as Flower's record of arrays."""
    with needs("flower", "messages of a Flower app"):
        from flwr.app import Array, ArrayRecord
    return ArrayRecord({name: Array(np.asarray(x)) for name, x in tree.items()})


def from_record(record: "ArrayRecord") -> dict[str, jax.Array]:
    """The inverse of `to_record`."""
    return {name: jnp.asarray(array.numpy()) for name, array in record.items()}


def recall(state: "RecordDict", counted: int, first: PyTree) -> PyTree:
    """The memory of a client's uplink before it sends.

    Args:
      state: of the client's context.
      counted: the last round in which the server counted a message of this client, -1
        for none.
      first: the memory at the start.

    Returns:
      What it was after its last message, or, where that one was lost or refused, what
      it was before.
    """
    if KEY not in state:
        return first
    arrays: Any = state[KEY]
    known: Any = state[_ROUND]
    part = "after" if int(known["round"]) == counted else "before"
    leaves, structure = jax.tree.flatten(first)
    return jax.tree.unflatten(
        structure,
        [jnp.asarray(arrays[f"{part} {i}"].numpy()) for i in range(len(leaves))],
    )


def remember(
    state: "RecordDict", round_number: int, before: PyTree, after: PyTree
) -> None:
    """Keeps a client's memory; nothing for an uplink without any."""
    with needs("flower", "messages of a Flower app"):
        from flwr.app import ConfigRecord
    if not jax.tree.leaves(after):
        return
    state[KEY] = to_record(
        {
            f"{part} {i}": leaf
            for part, tree in (("before", before), ("after", after))
            for i, leaf in enumerate(jax.tree.leaves(tree))
        }
    )
    state[_ROUND] = ConfigRecord({"round": round_number})
