"""Arrays too large to be whole on every device: each has some rows, all may ask.

The examples of a population are rows of such arrays. Before a round those of its
cohort, and no others, are brought to all devices (`rows_of`): for each row that is
asked for the devices add up what they have of it, the row itself from one device and
zeros from the others.

Clients' states are such rows too. Those of a cohort are brought to the devices where
its clients are trained in the same way, for one device after another (`seated_rows`),
and go back in the same way (`put_rows`). A device holds the rows of its own clients,
and twice its share of a cohort.
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
        return jax.tree.map(lambda x: _found(x, rows), own)

    found = gather(tree, rows)
    return jax.tree.map(lambda x, like: _as_before(x, like.dtype), found, tree)


def seated_rows(tree: PyTree, rows: jax.Array, mesh: Mesh | None = None) -> PyTree:
    """Some rows of arrays from `split_rows`, spread over the devices; inside jit.

    Args:
      tree: of numbers, `[N, ...]`; arrays without elements stay outside.
      rows: int32 `[C]`, below `N`, the same on all devices.
      mesh: `device_mesh()` when None.

    Returns:
      The arrays `[C, ...]`, the same numbers, of which each device has its share as
      `fedjax_comp.execution.sharded` wants it. A device holds two such shares.

    >>> rows = jnp.array([2, 0, 1])
    >>> jax.jit(seated_rows)(split_rows(np.arange(3) * 5), rows).tolist()
    [10, 0, 5]
    """
    devices = device_mesh() if mesh is None else mesh
    leaves, structure = jax.tree.flatten(tree)
    seats = _seats(rows, devices)
    per_device = seats.shape[0] // devices.size

    @functools.partial(
        jax.shard_map,
        mesh=devices,
        in_specs=(PartitionSpec(CLIENTS_AXIS), PartitionSpec()),
        out_specs=PartitionSpec(CLIENTS_AXIS),
        check_vma=False,
    )
    def bring(own: list[jax.Array], seats: jax.Array) -> list[jax.Array]:
        here = jax.lax.axis_index(CLIENTS_AXIS)

        def seat(device: jax.Array, seated: list[jax.Array]) -> list[jax.Array]:
            asked = _of_device(seats, device, per_device)
            found = [_found(x, asked) for x in own]
            return [
                jnp.where(device == here, new, old)
                for new, old in zip(found, seated, strict=True)
            ]

        like = jax.eval_shape(lambda: [_as_integers(x) for x in own])
        none = [jnp.zeros((per_device, *x.shape[1:]), x.dtype) for x in like]
        seated = jax.lax.fori_loop(0, devices.size, seat, none)
        return [_as_before(x, y.dtype) for x, y in zip(seated, own, strict=True)]

    full = [x for x in leaves if x.size]
    found = iter(bring(full, seats) if full else [])
    count = rows.shape[0]
    return jax.tree.unflatten(
        structure,
        [
            next(found)[:count] if x.size else jnp.zeros((count, *x.shape[1:]), x.dtype)
            for x in leaves
        ],
    )


def put_rows(
    tree: PyTree, rows: jax.Array, new: PyTree, mesh: Mesh | None = None
) -> PyTree:
    """Arrays from `split_rows` with some rows written anew; inside jit.

    Args:
      tree: of numbers, `[N, ...]`.
      rows: int32 `[C]`, distinct and below `N`, the same on all devices.
      new: what is written, `[C, ...]`, spread over the devices as by `seated_rows`.
      mesh: `device_mesh()` when None.

    Returns:
      The arrays, split as before. One device's share of `new` is sent at a time.

    >>> put = jax.jit(put_rows)(
    ...     split_rows(np.arange(3)), jnp.array([2, 0]), jnp.array([7, 8])
    ... )
    >>> put[:3].tolist()
    [8, 1, 7]
    """
    devices = device_mesh() if mesh is None else mesh
    leaves, structure = jax.tree.flatten(tree)
    seats = _seats(rows, devices)
    missing = seats.shape[0] - rows.shape[0]
    per_device = seats.shape[0] // devices.size

    @functools.partial(
        jax.shard_map,
        mesh=devices,
        in_specs=(PartitionSpec(CLIENTS_AXIS),) * 2 + (PartitionSpec(),),
        out_specs=PartitionSpec(CLIENTS_AXIS),
        check_vma=False,
    )
    def put(
        own: list[jax.Array], new: list[jax.Array], seats: jax.Array
    ) -> list[jax.Array]:
        here = jax.lax.axis_index(CLIENTS_AXIS)

        def hand_over(device: jax.Array, own: list[jax.Array]) -> list[jax.Array]:
            written = _of_device(seats, device, per_device)
            sent = [_from_one(x, device == here) for x in new]
            return [
                _written(x, written, rows) for x, rows in zip(own, sent, strict=True)
            ]

        return jax.lax.fori_loop(0, devices.size, hand_over, own)

    full = [x for x in leaves if x.size]
    filled_up = [
        jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]) if missing else x
        for x in jax.tree.leaves(new)
        if x.size
    ]
    found = iter(put(full, filled_up, seats) if full else [])
    return jax.tree.unflatten(structure, [next(found) if x.size else x for x in leaves])


def put_block(
    x: jax.Array, begin: jax.Array, block: jax.Array, mesh: Mesh | None = None
) -> jax.Array:
    """An array from `split_rows` with the rows from `begin` on written anew.

    Args:
      x: `[N, ...]`.
      begin: int32 scalar.
      block: `[R, ...]`, the same on all devices; what would be behind the last row of
        `x` is left out.
      mesh: `device_mesh()` when None.
    """
    devices = device_mesh() if mesh is None else mesh

    @functools.partial(
        jax.shard_map,
        mesh=devices,
        in_specs=(PartitionSpec(CLIENTS_AXIS), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(CLIENTS_AXIS),
        check_vma=False,
    )
    def put(own: jax.Array, begin: jax.Array, block: jax.Array) -> jax.Array:
        rows = begin + jnp.arange(block.shape[0], dtype=jnp.int32)
        return _written(own, rows, block)

    return put(x, begin, block)


def _seats(rows: jax.Array, devices: Mesh) -> jax.Array:
    """Which row sits where: as many seats on every device, -1 in those left free."""
    width = devices.size
    missing = -rows.shape[0] % width
    return jnp.pad(rows, (0, missing), constant_values=-1)


def _of_device(seats: jax.Array, device: jax.Array, per_device: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(seats, device * per_device, per_device)


def _own_places(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where rows of all devices are among those of this one, and whether they are."""
    place = rows - jax.lax.axis_index(CLIENTS_AXIS) * x.shape[0]
    return place, (place >= 0) & (place < x.shape[0])


