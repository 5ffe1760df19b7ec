"""Orders from the host to the compiled round: each message's budget in bits.

Budgets are arrays in the clients' states: the host writes them between two rounds, and
nothing is compiled anew. A budget is in the sender's memory. The receiver never needs
it, since the message carries what was decided by it. Who takes part is set in the same
way, by `fedjax_comp.algorithms.wrappers.admit`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import (
    Compressor,
    Context,
    LinkState,
    PyTree,
    fold_context,
)


class Steered(NamedTuple):
    """A sender's state with its budget.

    Attributes:
      budget_bits: float32 scalar, or `[L]` with one for each leaf.
      inner: the compressor's own.
    """

    budget_bits: jax.Array
    inner: PyTree


class Heard(NamedTuple):
    """A receiver's state with what it last heard.

    Attributes:
      energies: float32 `[L]`, the squared norm of each leaf of the last message.
      inner: the compressor's own.
    """

    energies: jax.Array
    inner: PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Separate:
    """A tree of which every leaf travels by itself.

    Attributes:
      parts: a payload for each leaf.
      structure: the tree's own structure.
    """

    parts: tuple[PyTree, ...]
    structure: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})


def steered(compressor: Compressor, *, per_leaf: bool = False) -> Compressor:
    """Gives a compressor the budget that `steer` last wrote; `inf` before the first.

    Put it outermost. The receiver also keeps the energy of each leaf of its last
    message, for controllers: what is derived from a message costs nothing.

    Args:
      compressor: one that heeds `Context.budget_bits`.
      per_leaf: whether every leaf has a budget of its own; each then travels by itself
        and leaf `i` draws from `fold_context(context, i)`.

    Returns:
      A `Compressor` with the states `Steered` and `Heard`.

    Raises:
      ValueError: when `compressor` is not a compressor.

    Example:
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import budgeted_top_k
      >>> up, x = steered(budgeted_top_k(1.0)), jnp.array([1.0, -4, 3, 2])
      >>> sender = steer(up.init(x), np.float32(80)).sender
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = up.encode(context, x, sender)
      >>> up.decode(context, payload, up.init(x).receiver)[1].energies.tolist()
      [25.0]
    """
    checks.compressor("compressor", compressor)

    def init(like: PyTree) -> LinkState:
        leaves = jax.tree.leaves(like)
        energies = jnp.zeros(len(leaves), jnp.float32)
        if not per_leaf:
            state = compressor.init(like)
            unlimited = jnp.asarray(jnp.inf, jnp.float32)
            return LinkState(
                Steered(unlimited, state.sender), Heard(energies, state.receiver)
            )
        states = [compressor.init(leaf) for leaf in leaves]
        return LinkState(
            Steered(
                jnp.full(len(leaves), jnp.inf, jnp.float32), [s.sender for s in states]
            ),
            Heard(energies, [s.receiver for s in states]),
        )

    def encode(
        context: Context, tree: PyTree, sender: Steered
    ) -> tuple[PyTree, Steered]:
        budget = jnp.minimum(sender.budget_bits, context.budget_bits)
        if not per_leaf:
            payload, inner = compressor.encode(
                context._replace(budget_bits=budget), tree, sender.inner
            )
            return payload, Steered(sender.budget_bits, inner)
        leaves, structure = jax.tree.flatten(tree)
        sent = [
            compressor.encode(
                fold_context(context, i)._replace(budget_bits=budget[i]),
                leaf,
                sender.inner[i],
            )
            for i, leaf in enumerate(leaves)
        ]
        payload = Separate(tuple(part for part, _ in sent), structure)
        return payload, Steered(sender.budget_bits, [inner for _, inner in sent])

    def decode(
        context: Context, payload: PyTree, receiver: Heard
    ) -> tuple[PyTree, Heard]:
        if not per_leaf:
            tree, inner = compressor.decode(context, payload, receiver.inner)
        else:
            pairs = zip(payload.parts, receiver.inner, strict=True)
            decoded = [
                compressor.decode(fold_context(context, i), part, own)
                for i, (part, own) in enumerate(pairs)
            ]
            inner = [own for _, own in decoded]
            tree = jax.tree.unflatten(payload.structure, [leaf for leaf, _ in decoded])
        squares = [
            jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)
        ]
        energies = jnp.stack(squares) if squares else receiver.energies
        return tree, Heard(energies, inner)

    return Compressor(init, encode, decode)


def steer(states: PyTree, budgets: np.ndarray) -> PyTree:
    """The same states with new budgets wherever one is `Steered`.

    Args:
      states: any tree, such as `TrainState.clients`.
      budgets: float, in the shape of the budgets there: `[K]`, or `[K, L]` per leaf.
    """

    def write(node: PyTree) -> PyTree:
        if not isinstance(node, Steered):
            return node
        new = jnp.broadcast_to(
            jnp.asarray(budgets, jnp.float32), node.budget_bits.shape
        )
        return node._replace(budget_bits=new)

    return jax.tree.map(write, states, is_leaf=lambda x: isinstance(x, Steered))


def heard_energies(states: PyTree) -> np.ndarray | None:
    """`Heard.energies` of all clients, float32 `[K, L]`; None when nothing hears."""
    nodes = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, Heard))
    found = [node for node in nodes if isinstance(node, Heard)]
    return np.asarray(found[0].energies) if found else None
