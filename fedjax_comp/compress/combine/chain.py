"""Compressors in sequence: each refines what the one before left open."""

import dataclasses

import jax

from fedjax_comp import checks
from fedjax_comp.base import (
    Compressor,
    Context,
    LinkState,
    PyTree,
    fold_context,
    make_context,
)
from fedjax_comp.compress.combine.differences import SenderState
from fedjax_comp.compress.combine.feedback import FeedbackState
from fedjax_comp.compress.combine.leafwise import open_leaves, shape_of
from fedjax_comp.keys import make_key
from fedjax_comp.tree import settled
from fedjax_comp.wire.fields import is_field


def identity() -> Compressor:
    """Sends every leaf as it is, still open: a later stage may refine it.

    Returns:
      A stateless `Compressor` with `decode(encode(x)) = x`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> identity().encode(make_context(jax.random.key(0), 0), jnp.ones(2), ())[0]
      Array([1., 1.], dtype=float32)
    """
    return Compressor(
        init=lambda like: LinkState(sender=(), receiver=()),
        encode=lambda context, tree, sender: (settled(tree), sender),
        decode=lambda context, payload, receiver: (payload, receiver),
        linear=True,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chained:
    """What the last stage of a chain sends.

    Attributes:
      payload: the last stage's payload.
      structures: of every earlier stage's payload, first stage first.
    """

    payload: PyTree
    structures: tuple[jax.tree_util.PyTreeDef, ...] = dataclasses.field(
        metadata={"static": True}
    )


def _refuse_memory_of_places(index: int, state: LinkState) -> None:
    """Refuses `error_feedback` and `differenced` behind another stage.

    What is at a place of a later stage is another coordinate in every message, or of
    another basis, so that a memory of places would add to the wrong ones.
    """
    if _holds(state, (FeedbackState, SenderState)):
        raise ValueError(
            f"Expected stage {index} of chain() without a memory: the stages before it "
            "leave other coordinates at its places in every message. Put the memory "
            "around the chain: error_feedback(chain(...))."
        )


def _refuse_drift(index: int, before: PyTree, after: PyTree) -> None:
    """Refuses a stage that acts on numbers behind `differenced`.

    Both ends move their reference by what they decode, and what a stage behind rounds
    off would stay in the sender's alone.
    """
    if list(map(shape_of, open_leaves(before))) != list(
        map(shape_of, open_leaves(after))
    ):
        raise ValueError(
            f"Expected stage {index} of chain() to leave numbers as they are, since "
            "differenced() is before it: what the stage loses would be in the sender's "
            "reference and not in the receiver's. Put the memory around the chain: "
            "differenced(chain(...))."
        )


def _holds(state: LinkState, kinds: tuple[type, ...]) -> bool:
    def is_memory(part: PyTree) -> bool:
        return isinstance(part, kinds)

    return any(map(is_memory, jax.tree.leaves(state.sender, is_leaf=is_memory)))


def chain(*stages: Compressor) -> Compressor:
    """Encodes by each stage in turn and decodes in the opposite order.

    A stage receives the fields and bare arrays of the payload before it as a flat
    list. It refines those which are open; stage `i` draws from
    `fold_context(context, i)`.

    Args:
      *stages: compressors, the first one first.

    Returns:
      A `Compressor` whose states are tuples, one entry a stage.

    Raises:
      ValueError: when there is no stage, or one is not a Compressor; from `init` when a
        later stage finds nothing open, remembers numbers by their places, or acts on
        differences from a reference that a stage before it keeps.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import to_dtype, top_k
      >>> uplink = chain(top_k(k=1), to_dtype("bfloat16"))
      >>> context = make_context(jax.random.key(0), 0)
      >>> state = uplink.init(jnp.zeros(3))
      >>> payload, _ = uplink.encode(context, jnp.array([1.0, -4, 2]), state.sender)
      >>> uplink.decode(context, payload, state.receiver)[0]
      Array([ 0., -4.,  0.], dtype=float32)
    """
    if not stages:
        raise ValueError("Expected at least one stage in chain(); use identity().")
    for i, stage in enumerate(stages):
        checks.compressor(f"stage {i} of chain", stage)

    def init(like: PyTree) -> LinkState:
        context = jax.eval_shape(lambda: make_context(make_key(0), 0))
        states: list[LinkState] = []
        differences = False
        for i, stage in enumerate(stages):
            states.append(stage.init(like))
            if i > 0:
                _refuse_memory_of_places(i, states[-1])
            if i + 1 < len(stages) or differences:
                payload, _ = jax.eval_shape(
                    stage.encode, context, like, states[-1].sender
                )
                if differences:
                    _refuse_drift(i, like, payload)
                like = jax.tree.leaves(payload, is_leaf=is_field)
            differences = differences or _holds(states[-1], (SenderState,))
        return LinkState(
            sender=tuple(state.sender for state in states),
            receiver=tuple(state.receiver for state in states),
        )

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        structures, new_sender = [], []
        for i, stage in enumerate(stages):
            if i > 0:
                tree, structure = jax.tree.flatten(tree, is_leaf=is_field)
                structures.append(structure)
            tree, state = stage.encode(fold_context(context, i), tree, sender[i])
            new_sender.append(state)
        return Chained(tree, tuple(structures)), tuple(new_sender)

    def decode(
        context: Context, payload: Chained, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, new_receiver = payload.payload, list(receiver)
        for i in reversed(range(len(stages))):
            tree, new_receiver[i] = stages[i].decode(
                fold_context(context, i), tree, receiver[i]
            )
            if i > 0:
                tree = jax.tree.unflatten(payload.structures[i - 1], tree)
        return tree, tuple(new_receiver)

    linear = all(stage.linear for stage in stages)
    return Compressor(init, encode, decode, linear)
