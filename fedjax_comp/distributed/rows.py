"""Rows of arrays too large for every device: each device has some, all may ask for any.

The examples of a population are such rows. Before a round those of its cohort, and no
others, are brought to all devices: for each row that is asked for the devices add up
what they have of it, which is the row itself from one and zeros from the others.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_comp.base import PyTree
from fedjax_comp.execution import CLIENTS_AXIS, device_mesh


def split_rows(tree: PyTree, mesh: Mesh | None = None) -> PyTree:
    """Arrays that every process has on its host, split by rows over the devices of all.

    Args:
      tree: arrays `[N, ...]`; of each, a process copies the rows of its own devices.
      mesh: `device_mesh()` when None.

    Returns:
      The arrays with zeros behind them, so that all devices have as many rows.

    >>> split_rows(np.arange(3)).shape[0] % jax.device_count()
    0
    """
    devices = device_mesh() if mesh is None else mesh
    width = devices.shape[CLIENTS_AXIS]
    place = NamedSharding(devices, PartitionSpec(CLIENTS_AXIS))

    def one(x: np.ndarray) -> jax.Array:
        rows, per_device = np.asarray(x), -(-len(x) // width)

        def share(index: tuple[slice, ...] | None) -> np.ndarray:
            start = (index[0].start or 0) if index else 0
            own = rows[start : start + per_device]
            missing = per_device - len(own)
            return np.pad(own, [(0, missing), *[(0, 0)] * (own.ndim - 1)])

        shape = (per_device * width, *rows.shape[1:])
        return jax.make_array_from_callback(shape, place, share)

    return jax.tree.map(one, tree)


def is_split(x: object) -> bool:
    """Whether an array lies on several devices and none of them has all of it."""
    return isinstance(x, jax.Array) and not x.sharding.is_fully_replicated


def rows_of(tree: PyTree, rows: jax.Array, mesh: Mesh | None = None) -> PyTree:
    """Some rows of arrays from `split_rows`, whole on every device; inside jit.

    Args:
      tree: of numbers, `[N, ...]`.
      rows: int32 `[R]`, below `N`, the same on all devices.
      mesh: `device_mesh()` when None.

    Returns:
      The arrays `[R, ...]`, the same numbers. What is sent is an all-reduce of them.

    >>> jax.jit(rows_of)(split_rows(np.arange(3) * 5), jnp.array([2, 0, 2])).tolist()
    [10, 0, 10]
    """
    devices = device_mesh() if mesh is None else mesh

    @functools.partial(
        jax.shard_map,
        mesh=devices,
        in_specs=(PartitionSpec(CLIENTS_AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def gather(own: PyTree, rows: jax.Array) -> PyTree:
        first = jax.lax.axis_index(CLIENTS_AXIS)

        def one(x: jax.Array) -> jax.Array:
            place = rows - first * x.shape[0]
            is_own = (place >= 0) & (place < x.shape[0])
            mask = is_own.reshape(-1, *[1] * (x.ndim - 1))
            found = jnp.where(
                mask, x.at[place].get(mode="clip"), jnp.zeros((), x.dtype)
            )
            return jax.lax.psum(_as_integers(found), CLIENTS_AXIS)

        return jax.tree.map(one, own)

    found = gather(tree, rows)
    return jax.tree.map(lambda x, like: _as_before(x, like.dtype), found, tree)


def _as_integers(x: jax.Array) -> jax.Array:
    """The bits of numbers: adding zero to a negative one would change its sign."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


def _as_before(x: jax.Array, dtype: np.dtype) -> jax.Array:
    if dtype == jnp.bool_:
        return x.astype(jnp.bool_)
    return jax.lax.bitcast_convert_type(x, dtype)
