"""Moves split arrays to and from the first process, some rows at a time.

Only the first process writes and reads files, and it need not have room for what all
processes hold together: it tells the others which rows come next, and all run the same
small program.

    write(path, gathered(state.clients, num_clients).leaf)     # the first process
    state.clients = obeyed(order, state.clients)               # the others
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_comp.base import PyTree
from fedjax_comp.by_rows import ByRows, rows_in_block
from fedjax_comp.distributed.arrays import share, to_all, to_here
from fedjax_comp.distributed.orders import Order, lost_peers_named, tell
from fedjax_comp.distributed.rows import is_split, put_block, rows_of
from fedjax_comp.execution import CLIENTS_AXIS, device_mesh

GIVE, TAKE = "give", "take"


def repeated_rows(template: PyTree, num_rows: int) -> PyTree:
    """One row, which every process has, repeated: split over all devices.

    Args:
      template: of numbers, each leaf one row.
      num_rows: `N`.

    Returns:
      Arrays as `split_rows` makes them, but for those without elements, which are
      whole; no process has held all of one.
    """
    devices = device_mesh()
    split = NamedSharding(devices, PartitionSpec(CLIENTS_AXIS))
    whole = NamedSharding(devices, PartitionSpec())

    def one(x: jax.Array) -> jax.Array:
        if not x.size:
            return to_all(jnp.zeros((num_rows, *x.shape), x.dtype))
        shape = (-(-num_rows // devices.size) * devices.size, *x.shape)
        make = jax.jit(
            lambda x: jnp.broadcast_to(x, shape),
            in_shardings=whole,
            out_shardings=split,
        )
        return make(to_all(x))

    return jax.tree.map(one, template)


def gathered(tree: PyTree, num_rows: int) -> PyTree:
    """What the first process reads by rows: the others are told, and `obeyed` it.

    Args:
      tree: arrays, of which those that are split become `ByRows`.
      num_rows: `N`, the rows that count.
    """
    leaves, structure = jax.tree.flatten(tree)

    def one(number: int, x: jax.Array) -> jax.Array | ByRows:
        if not is_split(x):
            return x

        def read(begin: int, end: int) -> np.ndarray:
            order = {"do": GIVE, "leaf": number, "begin": begin}
            tell(order)
            return _given(order, x)[: end - begin]

        return ByRows((num_rows, *x.shape[1:]), x.dtype, read)

    return jax.tree.unflatten(structure, [one(i, x) for i, x in enumerate(leaves)])


def filled(tree: PyTree, rows: PyTree) -> PyTree:
    """Split arrays with the rows that the first process has; others `obeyed` it.

    Args:
      tree: of `repeated_rows`; it is taken.
      rows: the same tree of `ByRows`.
    """
    leaves, structure = jax.tree.flatten(tree)
    for number, source in enumerate(jax.tree.leaves(rows)):
        for begin, block in source.blocks():
            order = {"do": TAKE, "leaf": number, "begin": begin}
            tell(order)
            leaves[number] = _taken(order, leaves[number], block)
    return jax.tree.unflatten(structure, leaves)


def obeyed(order: Order, tree: PyTree) -> PyTree:
    """What another process does when the first one reads rows or hands them out."""
    leaves, structure = jax.tree.flatten(tree)
    x = leaves[order["leaf"]]
    if order["do"] == GIVE:
        _given(order, x)
    else:
        block = np.zeros((rows_in_block(x.shape, x.dtype), *x.shape[1:]), x.dtype)
        leaves[order["leaf"]] = _taken(order, x, block)
    return jax.tree.unflatten(structure, leaves)


def _given(order: Order, x: jax.Array) -> np.ndarray:
    with lost_peers_named():
        rows = _read_program(rows_in_block(x.shape, x.dtype))(
            x, np.int32(order["begin"])
        )
        return np.asarray(to_here(rows))


def _taken(order: Order, x: jax.Array, block: np.ndarray) -> jax.Array:
    missing = rows_in_block(x.shape, x.dtype) - len(block)
    block = np.pad(block, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
    whole = to_all(share(block))
    with lost_peers_named():
        put = _put_program()(x, np.int32(order["begin"]), whole)
        return jax.block_until_ready(put)


@functools.cache
def _read_program(count: int) -> jax.stages.Wrapped:
    def read(x: jax.Array, begin: jax.Array) -> jax.Array:
        return rows_of(x, begin + jnp.arange(count, dtype=jnp.int32))

    return jax.jit(read)


@functools.cache
def _put_program() -> jax.stages.Wrapped:
    return jax.jit(put_block, donate_argnums=0)
