"""Different compressors for different kinds of leaf."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import jax

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import (
    Bits,
    Compressor,
    Context,
    LinkState,
    PyTree,
    fold_context,
)
from fedjax_comp.compress.budget.shares import shares
from fedjax_comp.compress.combine.leafwise import is_open, require_open, shape_of
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import is_field

Labels = Callable[[jax.tree_util.KeyPath, jax.ShapeDtypeStruct], str]
"""`(path, leaf) -> label`; the leaf is known by its shape and dtype alone."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Partitioned:
    """A tree of which the open leaves travel in groups.

    Attributes:
      payloads: one for each group; `()` for a group without leaves.
      others: the leaves that passed through.
      structure: the tree's own structure.
      groups: the group of each leaf; None for those passed through.
    """

    payloads: tuple[PyTree, ...]
    others: tuple[PyTree, ...]
    structure: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})
    groups: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})


def by_rank(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> str:
    """Labels for `partition`: "matrix" from two axes on, "rest" below.

    >>> import jax, jax.numpy as jnp
    >>> by_rank((), jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32))
    'matrix'
    >>> by_rank((), jax.ShapeDtypeStruct((8,), jnp.float32))
    'rest'
    """
    del path
    return "matrix" if len(leaf.shape) >= 2 else "rest"


def partition(compressors: Mapping[str, Compressor], labels: Labels) -> Compressor:
    """Compresses each open leaf by the compressor of its label.

    Args:
      compressors: label to compressor. Each receives its leaves as a list; group `i`
        draws from `fold_context(context, i)`. A budget first pays, for every group, the
        bits that are known from shapes; groups whose length depends on values share the
        rest in proportion to their size. A label that no leaf has is fine.
      labels: `(path, shape and dtype of the leaf) -> label`, e.g. `by_rank`.

    Returns:
      A `Compressor` whose states are tuples in the order of `compressors`.

    Raises:
      ValueError: when there are no compressors; from `init` and `encode` when a leaf
        has an unknown label, and from `init` when the stages before it left nothing
        open.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import identity, top_k
      >>> uplink = partition({"matrix": top_k(k=1), "rest": identity()}, by_rank)
      >>> context = make_context(jax.random.key(0), 0)
      >>> tree = {"b": jnp.array([3.0]), "w": jnp.array([[1.0, 2]])}
      >>> state = uplink.init(tree)
      >>> payload, _ = uplink.encode(context, tree, state.sender)
      >>> uplink.decode(context, payload, state.receiver)[0]
      {'b': Array([3.], dtype=float32), 'w': Array([[0., 2.]], dtype=float32)}
    """
    if not isinstance(compressors, Mapping) or not compressors:
        raise ValueError(
            f"Expected compressors={compressors!r}, a mapping from labels to "
            "compressors."
        )
    for label, compressor in compressors.items():
        checks.compressor(f"the compressor of {label!r}", compressor)
    if not callable(labels):
        raise ValueError(f"Expected labels={labels!r}, a function such as by_rank.")
    names = tuple(compressors)
    stages = tuple(compressors.values())

    def group_of(path: jax.tree_util.KeyPath, leaf: PyTree) -> int | None:
        if not is_open(leaf):
            return None
        label = labels(path, shape_of(leaf))
        if label not in names:
            raise ValueError(
                f"Expected label={label!r} of leaf "
                f"{jax.tree_util.keystr(path)!r} to be one of {names}."
            )
        return names.index(label)

    def split(
        tree: PyTree,
    ) -> tuple[list[PyTree], tuple[int | None, ...], jax.tree_util.PyTreeDef]:
        paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(
            tree, is_leaf=is_field
        )
        groups = tuple(group_of(path, leaf) for path, leaf in paths_and_leaves)
        return [leaf for _, leaf in paths_and_leaves], groups, structure

    def members(
        leaves: list[PyTree], groups: tuple[int | None, ...], group: int | None
    ) -> list[PyTree]:
        return [leaf for leaf, g in zip(leaves, groups, strict=True) if g == group]

    def init(like: PyTree) -> LinkState:
        require_open("partition", like)
        leaves, groups, _ = split(like)
        states = [
            stage.init(members(leaves, groups, i)) if i in groups else LinkState((), ())
            for i, stage in enumerate(stages)
        ]
        return LinkState(
            sender=tuple(state.sender for state in states),
            receiver=tuple(state.receiver for state in states),
        )

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        leaves, groups, structure = split(tree)
        payloads: list[PyTree] = [()] * len(stages)
        new_sender = list(sender)
        others = tuple(members(leaves, groups, None))
        present = [i for i in range(len(stages)) if i in groups]
        sizes, least = [], []
        for i in present:
            part = members(leaves, groups, i)
            length = functools.partial(_length, stages[i])
            bits = jax.eval_shape(length, context, part, sender[i])
            sizes.append(trees.size(part) if bits.variable else 0)
            least.append(bits.fixed)
        budgets = shares(context, sizes, others, least)
        for i, own in zip(present, budgets, strict=True):
            payloads[i], new_sender[i] = stages[i].encode(
                fold_context(own, i), members(leaves, groups, i), sender[i]
            )
        return Partitioned(tuple(payloads), others, structure, groups), tuple(
            new_sender
        )

    def decode(
        context: Context, payload: Partitioned, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        parts: dict[int | None, Iterator[PyTree]] = {None: iter(payload.others)}
        new_receiver = list(receiver)
        for i, stage in enumerate(stages):
            if i in payload.groups:
                leaves, new_receiver[i] = stage.decode(
                    fold_context(context, i), payload.payloads[i], receiver[i]
                )
                parts[i] = iter(leaves)
        leaves = [next(parts[group]) for group in payload.groups]
        return jax.tree.unflatten(payload.structure, leaves), tuple(new_receiver)

    linear = all(stage.linear for stage in stages)
    return Compressor(init, encode, decode, linear)


def _length(
    compressor: Compressor, context: Context, tree: PyTree, sender: PyTree
) -> Bits:
    return num_bits(compressor.encode(context, tree, sender)[0])
