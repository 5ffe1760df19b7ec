"""The mean by PowerSGD: two sums of factors, with an orthogonalization in between.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for
distributed optimization", 2019, algorithms 1 and 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import PyTree
from fedjax_comp.collectives.contract import (
    AxisName,
    Collective,
    Exchanged,
    check_shared_key,
    float_leaves,
    on_every_device,
    own,
    unless_broken,
)
from fedjax_comp.collectives.messages import around_the_ring
from fedjax_comp.collectives.summed import psum_mean
from fedjax_comp.compress.combine.leafwise import shape_of
from fedjax_comp.compress.low_rank.decompositions import orthonormal
from fedjax_comp.compress.low_rank.factors import (
    as_matrix,
    factors_are_smaller,
    matrix_shape,
)
from fedjax_comp.compress.low_rank.power_sgd import power_sgd
from fedjax_comp.compress.low_rank.singular import matmul
from fedjax_comp.compress.magnitude import in_units


class PowerState(NamedTuple):
    """One device's memory.

    Attributes:
      right: `Q`, float32 `[n, r]` for each leaf that is factored; equal on all devices.
      memory: what is still owed of each, float32 `[m, n]`; `()` without feedback.
    """

    right: tuple[jax.Array, ...]
    memory: tuple[jax.Array, ...]


def power_sgd_mean(
    rank: int, *, axis_name: AxisName, feedback: bool = True
) -> Collective:
    """The mean of every leaf of two axes or more by one step of power iteration.

        P = orth(mean_d M_d Q),   Q <- mean_d M_d' P,   mean ~ P Q',

    which is `power_sgd(rank)` of `mean_d M_d`, since the means pass through the
    products. With feedback `M_d = x_d + e_d` and `e_d <- M_d - P P' M_d`, what the
    device's own matrix lost in the projection. Leaves that `power_sgd` leaves open,
    such as biases, are averaged as they are.

    Args:
      rank: `r >= 1`.
      axis_name: the axis of `w` devices over which the mean is taken.
      feedback: whether each device keeps what was lost, as the authors do.

    Returns:
      A `Collective` with the kinds of message "left" (`P` and the leaves that are not
      factored) and "right" (`Q`). The key is not used.

    Raises:
      ValueError: when `rank` is not as above.

    Example:
      >>> from jax.sharding import Mesh, PartitionSpec
      >>> from fedjax_comp.keys import make_key
      >>> mesh = Mesh(jax.devices()[:2], ("data",))
      >>> mean = power_sgd_mean(1, axis_name="data")
      >>> step = jax.shard_map(
      ...     lambda key, x, state: mean.mean(key, x[0], state),
      ...     mesh=mesh,
      ...     in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec("data")),
      ...     out_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec("data")),
      ... )
      >>> gradients = jnp.stack([jnp.ones((4, 3)), jnp.full((4, 3), 3.0)])
      >>> state = mean.init(gradients[0], 2)
      >>> average, state, exchanged = jax.jit(step)(make_key(0), gradients, state)
      >>> average[0].round(4).tolist()
      [2.0, 2.0, 2.0]
    """
    rank = checks.integer("rank", rank, minimum=1)
    accepts = factors_are_smaller(rank)

    def factored(leaf: PyTree) -> bool:
        return trees.size([leaf]) > 0 and accepts(shape_of(leaf))

    def init(like: PyTree, num_devices: int) -> PowerState:
        width = checks.integer("num_devices", num_devices, minimum=1)
        matrices = [leaf for leaf in float_leaves(like) if factored(leaf)]
        owed = [
            jnp.zeros(matrix_shape(leaf.shape), jnp.float32)
            for leaf in matrices
            if feedback
        ]
        # It begins where the compressor does: all devices draw the same.
        right = power_sgd(rank).init(like).sender
        return on_every_device(PowerState(right, tuple(owed)), width)

    def mean(
        key: jax.Array, tree: PyTree, state: PowerState
    ) -> tuple[PyTree, PowerState, Exchanged]:
        check_shared_key(key, axis_name)
        leaves, old = float_leaves(tree), own(state)
        matrices = [as_matrix(leaf) for leaf in leaves if factored(leaf)]
        if feedback:
            matrices = [x + e for x, e in zip(matrices, old.memory, strict=True)]
        open_leaves = [leaf for leaf in leaves if not factored(leaf)]
        products = [matmul(x, q) for x, q in zip(matrices, old.right, strict=True)]
        (left, others), up = psum_mean((products, open_leaves), axis_name)
        # The basis does not depend on their size, but squares would leave float32.
        left = [orthonormal(in_units(p)[0]) for p in left]
        coefficients = [matmul(x.T, p) for x, p in zip(matrices, left, strict=True)]
        right, down = psum_mean(coefficients, axis_name)
        memory = [
            x - matmul(p, q.T)
            for x, p, q in zip(matrices, left, coefficients, strict=True)
            if feedback
        ]
        # From a zero mean there is no direction to start the next step from.
        start = [
            jnp.where(jnp.any(q != 0), q, before)
            for q, before in zip(right, old.right, strict=True)
        ]
        averages = iter([matmul(p, q.T) for p, q in zip(left, right, strict=True)])
        rest = iter(others)
        found = [
            next(averages if factored(leaf) else rest).reshape(leaf.shape)
            for leaf in leaves
        ]
        average = jax.tree.unflatten(jax.tree.structure(tree), found)
        average = trees.cast_like(average, tree)
        finite = trees.all_finite(average)
        return (
            average,
            unless_broken(finite, PowerState(tuple(start), tuple(memory)), old),
            Exchanged(
                traffic={
                    "left": around_the_ring(up, axis_name),
                    "right": around_the_ring(down, axis_name),
                },
                finite=finite[None],
                filling_bits=0,
                filling_numbers=0,
            ),
        )

    return Collective(init, mean)
