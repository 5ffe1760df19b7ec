"""Numbers of an array that share a scale: all of them, or those along one axis."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Groups:
    """How the numbers of an array are grouped.

    Attributes:
      shape: of the array.
      axis: each index along it is a group; None, and for an array without that axis:
        one group of all numbers.

    >>> Groups((8, 3, 8), axis=1).size, Groups((9,), axis=1).size
    (64, 9)
    """

    shape: tuple[int, ...]
    axis: int | None

    @property
    def one(self) -> bool:
        """Whether all numbers are one group."""
        return self.axis is None or len(self.shape) <= self.axis

    @property
    def count(self) -> int:
        """How many groups there are."""
        return 1 if self.one else self.shape[self.axis or 0]

    @property
    def size(self) -> int:
        """Numbers in a group."""
        return math.prod(self.shape) // self.count

    @property
    def axes(self) -> tuple[int, ...] | None:
        """The axes to reduce over, with `keepdims`; None for one group."""
        if self.one:
            return None
        return tuple(i for i in range(len(self.shape)) if i != self.axis)

    def columns(self, x: jax.Array) -> jax.Array:
        """Each group as a column, `[size, groups]`; `[size]` for one group.

        >>> Groups((2, 3), axis=0).columns(jnp.arange(6).reshape(2, 3)).tolist()
        [[0, 3], [1, 4], [2, 5]]
        """
        if self.one:
            return x.reshape(-1)
        return jnp.moveaxis(x, self.axis or 0, -1).reshape(self.size, -1)

    def of_columns(self, columns: jax.Array) -> jax.Array:
        """The array of which these are the columns."""
        if self.axes is None:
            return columns.reshape(self.shape)
        others = [self.shape[i] for i in self.axes]
        return jnp.moveaxis(columns.reshape(*others, -1), -1, self.axis or 0)

    def listed(self, reduced: jax.Array) -> jax.Array:
        """What was reduced over `axes`, `[groups]`; a scalar for one group."""
        return reduced if self.one else reduced.reshape(-1)

    def along(self, scales: jax.Array) -> jax.Array:
        """A number for each group, `[groups]`, in a shape that multiplies the array."""
        if self.axes is None:
            return scales
        return jnp.expand_dims(scales, self.axes)
