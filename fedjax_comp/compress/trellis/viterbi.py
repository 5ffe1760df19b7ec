"""The best path through a shift-register trellis, for many blocks at once.

Viterbi, "Error bounds for convolutional codes and an asymptotically optimum decoding
algorithm", 1967; Forney, "The Viterbi algorithm", 1973. The state after a step is a
window onto the last bits: with `k` bits a step and `2**L` windows,

    w_t = (w_{t-1} 2**k + u_t) mod 2**L,   u_t in [0, 2**k),   w_{-1} = 0.

The windows that precede a window differ in their top bits only, so that what is
compared are slices of one array and not gathered: blocks lie along the last axis, and
every operation of a step runs through memory in order.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree

_METRICS = 1 << 15
"""Metrics of a group of blocks: 128 KiB, so that they stay in a processor's cache."""
_MIN_LANES = 16  # as many float32 as a vector register holds
_MAX_LANES = 512
_NO_PATH = 1e30  # a metric no path reaches


class Layout(NamedTuple):
    """How a sequence is cut into blocks, which are coded apart from each other.

    Attributes:
      groups: of blocks, one after another.
      lanes: blocks of a group, side by side.
      steps: of each block.
    """

    groups: int
    lanes: int
    steps: int


def layout(num_steps: int, *, windows: int, block: int, lanes: int | None) -> Layout:
    """Blocks of at most `block` steps, all of one length, with little left over.

    Args:
      num_steps: length of the sequence, at least 1.
      windows: of the trellis.
      block: steps of a block at most.
      lanes: blocks side by side at most; as many as suit a processor's cache if None.

    >>> layout(1000, windows=256, block=300, lanes=None)
    Layout(groups=1, lanes=4, steps=250)
    """
    if lanes is None:
        lanes = min(_MAX_LANES, max(_MIN_LANES, _METRICS // windows))
    blocks = math.ceil(num_steps / block)
    groups = math.ceil(blocks / lanes)
    lanes = math.ceil(blocks / groups)
    return Layout(groups, lanes, math.ceil(num_steps / (groups * lanes)))


def to_lanes(x: jax.Array, form: Layout) -> jax.Array:
    """A sequence `[n, ...]` padded with zeros, `[groups, steps, ..., lanes]`."""
    blocks = form.groups * form.lanes
    x = jnp.pad(
        x, [(0, blocks * form.steps - x.shape[0]), *[(0, 0)] * (x.ndim - 1)]
    ).reshape(form.groups, form.lanes, form.steps, *x.shape[1:])
    return jnp.moveaxis(x, 1, -1)


def from_lanes(x: jax.Array, n: int) -> jax.Array:
    """Undoes `to_lanes`: `[groups, steps, ..., lanes]` to `[n, ...]`."""
    x = jnp.moveaxis(x, -1, 1)
    return x.reshape(-1, *x.shape[3:])[:n]


def cheapest_path(
    cost: Callable[[PyTree], jax.Array], inputs: PyTree, *, windows: int, branches: int
) -> jax.Array:
    """The windows of the path of least total cost that starts from window 0.

        min over u of  sum_t cost(inputs_t)[w_t],   w_{-1} = 0.

    Args:
      cost: of being in each window at a step, `(inputs_t) -> [windows, lanes]`.
      inputs: a tree of arrays `[steps, ..., lanes]`.
      windows: `2**L`.
      branches: `2**k`, smaller than `windows`.

    Returns:
      The window at each step of each lane's best path, int32 `[steps, lanes]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> levels = jnp.array([[-2.0], [-1.0], [1.0], [2.0]])
      >>> inputs = jnp.array([-1.1, 2.2]).reshape(2, 1, 1)
      >>> cost = lambda x: (levels - x) ** 2
      >>> cheapest_path(cost, inputs, windows=4, branches=2).tolist()
      [[1], [3]]
    """
    lanes = jax.tree.leaves(inputs)[0].shape[-1]
    merged = windows // branches  # windows without their top bits

    def forward(metrics: jax.Array, at: PyTree) -> tuple[jax.Array, jax.Array]:
        before = metrics.reshape(branches, merged, lanes)
        best, which = before[0], jnp.zeros((merged, lanes), jnp.uint8)
        for j in range(1, branches):
            which = jnp.where(before[j] < best, jnp.uint8(j), which)
            best = jnp.minimum(best, before[j])
        after = best[:, None, :] + cost(at).reshape(merged, branches, lanes)
        return after.reshape(windows, lanes), which

    def backward(window: jax.Array, which: jax.Array) -> tuple[jax.Array, jax.Array]:
        low = window // branches
        top = jnp.take_along_axis(which, low[None, :], axis=0)[0].astype(jnp.int32)
        return top * merged + low, window

    start = jnp.full((windows, lanes), _NO_PATH, jnp.float32).at[0].set(0.0)
    metrics, choices = jax.lax.scan(forward, start, inputs)
    end = jnp.argmin(metrics, axis=0).astype(jnp.int32)
    return jax.lax.scan(backward, end, choices, reverse=True)[1]
