"""Payloads of several examples, field by field, of which the first few travel."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_comp import tree as trees
from fedjax_comp.base import PyTree
from fedjax_comp.wire.fields import (
    Coded,
    Field,
    IndexSet,
    Raw,
    Symbols,
    is_field,
    keep_prefix,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Payloads of several examples, field by field, of which the first few travel.

    Attributes:
      fields: each with a count, the first axis an example each.
      structure: of one example's payload.
      bare: which of the fields are bare arrays in it.
    """

    fields: tuple[Field, ...]
    structure: jax.tree_util.PyTreeDef = dataclasses.field(metadata={"static": True})
    bare: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


def to_rows(payload: PyTree, count: jax.Array) -> Rows:
    """Payloads with a leading axis, of which the first `count` are to travel.

    Args:
      payload: of one example each, `[M, ...]` in every array.
      count: uint32 scalar.

    Raises:
      ValueError: for a field whose length depends on its values already, and for an
        index set, whose order would be lost.
    """
    leaves, structure = jax.tree.flatten(payload, is_leaf=is_field)
    bare = tuple(not is_field(leaf) for leaf in leaves)
    closed = [leaf if is_field(leaf) else Raw(leaf) for leaf in leaves]
    return Rows(tuple(counted(field, count) for field in closed), structure, bare)


def from_rows(rows: Rows, values: tuple[jax.Array, ...]) -> PyTree:
    """The payloads that `to_rows` was given, with other values in their fields."""
    leaves = [
        array if bare else _with_values(field, array, None)
        for field, array, bare in zip(rows.fields, values, rows.bare, strict=True)
    ]
    return jax.tree.unflatten(rows.structure, leaves)


def counted(field: Field, count: jax.Array) -> Field:
    """A field of which the first `count` examples' values travel.

    Raises:
      ValueError: as `to_rows`.
    """
    inner = field.field if isinstance(field, Coded) else field
    width = inner.width if isinstance(inner, Symbols) else None
    # Some codes are of several fields together (`ladder`, `separable`).
    single = isinstance(inner, Raw | Symbols)
    if not single or inner.count is not None or width is not None:
        raise ValueError(
            "Expected a data quantizer whose payload of one example has a fixed length "
            "and no index set; a lossless code may come last."
        )
    values = values_of(field)
    total = count * jnp.uint32(trees.size(values) // values.shape[0])
    return _with_values(field, keep_prefix(values, total), total)


def values_of(field: PyTree) -> jax.Array:
    """The array inside a field, or the bare array itself."""
    match field:
        case Coded(inner, _):
            return inner.values
        case Raw() | Symbols() | IndexSet():
            return field.values
        case _:
            return field


def _with_values(field: Field, values: jax.Array, count: jax.Array | None) -> Field:
    if isinstance(field, Coded):
        inner = dataclasses.replace(field.field, values=values, count=count)
        return dataclasses.replace(field, field=inner)
    return dataclasses.replace(field, values=values, count=count)