def _found(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of all devices as integers, zeros for those that none has."""
    place, is_own = _own_places(x, rows)
    mask = is_own.reshape(-1, *[1] * (x.ndim - 1))
    found = jnp.where(mask, x.at[place].get(mode="clip"), jnp.zeros((), x.dtype))
    return jax.lax.psum(_as_integers(found), CLIENTS_AXIS)


def _from_one(x: jax.Array, is_this: jax.Array) -> jax.Array:
    """One device's array, on all of them."""
    whole = _as_integers(x)
    sent = jnp.where(is_this, whole, jnp.zeros((), whole.dtype))
    return _as_before(jax.lax.psum(sent, CLIENTS_AXIS), x.dtype)


def _written(x: jax.Array, rows: jax.Array, new: jax.Array) -> jax.Array:
    """The rows of this device, with those among `rows` written anew."""
    place, is_own = _own_places(x, rows)
    # A negative place would count from the end; one behind the last row is left out.
    return x.at[jnp.where(is_own, place, x.shape[0])].set(new, mode="drop")


def _as_integers(x: jax.Array) -> jax.Array:
    """The bits of numbers: adding zero to a negative one would change its sign."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


def _as_before(x: jax.Array, dtype: np.dtype) -> jax.Array:
    if dtype == jnp.bool_:
        return x.astype(jnp.bool_)
    return jax.lax.bitcast_convert_type(x, dtype)
