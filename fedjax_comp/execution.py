"""How a cohort is run: one client after another, all at once, or over devices.

An `Execution` turns a client function into a cohort function: it maps over the clients
and adds up what they return. It adds as it goes, so the only decoded updates held side
by side are those of clients that are mapped at once (in `vmapped` all). All executions
compute the same sums up to the order of float additions. Summands of half precision are
added up in float32 and the sum is cast once: 1,000 ones are 1,000 in bfloat16.

    execution = sharded(device_mesh(), scanned())
    total, outputs = execution(client_fn)(shared, clients)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from fedjax_comp import checks
from fedjax_comp.base import ClientFn, CohortFn, Execution, PyTree
from fedjax_comp.shards import over_devices
from fedjax_comp.traced import traced_once
from fedjax_comp.tree import cast_like, widened

CLIENTS_AXIS = "clients"

_Places = dict[int, jax.Array]
_Carry = tuple[PyTree, _Places, _Places]
_Each = tuple[jax.Array, _Places]
_Kept = jax.Array | None


def scanned() -> Execution:
    """One client after another by `jax.lax.scan`: the least memory, no batching.

    What a client hands back is written over what it was given, where shapes and dtypes
    are the same: a cohort's states are held once and not twice.

    Returns:
      An `Execution`. On CPU this (inside `sharded`) is the fastest one measured.

    >>> import jax.numpy as jnp
    >>> total, squares = scanned()(lambda a, x: (a * x, x * x))(2.0, jnp.arange(3.0))
    >>> float(total), squares.tolist()
    (6.0, [0.0, 1.0, 4.0])
    """

    def execution(client_fn: ClientFn) -> CohortFn:
        def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
            # Shapes alone: arrays laid out over a mesh have no first row to take.
            first = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), clients
            )
            run_client, (like, one_output) = traced_once(client_fn, shared, first)
            inputs, structure = jax.tree.flatten(clients)
            results, output_structure = jax.tree.flatten(one_output)
            taken = _places_taken(inputs, results)
            places = {i: jnp.asarray(inputs[i]) for i in taken.values()}
            rest = {i: x for i, x in enumerate(inputs) if i not in places}

            def step(carry: _Carry, each: _Each) -> tuple[_Carry, list[_Kept]]:
                (total, places, read), (row, rest) = carry, each
                client = [read[i] if i in read else rest[i] for i in range(len(inputs))]
                summand, output = run_client(
                    shared, jax.tree.unflatten(structure, client)
                )
                new = jax.tree.leaves(output)
                places = {i: _put(places[i], new[j], row) for j, i in taken.items()}
                # The next client is read here, from what has just been written to. Were
                # a client read from what it is then written to, XLA could put reading
                # off until after the writing, and would copy all of `places` for it.
                read = {i: _at(x, row + 1) for i, x in places.items()}
                kept = [None if j in taken else x for j, x in enumerate(new)]
                total = jax.tree.map(jnp.add, total, widened(summand))
                return (total, places, read), kept

            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
            rows = jnp.arange(_num_clients(clients), dtype=jnp.int32)
            read = {i: _at(x, 0) for i, x in places.items()}
            (total, places, _), kept = jax.lax.scan(
                step, (widened(zeros), places, read), (rows, rest)
            )
            outputs = [
                places[taken[j]] if j in taken else x for j, x in enumerate(kept)
            ]
            return cast_like(total, like), jax.tree.unflatten(output_structure, outputs)

        return cohort_fn

    return execution


def vmapped() -> Execution:
    """All clients at once by `jax.vmap`: the most memory, for accelerators.

    On a TPU their messages are compressed one after another all the same
    (`fedjax_comp.in_turn`): that takes less memory and fewer bytes there.

    Returns:
      An `Execution`. Slower than `scanned` on CPU in every case measured.
    """

    def execution(client_fn: ClientFn) -> CohortFn:
        def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
            summands, outputs = jax.vmap(client_fn, in_axes=(None, 0))(shared, clients)
            return jax.tree.map(_sum_clients, summands), outputs

        return cohort_fn

    return execution


def chunked(size: int) -> Execution:
    """`size` clients at once, one such chunk after another.

    Args:
      size: clients mapped together; the last chunk is filled up with masked repeats.

    Returns:
      An `Execution`.

    Raises:
      ValueError: when `size` is not an integer of at least 1.
    """
    checks.integer("size", size, minimum=1)

    def execution(client_fn: ClientFn) -> CohortFn:
        def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
            count = _num_clients(clients)
            num_chunks = -(-count // size)
            padded, valid = _pad(clients, num_chunks * size)
            chunks = jax.tree.map(
                lambda x: x.reshape(num_chunks, size, *x.shape[1:]), (padded, valid)
            )
            masked_fn, narrowed = _masked(client_fn)
            total, outputs = scanned()(vmapped()(masked_fn))(shared, chunks)
            total = narrowed(total)
            merged = jax.tree.map(
                lambda x: x.reshape(num_chunks * size, *x.shape[2:])[:count], outputs
            )
            return total, merged

        return cohort_fn

    return execution


def sharded(mesh: Mesh | None = None, inner: Execution | None = None) -> Execution:
    """Clients spread over the devices of a mesh, their sums added by `jax.lax.psum`.

    Args:
      mesh: a mesh with one axis named `clients`, of `Auto` or `Explicit` type (it is
        taken as `Auto`); `device_mesh()` when None.
      inner: how each device runs its share; `scanned()` when None.

    Returns:
      An `Execution`. A cohort that does not divide evenly is filled up with masked
      repeats.

    Raises:
      ValueError: when the mesh has no axis named `clients`.
    """
    if mesh is not None and CLIENTS_AXIS not in mesh.axis_names:
        raise ValueError(
            f"Expected an axis named {CLIENTS_AXIS!r} in the mesh axes "
            f"{mesh.axis_names}."
        )
    run_share = scanned() if inner is None else inner

    def execution(client_fn: ClientFn) -> CohortFn:
        def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
            devices = device_mesh() if mesh is None else mesh
            count = _num_clients(clients)
            width = devices.shape[CLIENTS_AXIS]
            padded = _pad(clients, -(-count // width) * width)
            masked_fn, narrowed = _masked(client_fn)
            run = over_devices(run_share(masked_fn), devices, CLIENTS_AXIS)
            total, outputs = run(shared, padded)
            return narrowed(total), jax.tree.map(lambda x: x[:count], outputs)

        return cohort_fn

    return execution


def auto() -> Execution:
    """The strategy that measured fastest for the backend in use.

    The rule: on CPU, `sharded` over all devices with `scanned` inside when there are
    several (`jax_num_cpu_devices`, and those of other processes), else `scanned`. On an
    accelerator, `sharded` over several devices or one, with `chunked(16)` inside; that
    part is a default from general knowledge (batched matrix products fill an
    accelerator), not a measurement: rounds were compiled for TPUs
    (`experiments/benchmark`), and none was timed on one.

    Returns:
      An `Execution`; the choice is made when a cohort is traced.
    """

    def execution(client_fn: ClientFn) -> CohortFn:
        def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
            count = _num_clients(clients)
            on_cpu = jax.default_backend() == "cpu"
            inner = scanned() if on_cpu else chunked(min(16, count))
            several = jax.device_count() > 1 and count > 1
            chosen = sharded(device_mesh(), inner) if several else inner
            return chosen(client_fn)(shared, clients)

        return cohort_fn

    return execution


def device_mesh() -> Mesh:
    """The mesh of all devices, one axis named `clients`.

    Those of other processes belong to it: a program over them has to be run by all
    (`fedjax_comp.run.run` does).
    """
    return jax.make_mesh(
        (jax.device_count(),), (CLIENTS_AXIS,), axis_types=(AxisType.Auto,)
    )


def _num_clients(clients: PyTree) -> int:
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(clients)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"Expected one common leading axis of at least one client, got sizes "
            f"{sorted(sizes)}."
        )
    return sizes.pop()


def _at(x: jax.Array, row: jax.typing.ArrayLike) -> jax.Array:
    # Behind the last row it is the last one, which nobody looks at.
    return jax.lax.dynamic_index_in_dim(x, row, keepdims=False)


def _put(x: jax.Array, new: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, new, row, axis=0)


def _places_taken(
    inputs: list[jax.Array], results: list[jax.ShapeDtypeStruct]
) -> dict[int, int]:
    """Which output of a client is written where which of its inputs was read.

    Any two of one shape and dtype will do: a client's inputs are read before its
    outputs are written, and nobody reads them after.
    """
    free: dict[tuple[tuple[int, ...], np.dtype], list[int]] = {}
    for i, x in enumerate(inputs):
        if x.size and not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            free.setdefault((x.shape[1:], x.dtype), []).append(i)
    taken = {}
    for j, result in enumerate(results):
        fitting = free.get((result.shape, result.dtype))
        if fitting:
            taken[j] = fitting.pop(0)
    return taken


def _sum_clients(stacked: jax.Array) -> jax.Array:
    # The dtype is told: jnp.sum would widen int32 under x64.
    wide = widened(stacked)
    return jnp.sum(wide, axis=0, dtype=wide.dtype).astype(stacked.dtype)


def _pad(clients: PyTree, size: int) -> tuple[PyTree, jax.Array]:
    """Repeats the last client up to `size` rows; also which rows are real, `[size]`."""
    count = _num_clients(clients)
    if size == count:
        return clients, jnp.ones(size, bool)
    rows = jnp.minimum(jnp.arange(size), count - 1)
    return jax.tree.map(lambda x: x[rows], clients), jnp.arange(size) < count


def _masked(client_fn: ClientFn) -> tuple[ClientFn, Callable[[PyTree], PyTree]]:
    """A client function on `(client, valid)`: it adds nothing where `valid` is False.

    Its summands are wide, since partial sums of a cohort are not to be rounded. The
    second function makes their sum what the first one's sum is, once that was traced.
    """
    seen: list[PyTree] = []

    def masked_fn(shared: PyTree, padded: PyTree) -> tuple[PyTree, PyTree]:
        client, valid = padded
        summand, output = client_fn(shared, client)
        seen[:] = [
            jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), summand)
        ]
        return (
            jax.tree.map(
                lambda s: jnp.where(valid, s, jnp.zeros_like(s)), widened(summand)
            ),
            output,
        )

    return masked_fn, lambda total: cast_like(total, seen[0])
