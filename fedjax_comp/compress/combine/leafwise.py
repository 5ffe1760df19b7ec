"""Lifts a code for one array to a compressor of trees.

A stage of a pipeline acts on the *open* leaves of its input: the bare float arrays.
Wire fields, which an earlier stage has finished, and arrays of integers pass through it
unchanged.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import Compressor, Context, LinkState, PyTree, fold_context
from fedjax_comp.compress.budget.shares import shares
from fedjax_comp.wire.fields import is_field


def is_open(leaf: PyTree) -> bool:
    """Whether `leaf` is a bare float array, which a stage may still refine."""
    return not is_field(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def shape_of(leaf: PyTree) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array, without its numbers."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def open_leaves(tree: PyTree) -> list[PyTree]:
    """The open leaves of a tree, in order.

    >>> open_leaves({"count": jnp.arange(2), "w": jnp.ones(1)})
    [Array([1.], dtype=float32)]
    """
    leaves = jax.tree.leaves(tree, is_leaf=is_field)
    return [leaf for leaf in leaves if is_open(leaf)]


def replace_open(tree: PyTree, values: Sequence[jax.Array]) -> PyTree:
    """A tree with other numbers in its open leaves, in the dtypes that these have.

    >>> replace_open({"count": jnp.arange(2), "w": jnp.ones(1)}, [jnp.zeros(1)])
    {'count': Array([0, 1], dtype=int32), 'w': Array([0.], dtype=float32)}
    """
    rest = iter(values)
    return jax.tree.map(
        lambda leaf: next(rest).astype(leaf.dtype) if is_open(leaf) else leaf,
        tree,
        is_leaf=is_field,
    )


def zeros_of_open(like: PyTree) -> tuple[jax.Array, ...]:
    """A memory for the open leaves of a tree: float32 zeros in their shapes."""
    return tuple(jnp.zeros(leaf.shape, jnp.float32) for leaf in open_leaves(like))


def twin(state: PyTree) -> PyTree:
    """A copy of a state for the other end, so that no buffer is donated twice."""
    return jax.tree.map(jnp.copy, state)


def _always(like: jax.ShapeDtypeStruct) -> bool:
    del like
    return True


def _no_bits(like: jax.ShapeDtypeStruct) -> int:
    del like
    return 0


def require_open(
    name: str,
    like: PyTree,
    accepts: Callable[[jax.ShapeDtypeStruct], bool] = _always,
) -> None:
    """Refuses a later stage that would find nothing to do.

    Args:
      name: of the stage, for the message.
      like: the tree that will reach the stage.
      accepts: which shapes the stage acts on; empty leaves are always fine.

    Raises:
      ValueError: when `like` holds wire fields, so that the stage is a later one, and
        no open leaf that it accepts, or is one vector (of `flattened`, `blockwise` or
        `rotate`) that it does not accept. It would silently do nothing.
    """
    leaves = jax.tree.leaves(like, is_leaf=is_field)
    has_open = any(
        is_open(leaf) and (math.prod(leaf.shape) == 0 or accepts(shape_of(leaf)))
        for leaf in leaves
    )
    if has_open:
        return
    if len(leaves) == 1 and is_open(leaves[0]) and len(leaves[0].shape) == 1:
        raise ValueError(
            f"Expected leaves that {name} acts on, got one vector of "
            f"{leaves[0].shape[0]} numbers, which would travel as it is: leave out "
            "flattened(), blockwise() or the rotation around it, or, where the model "
            "is no more than that, choose another."
        )
    if any(is_field(leaf) for leaf in leaves):
        raise ValueError(
            f"Expected an open float leaf for {name} to act on, but the stages before "
            f"it leave none; put {name} before the stage that closes them, or leave it "
            "out."
        )


class ArrayCode(NamedTuple):
    """A stateless compressor of one array: what most new compressors are.

    Attributes:
      name: what it is called in messages.
      encode: `(context, x) -> payload`, `x` a nonempty float array of any shape.
      decode: `(context, payload, like) -> x` with the shape and dtype of `like`.
      accepts: which leaves it acts on; the others are left open, as they are.
      linear: as in `Compressor`: decoding is linear and needs no client's key.
      least_bits: what a leaf costs whatever its share of the budget is; it is paid
        before the rest is shared.
    """

    name: str
    encode: Callable[[Context, jax.Array], PyTree]
    decode: Callable[[Context, PyTree, jax.ShapeDtypeStruct], jax.Array]
    accepts: Callable[[jax.ShapeDtypeStruct], bool] = _always
    linear: bool = False
    least_bits: Callable[[jax.ShapeDtypeStruct], int] = _no_bits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lifted:
    """A tree of which every leaf that a code acted on became that code's payload.

    Attributes:
      parts: a payload, or the leaf itself, for each leaf.
      structure: the tree's own structure.
      shapes: what each leaf was; None for those passed through.
    """

    parts: tuple[PyTree, ...]
    structure: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})
    shapes: tuple[jax.ShapeDtypeStruct | None, ...] = dataclasses.field(
        metadata={"static": True}
    )


def leafwise(code: ArrayCode) -> Compressor:
    """Lifts a code for one array to trees: each open leaf is encoded on its own.

    Leaf `i` draws from `fold_context(context, i)`, so that no two leaves share noise,
    and has a share of the budget in proportion to its size.
    Empty leaves pass through: there is nothing of them to send.

    Args:
      code: what happens to one array.

    Returns:
      A stateless `Compressor`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.wire.fields import Raw
      >>> halves = leafwise(ArrayCode(
      ...     "halves",
      ...     encode=lambda context, x: Raw(x.astype(jnp.float16)),
      ...     decode=lambda context, payload, like: payload.values.astype(like.dtype),
      ... ))
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = halves.encode(context, {"w": jnp.ones(2)}, ())
      >>> halves.decode(context, payload, ())[0]
      {'w': Array([1., 1.], dtype=float32)}
    """

    def acts_on(leaf: PyTree) -> bool:
        return (
            is_open(leaf) and math.prod(leaf.shape) > 0 and code.accepts(shape_of(leaf))
        )

    def init(like: PyTree) -> LinkState:
        require_open(code.name, like, code.accepts)
        return LinkState(sender=(), receiver=())

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        shapes = tuple(shape_of(leaf) if acts_on(leaf) else None for leaf in leaves)
        acting = [i for i, shape in enumerate(shapes) if shape is not None]
        parts = list(leaves)
        others = [leaf for i, leaf in enumerate(leaves) if shapes[i] is None]
        least = [code.least_bits(shape_of(leaves[i])) for i in acting]
        sizes = [leaves[i].size for i in acting]
        budgets = shares(context, sizes, others, least)
        for i, own in zip(acting, budgets, strict=True):
            parts[i] = code.encode(fold_context(own, i), leaves[i])
        return Lifted(tuple(parts), structure, shapes), sender

    def decode(
        context: Context, payload: Lifted, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        leaves = [
            part if like is None else code.decode(fold_context(context, i), part, like)
            for i, (part, like) in enumerate(
                zip(payload.parts, payload.shapes, strict=True)
            )
        ]
        return jax.tree.unflatten(payload.structure, leaves), receiver

    return Compressor(init, encode, decode, code.linear)
