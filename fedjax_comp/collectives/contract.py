"""A mean over the devices of a mesh axis: the contract, and what all share.

A `Collective` is used where training would call `jax.lax.pmean`: inside a function that
`jax.shard_map` maps over an axis of `w` devices, each of which holds a tree of its own,
such as the gradient of its part of a batch. Every device gets the same mean, bit for
bit, since all decode the same words or add up by the same `psum`.

Every array of a state and of `Exchanged` has a leading axis of devices: `[w, ...]`
outside and `[1, ...]` on each, so that `PartitionSpec(axis_name)` is the spec of both.

`shard_map` tracks which values differ between devices. It therefore refuses two things:
a loop inside a compressor that begins with a constant and continues with data, and a
mean that depends on a memory at the receivers (`differenced`), which is the same on all
devices, though `shard_map` cannot know. `check_vma=False` lets both pass; then nothing
checks that the key is the same on all devices.

A number that is not finite, on any device, makes the mean not finite, as a compressor's
contract demands. `Exchanged.finite` is then False, and every device keeps the state
that it had. The caller skips the step or stops: zeros would be trained on.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import tree as trees
from fedjax_comp.base import PyTree, Traffic
from fedjax_comp.keys import check_key

AxisName = str | tuple[str, ...]
"""One axis of a mesh, or several that are taken as one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What one mean moved, as one device sees it.

    Attributes:
      traffic: kind of message to what this device sent; a client's id is the device's
        index on the axis. Lengths are in whole words, as these are what is moved.
      finite: bool `[1]`, whether every number of the mean is finite; the same on all
        devices.
      filling_bits: bits in `traffic` that only pad words, static, in all messages of
        one device.
      filling_numbers: zeros that only make a vector divide into equal shards, static;
        they are compressed and moved with the last shard, and so in `traffic`.
    """

    traffic: dict[str, Traffic]
    finite: jax.Array
    filling_bits: int = dataclasses.field(metadata={"static": True})
    filling_numbers: int = dataclasses.field(metadata={"static": True})


class Collective(NamedTuple):
    """A mean over devices, as two pure functions.

    Attributes:
      init: `(like, num_devices) -> state`, outside `shard_map`. `like` is the tree of
        one device, or of `jax.ShapeDtypeStruct`; leaves of the state are `[w, ...]`.
        Raises `ValueError` when it cannot be compressed.
      mean: `(key, tree, state) -> (tree, state, Exchanged)`, inside. `key` is the same
        on all devices and another one in every step. The mean has the structure, shapes
        and dtypes of `tree`, leaves of floats all of them.
    """

    init: Callable[[PyTree, int], PyTree]
    mean: Callable[[jax.Array, PyTree, PyTree], tuple[PyTree, PyTree, Exchanged]]


def check_shared_key(key: jax.Array, axis_name: AxisName) -> jax.Array:
    """The key itself, if all devices can share it.

    Raises:
      ValueError: for a key that `check_key` refuses, or that `shard_map` knows to
        differ between the devices of the axis: they would decode different numbers.
    """
    if known_to_vary(key, axis_name):
        raise ValueError(
            f"Expected one key for all devices of axis {axis_name!r}, got one that "
            "differs between them: pass it with PartitionSpec(); devices draw noise of "
            "their own from it."
        )
    return check_key(key)


def known_to_vary(x: jax.Array, axis_name: AxisName) -> bool:
    """Whether `shard_map` tracks what differs over an axis, and `x` is marked so.

    It tracks nothing under `check_vma=False`, and neither does `jax.vmap`.
    """
    names = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    varying: frozenset[str] = jax.typeof(x).manual_axis_type.varying
    return bool(names & varying)


def float_leaves(tree: PyTree) -> list[jax.Array]:
    """The leaves of a tree of floats.

    Raises:
      ValueError: for a leaf of another dtype, which has no mean in its dtype.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Expected leaves of floats to average, got {leaf.dtype} at "
                f"tree{jax.tree_util.keystr(path)}: take it out of the tree."
            )
    return jax.tree.leaves(tree)


def on_every_device(state: PyTree, num_devices: int) -> PyTree:
    """One device's state `num_devices` times, `[w, ...]`."""
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_devices, *jnp.shape(x))), state
    )


def own(state: PyTree) -> PyTree:
    """A device's state from its slice `[1, ...]`."""
    return jax.tree.map(lambda x: x[0], state)


def unless_broken(finite: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """The new state, or the old one after a mean that is not finite; `[1, ...]`."""
    return jax.tree.map(lambda x: x[None], trees.where(finite, new, old))
