"""A classifier of tables whose features lie in several places.

Each holder of a block of the features has a model of its own for it. The outputs of all
these models, one after another, are the inputs of one more model, at the server.

Source: Vepakomma, Gupta, Swedish and Raskar 2018, "Split learning for health"
(arXiv 1812.00564), the configuration for vertically partitioned data.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.base import Task
from fedjax_comp.models.network import check_plain
from fedjax_comp.models.task import ModelFn, classification


class VerticalTask(NamedTuple):
    """A classifier in vertical parts.

    Attributes:
      task: the whole of it; its params have `bottom_0`, `bottom_1`, ... and `top`.
      bottoms: the model of each block, `[B, F_i]` to `[B, D]`.
      top: the server's model, `[B, M D]` to logits.
      blocks: the features of each holder, `M` tuples of numbers.
      loss: of the server's part alone: a task whose `x` are the bottoms' outputs and
        whose params are those of `top`.
      scale: floating inputs are multiplied by it.
    """

    task: Task
    bottoms: tuple[nn.Module, ...]
    top: nn.Module
    blocks: tuple[tuple[int, ...], ...]
    loss: Task
    scale: float


class Vertical(nn.Module):
    """The whole classifier, as someone who has all features would run it.

    Attributes:
      bottoms: the model of each block.
      top: of the outputs of these.
      blocks: the features of each.
    """

    bottoms: tuple[nn.Module, ...]
    top: nn.Module
    blocks: tuple[tuple[int, ...], ...]

    def setup(self) -> None:
        """Gives the parts their names."""
        for i, bottom in enumerate(self.bottoms):
            setattr(self, bottom_name(i), bottom.clone(parent=None))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, F]` to logits `[B, L]`."""
        outputs = [
            getattr(self, bottom_name(i))(take_block(x, block))
            for i, block in enumerate(self.blocks)
        ]
        return self.top(jnp.concatenate(outputs, axis=1))


def bottom_name(holder: int) -> str:
    """The name of a holder's parameters among those of the whole."""
    return f"bottom_{holder}"


def take_block(x: jax.Array, block: Sequence[int]) -> jax.Array:
    """The columns of a block, `[B, F]` to `[B, F_i]`."""
    return x[:, jnp.asarray(block, jnp.int32)]


def even_blocks(widths: Sequence[int], holders: int) -> tuple[tuple[int, ...], ...]:
    """Neighbouring columns of a table, about as many for every holder.

    Args:
      widths: features of each column, which stay together.
      holders: `M`, at least 1 and at most the number of columns.

    Returns:
      The features of each holder.

    Raises:
      ValueError: for another number of holders.

    >>> even_blocks([1, 1, 3], 2)
    ((0,), (1, 2, 3, 4))
    """
    if not 1 <= holders <= len(widths):
        raise ValueError(
            f"Expected 1 <= holders={holders} <= {len(widths)}, the columns there are."
        )
    edges = [i * len(widths) // holders for i in range(holders + 1)]
    starts = [sum(widths[:edge]) for edge in edges]
    return tuple(
        tuple(range(first, last)) for first, last in itertools.pairwise(starts)
    )


def vertical_classification(
    bottom: ModelFn,
    top: ModelFn,
    *,
    blocks: Sequence[Sequence[int]],
    num_outputs: int,
    num_classes: int,
    num_features: int,
    scale: float = 1.0,
) -> VerticalTask:
    """A classifier of tables with one model for each block of features.

    Args:
      bottom: of a block; every one has parameters of its own.
      top: of all their outputs.
      blocks: the features of each holder; no feature may be in two.
      num_outputs: `D` of each bottom.
      num_classes: `L`.
      num_features: `F`, of the whole table.
      scale: floating inputs are multiplied by it.

    Returns:
      A `VerticalTask`.

    Raises:
      ValueError: for an empty block or none, a feature that does not exist or is in two
        blocks, fewer than one output, and a model with dropout or running statistics.

    >>> from fedjax_comp.models import linear, mlp
    >>> halves = vertical_classification(
    ...     linear(),
    ...     mlp(4),
    ...     blocks=[[0, 1], [2]],
    ...     num_outputs=3,
    ...     num_classes=2,
    ...     num_features=3,
    ... )
    >>> sorted(halves.task.init(jax.random.key(0)))
    ['bottom_0', 'bottom_1', 'top']
    """
    if not blocks or not all(len(block) for block in blocks):
        raise ValueError("Expected at least one block, and a feature in each of them.")
    held = [feature for block in blocks for feature in block]
    for feature in held:
        if not 0 <= feature < num_features:
            raise ValueError(f"Expected feature={feature} in [0, {num_features}).")
        if held.count(feature) > 1:
            raise ValueError(f"Expected feature={feature} in one block, got several.")
    checks.integer("num_outputs", num_outputs, minimum=1)
    fixed = tuple(tuple(block) for block in blocks)
    bottoms = tuple(bottom(num_outputs) for _ in blocks)
    server = top(num_classes)
    for one, block in zip(bottoms, fixed, strict=True):
        check_plain("a vertical split", one, _row(len(block)))
    check_plain("a vertical split", server, _row(len(fixed) * num_outputs))
    return VerticalTask(
        task=classification(
            Vertical(bottoms, server, fixed), input_shape=(num_features,), scale=scale
        ),
        bottoms=bottoms,
        top=server,
        blocks=fixed,
        loss=classification(server, input_shape=(len(fixed) * num_outputs,)),
        scale=scale,
    )


def _row(width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, width), jnp.float32)
