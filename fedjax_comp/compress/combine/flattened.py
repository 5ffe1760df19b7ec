"""A tree as one vector: one scale, one rotation, one global choice."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import (
    Compressor,
    Context,
    LinkState,
    PyTree,
)
from fedjax_comp.compress.budget.shares import shares
from fedjax_comp.compress.combine.leafwise import is_open, require_open, shape_of
from fedjax_comp.wire.fields import is_field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flattened:
    """A tree of which the open leaves travel as one vector.

    Attributes:
      payload: the vector's payload; `()` for a vector without coordinates.
      others: the leaves that passed through.
      structure: the tree's own structure.
      shapes: what each open leaf was; None for those passed through.
    """

    payload: PyTree
    others: tuple[PyTree, ...]
    structure: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})
    shapes: tuple[jax.ShapeDtypeStruct | None, ...] = dataclasses.field(
        metadata={"static": True}
    )


def flattened(compressor: Compressor) -> Compressor:
    """Compresses all open leaves as one float32 vector `[n]`.

    The compressor then has one scale, one rotation or one global choice of the largest
    coordinates, instead of one for each leaf.

    Args:
      compressor: of the vector.

    Returns:
      A `Compressor` with the states of `compressor`.

    Raises:
      ValueError: when `compressor` is not a Compressor; from `init` when the stages
        before it left nothing open.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import top_k
      >>> uplink = flattened(top_k(k=1))
      >>> context = make_context(jax.random.key(0), 0)
      >>> tree = {"a": jnp.array([1.0, 2]), "b": jnp.array([3.0])}
      >>> payload, _ = uplink.encode(context, tree, ())
      >>> uplink.decode(context, payload, ())[0]
      {'a': Array([0., 0.], dtype=float32), 'b': Array([3.], dtype=float32)}
    """
    checks.compressor("compressor", compressor)

    def init(like: PyTree) -> LinkState:
        require_open("flattened", like)
        leaves = jax.tree.leaves(like, is_leaf=is_field)
        n = trees.size([shape_of(leaf) for leaf in leaves if is_open(leaf)])
        if n == 0:
            return LinkState(sender=(), receiver=())
        return compressor.init(jax.ShapeDtypeStruct((n,), jnp.float32))

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        vector = trees.ravel([leaf for leaf in leaves if is_open(leaf)])
        others = tuple(leaf for leaf in leaves if not is_open(leaf))
        payload: PyTree = ()
        if vector.size > 0:
            (own,) = shares(context, [vector.size], others)
            payload, sender = compressor.encode(own, vector, sender)
        shapes = tuple(shape_of(leaf) if is_open(leaf) else None for leaf in leaves)
        return Flattened(payload, others, structure, shapes), sender

    def decode(
        context: Context, payload: Flattened, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        shapes = [shape for shape in payload.shapes if shape is not None]
        vector = jnp.zeros(0, jnp.float32)
        if trees.size(shapes) > 0:
            vector, receiver = compressor.decode(context, payload.payload, receiver)
        opened = iter(trees.unravel(vector, shapes))
        others = iter(payload.others)
        leaves = [next(others if like is None else opened) for like in payload.shapes]
        return jax.tree.unflatten(payload.structure, leaves), receiver

    return Compressor(init, encode, decode, compressor.linear)
