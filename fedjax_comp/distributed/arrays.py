"""Arrays that all processes have: whole on every device, or the first one's."""

import functools
import hashlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_comp.base import PyTree
from fedjax_comp.distributed.members import count
from fedjax_comp.distributed.orders import lost_peers_named, require_same, tell
from fedjax_comp.distributed.rows import is_split
from fedjax_comp.execution import CLIENTS_AXIS, device_mesh


def everywhere() -> NamedSharding | None:
    """Arrays whole on every device of all processes; None in one process."""
    if count() == 1:
        return None
    return NamedSharding(device_mesh(), PartitionSpec())


def to_all(tree: PyTree) -> PyTree:
    """Arrays that every process has alike, made whole on every device.

    Arrays that are whole on every device already stay as they are, and so do split
    ones.
    """
    place = everywhere()
    if place is None:
        return tree

    def put(x: jax.Array) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x
        copies = [jax.device_put(x, device) for device in place.addressable_devices]
        return jax.make_array_from_single_device_arrays(x.shape, place, copies)

    return _with_words(put, tree)


def to_here(tree: PyTree) -> PyTree:
    """Arrays whole on every device, as arrays on a device of this process; no copy.

    Those that are split stay as they are: no process has all of them.
    """
    if count() == 1:
        return tree
    return jax.tree.map(lambda x: x if is_split(x) else x.addressable_data(0), tree)


def share(tree: PyTree) -> PyTree:
    """The first process's arrays, in all processes; the others give the same shapes.

    Every bit is the same. Arrays that are split stay as they are.

    Raises:
      PeerLost: when it cannot be reached.
    """
    if count() == 1:
        return tree

    def one(x: jax.Array) -> jax.Array:
        if is_split(x):
            return x
        # Bytes: what others give is added, and -0.0 + 0.0 has another sign.
        flat = np.ascontiguousarray(x).reshape(-1)
        sent = multihost_utils.broadcast_one_to_all(flat.view(np.uint8))
        return jnp.asarray(np.asarray(sent).view(flat.dtype).reshape(x.shape))

    with lost_peers_named():
        return _with_words(one, tree)


def total(tree: PyTree) -> PyTree:
    """Arrays of which every process has a part and zeros, added up bit by bit.

    Args:
      tree: NumPy arrays, of which no two processes have bits in one place.

    Returns:
      What they have together, whole on every device.

    Raises:
      PeerLost: when another process cannot be reached.
    """
    devices = device_mesh()
    place = NamedSharding(devices, PartitionSpec(CLIENTS_AXIS))

    def parts(x: np.ndarray) -> jax.Array:
        flat = np.ascontiguousarray(x).reshape(1, -1).view(np.uint8)
        own = [jax.device_put(flat, devices.local_devices[0])]
        own += [
            jax.device_put(np.zeros_like(flat), device)
            for device in devices.local_devices[1:]
        ]
        shape = (devices.size, flat.shape[1])
        return jax.make_array_from_single_device_arrays(shape, place, own)

    leaves, structure = jax.tree.flatten(tree)
    full = [np.asarray(x) for x in leaves if np.size(x)]
    program = _adding(tuple((x.shape, str(x.dtype)) for x in full))
    with lost_peers_named():
        added = iter(program([parts(x) for x in full]))
    found = [next(added) if np.size(x) else to_all(jnp.asarray(x)) for x in leaves]
    return jax.tree.unflatten(structure, found)


@functools.lru_cache(maxsize=4)
def _adding(likes: tuple[tuple[tuple[int, ...], str], ...]) -> jax.stages.Wrapped:
    def whole(parts: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
        bits = jnp.sum(parts, axis=0, dtype=jnp.uint8)
        dtype = jnp.dtype(name)
        if dtype == jnp.bool_:
            return bits.astype(jnp.bool_).reshape(shape)
        if dtype.itemsize > 1:
            bits = bits.reshape(-1, dtype.itemsize)
        return jax.lax.bitcast_convert_type(bits, dtype).reshape(shape)

    def add(parts: list[jax.Array]) -> list[jax.Array]:
        return [whole(x, *like) for x, like in zip(parts, likes, strict=True)]

    place = NamedSharding(device_mesh(), PartitionSpec())
    return jax.jit(add, out_shardings=place)


def _with_words(change: Callable[[jax.Array], jax.Array], tree: PyTree) -> PyTree:
    """A function of arrays on every leaf, on the words of those that are keys."""

    def one(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return change(x)
        words = change(jax.random.key_data(x))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))

    return jax.tree.map(one, tree)


def changed(change: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """A state after the first process alone has changed it; the others are told.

    Args:
      change: what it does, to arrays of this process.
      state: whole on every device.
    """
    if count() == 1:
        return change(state)
    here = to_here(state)
    new = change(here)
    before, after = jax.tree.leaves(here), jax.tree.leaves(new)
    if all(a is b for a, b in zip(before, after, strict=True)):
        return state
    tell({"do": "state"})
    return share(new)


def require_same_arrays(what: str, trees: Mapping[str, PyTree]) -> None:
    """As `require_same`, for arrays: their digests are compared."""
    if count() == 1:
        return

    def digest(tree: PyTree) -> str:
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(tree):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            found.update(f"{leaf.shape} {leaf.dtype}".encode())
            found.update(np.asarray(leaf).tobytes())
        return found.hexdigest()

    require_same(what, {name: digest(tree) for name, tree in trees.items()})
