"""Spreads a cohort's clients over the devices of a mesh, by `jax.shard_map`.

Two things are done around `shard_map`:

1. *Arrays without elements stay outside.* jaxlib 0.11.2 ends the process (segmentation
   fault) when it compiles a `shard_map` that takes one beside another array: XLA puts a
   constant in the array's place, and Shardy then erases an input that is not there
   (`ManualComputationUnusedInputsPattern`). 0.10.2, 0.11.0, 0.11.1 and 0.12.0 compile
   it; `tests/reproductions/empty_shard.py` is that program. Such an array has no
   content: each device makes its own from the shape.
2. *The axes of the mesh are `Auto`.* Since jax 0.11 those of `jax.make_mesh` are
   `Explicit` unless told otherwise, and then every array has to be laid out beforehand
   as `shard_map` wants it.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from fedjax_comp.base import CohortFn, PyTree


def over_devices(run_share: CohortFn, mesh: Mesh, axis: str) -> CohortFn:
    """A cohort function that runs a share of the clients on every device of an axis.

    The shares' sums are added by `jax.lax.psum`; outputs stay in the order of the
    clients.

    Args:
      run_share: `(shared, clients[C / w, ...]) -> (sum, outputs[C / w, ...])`, what one
        of the `w` devices does.
      mesh: the devices; its axes may be of any type.
      axis: the name of the axis over which clients are spread, of size `w`.

    Returns:
      `(shared, clients[C, ...]) -> (sum, outputs[C, ...])` for a `C` that `w` divides.

    >>> import jax.numpy as jnp
    >>> mesh = jax.make_mesh((1,), ("clients",), devices=jax.devices()[:1])
    >>> run = over_devices(lambda a, x: (a * x.sum(), x + a), mesh, "clients")
    >>> total, outputs = run(10.0, jnp.arange(4.0))
    >>> float(total), outputs.tolist()
    (60.0, [10.0, 11.0, 12.0, 13.0])
    """
    devices = _with_auto_axes(mesh)
    split, everywhere = PartitionSpec(axis), PartitionSpec()

    def cohort_fn(shared: PyTree, clients: PyTree) -> tuple[PyTree, PyTree]:
        count = jax.tree.leaves(clients)[0].shape[0]
        rows = count // devices.shape[axis]
        shared_leaves, join_shared = _take_out_empty(shared)
        client_leaves, join_clients = _take_out_empty(clients)
        joins: list[Callable[..., PyTree]] = []  # known once a share has been traced

        @functools.partial(
            jax.shard_map,
            mesh=devices,
            in_specs=(everywhere, split),
            out_specs=(everywhere, split),
            check_vma=False,
        )
        def run(
            shared: list[jax.Array], share: list[jax.Array]
        ) -> tuple[list[jax.Array], list[jax.Array]]:
            total, outputs = run_share(join_shared(shared), join_clients(share, rows))
            total_leaves, join_total = _take_out_empty(total)
            output_leaves, join_outputs = _take_out_empty(outputs)
            joins[:] = [join_total, join_outputs]
            return jax.lax.psum(total_leaves, axis), output_leaves

        total, outputs = run(shared_leaves, client_leaves)
        join_total, join_outputs = joins
        return join_total(total), join_outputs(outputs, count)

    return cohort_fn


def _with_auto_axes(mesh: Mesh) -> Mesh:
    names = mesh.axis_names
    return Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))


def _take_out_empty(tree: PyTree) -> tuple[list[jax.Array], Callable[..., PyTree]]:
    """The leaves that have elements, and `(leaves, rows) -> tree` that puts them back.

    Empty ones are made again, their first axis of length `rows` when that is given.
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = [jax.eval_shape(lambda x: x, leaf) for leaf in leaves]

    def has_elements(shape: jax.ShapeDtypeStruct) -> bool:
        return math.prod(shape.shape) > 0

    def join(full: list[jax.Array], rows: int | None = None) -> PyTree:
        rest = iter(full)
        return jax.tree.unflatten(
            structure,
            [
                next(rest) if has_elements(shape) else _empty(shape, rows)
                for shape in shapes
            ],
        )

    full = [
        leaf for leaf, shape in zip(leaves, shapes, strict=True) if has_elements(shape)
    ]
    return full, join


def _empty(like: jax.ShapeDtypeStruct, rows: int | None) -> jax.Array:
    shape = like.shape if rows is None else (rows, *like.shape[1:])
    return jax.lax.full_like(like, 0, shape=shape)
