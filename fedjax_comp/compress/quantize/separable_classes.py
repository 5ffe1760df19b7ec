"""Sizes of the rows and columns of an update, and the classes that follow from them.

The model of `separable`, whose module has the equations. From the logs of sizes on all
is computed in integers, so that both ends get the same. What is computed from sizes
that have been sent works on JAX and on NumPy arrays, so that a message is read and
written without a device.
"""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.wire.codes.weibull import SHAPES, Sizes
from fedjax_comp.wire.fields import Symbols

_MODULUS = 64  # of side values
_MAX_COLUMN = 31  # half-octaves from the mean of a column

A = TypeVar("A", jax.Array, np.ndarray)


class Matrix(NamedTuple):
    """A leaf as the model sees it.

    Attributes:
      rows: `r`.
      columns: `c`.
      by_row: whether each row has a size of its own, or all have one.
      by_column: the same of columns.
    """

    rows: int
    columns: int
    by_row: bool
    by_column: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """How many sizes of rows and of columns travel."""
        return (
            self.rows if self.by_row else 1,
            self.columns if self.by_column else 0,
        )


def matrix_of(shape: tuple[int, ...], share: int) -> Matrix:
    """How a leaf of a shape is modelled; vectors are one row.

    >>> matrix_of((5, 5, 1, 32), 16), matrix_of((300,), 16)[:3]
    (Matrix(rows=25, columns=32, by_row=True, by_column=True), (1, 300, False))
    """
    columns = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    return Matrix(
        rows=rows,
        columns=columns,
        by_row=rows > 1 and columns >= share,
        by_column=columns > 1 and rows >= share,
    )


def rounded_log2(x: jax.Array) -> jax.Array:
    """`log2(x)` of float32 `x >= 0` to the nearest whole number, int32.

    From the bits of `sqrt(2) x`, so that nothing depends on how a machine computes
    logarithms; -127 for 0.

    >>> rounded_log2(jnp.array([0.0, 0.7, 0.8, 1.5, 100.0])).tolist()
    [-127, -1, 0, 1, 7]
    """
    bits = jax.lax.bitcast_convert_type(x * np.float32(math.sqrt(2)), jnp.uint32)
    return (bits >> 23).astype(jnp.int32) - 127


def leaf_sizes(
    t: jax.Array, matrix: Matrix, known: Sizes
) -> tuple[jax.Array, jax.Array]:
    """Logs of the sizes of rows and of columns, as they travel: both in [0, 64).

        row_i:     log2 mean_j t_ij^2, from `least` up
        column_j:  log2(mean_i t_ij^2 / mean t^2) + 31

    Args:
      t: float32 `[r, c]`.
      matrix: its model.
      known: the sizes that the code has tables for.

    Returns:
      int32 `[r]` and `[c]`, `[1]` and `[0]` where there is one size for all.
    """
    square = t * t
    mean = jnp.mean(square)
    row = jnp.mean(square, axis=1) if matrix.by_row else mean[None]
    row = sizes_of(row, known)
    if not matrix.by_column:
        return row, jnp.zeros(0, jnp.int32)
    column = jnp.mean(square, axis=0) / jnp.where(mean > 0, mean, 1.0)
    column = jnp.clip(rounded_log2(column), -_MAX_COLUMN, _MAX_COLUMN)
    return row, column + _MAX_COLUMN


def sizes_of(mean_square: jax.Array, known: Sizes) -> jax.Array:
    """The sizes of rows of such mean squares, as they travel: int32 in [0, 64)."""
    return jnp.clip(rounded_log2(mean_square) - known.least, 0, known.number - 1)


def leaf_classes(row: A, column: A, matrix: Matrix, known: Sizes) -> A:
    """Sizes of all coordinates, from 0 at `least`, int `[r c]`, from `leaf_sizes`."""
    xp = row.__array_namespace__()
    if not matrix.by_column:
        column = xp.full(1, _MAX_COLUMN, row.dtype)
    size = row[:, None] + (column[None, :] - _MAX_COLUMN)
    size = xp.clip(size, 0, known.number - 1)
    return xp.broadcast_to(size, (matrix.rows, matrix.columns)).reshape(-1)


def to_side(shapes: jax.Array, sizes: jax.Array) -> Symbols:
    """Shapes, and sizes as differences modulo 64: 0, -1, 1, -2, ... are 0, 1, 2, ...

    Args:
      shapes: of each leaf, int32 `[L]`.
      sizes: of all leaves one after another, int32 `[s]` in [0, 64).

    >>> to_side(jnp.array([3]), jnp.array([1, 0, 63])).values.tolist()
    [3, 2, 1, 1]
    """
    step = jnp.diff(sizes, prepend=0) & (_MODULUS - 1)
    half = _MODULUS // 2
    mapped = jnp.where(step < half, 2 * step, 2 * (_MODULUS - step) - 1)
    return Symbols(jnp.concatenate([shapes, mapped]).astype(jnp.uint8), _MODULUS)


def from_side(side: A, leaves: int) -> tuple[A, A]:
    """The inverse of `to_side` for any symbols; shapes are within `SHAPES`."""
    xp = side.__array_namespace__()
    numbers = side.astype(xp.int32)
    mapped = numbers[leaves:]
    step = xp.where(mapped % 2 == 1, -((mapped + 1) // 2), mapped // 2)
    sizes = xp.cumsum(step) & (_MODULUS - 1)
    return xp.minimum(numbers[:leaves], len(SHAPES) - 1), sizes


def classes_of_side(side: A, layout: tuple[Matrix, ...], known: Sizes) -> A:
    """The class of each coordinate of all leaves, int `[n]`, from what travelled."""
    shapes, sizes = from_side(side, len(layout))
    classes, start = [], 0
    for i, matrix in enumerate(layout):
        rows, columns = matrix.sizes
        row = sizes[start : start + rows]
        column = sizes[start + rows : start + rows + columns]
        size = leaf_classes(row, column, matrix, known)
        classes.append(size + known.number * shapes[i])
        start += rows + columns
    return side.__array_namespace__().concat(classes)
