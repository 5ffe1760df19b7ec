"""Leaves in the basis in which `coded_low_rank` sends them, and back from levels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.compress.low_rank.singular import matmul
from fedjax_comp.compress.low_rank.subspace import Triples, leading_triples
from fedjax_comp.compress.quantize.separable_classes import Matrix

_GATE = 0.35
_NARROWEST = 4  # sides of a matrix that is decomposed


class Plan(NamedTuple):
    """How a leaf travels.

    Attributes:
      rows: of the matrix that it is.
      columns: likewise.
      rank: the most directions that travel; 0 for a leaf that travels as it is.
    """

    rows: int
    columns: int
    rank: int

    @property
    def parts(self) -> tuple[Matrix, ...]:
        """The one or two matrices of levels, each row with a size of its own."""
        if not self.rank:
            return (_by_row(*sorted((self.rows, self.columns))),)
        return _by_row(self.rank, self.rows), _by_row(self.rank, self.columns)


def _by_row(rows: int, columns: int) -> Matrix:
    return Matrix(rows, columns, by_row=rows > 1, by_column=False)


def plan_of(shape: tuple[int, ...], max_rank: int) -> Plan:
    """How a leaf of a shape travels; kernels are `[height width inputs, outputs]`.

    >>> plan_of((5, 5, 32, 64), 16), plan_of((10,), 16).rank
    (Plan(rows=800, columns=64, rank=16), 0)
    """
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    narrow = min(rows, columns)
    rank = min(max_rank, narrow) if narrow >= _NARROWEST else 0
    return Plan(rows, columns, rank)


class Directions(NamedTuple):
    """A leaf in the basis in which it travels.

    Attributes:
      leaf: float32 `[rows, columns]`.
      triples: its leading ones; None for a leaf that travels as it is.
    """

    leaf: jax.Array
    triples: Triples | None

    def largest_step(self, plan: Plan) -> jax.Array:
        """The largest step at which something of it travels, float32 scalar."""
        if self.triples is None:
            return jnp.max(jnp.abs(self.leaf))
        return self.triples.values[0] / math.sqrt(max(plan.rows, plan.columns))

    def in_steps(self, step: jax.typing.ArrayLike, plan: Plan) -> list[jax.Array]:
        """Matrices of the shapes of `plan.parts`, zeros in rows that do not travel."""
        if self.triples is None:
            leaf = self.leaf if plan.rows <= plan.columns else self.leaf.T
            return [leaf / step]
        gate = _GATE * (math.sqrt(plan.rows) + math.sqrt(plan.columns))
        # Not `>= gate`: what is not a number shall stay visible.
        is_small = (self.triples.values < gate * step)[:, None]
        factors = self.triples.left, self.triples.right
        return [jnp.where(is_small, 0.0, factor / step) for factor in factors]


def directions_of(leaf: jax.Array, plan: Plan) -> Directions:
    """A leaf, float32 `[rows, columns]` of moderate numbers, as its plan has it."""
    return Directions(leaf, leading_triples(leaf, plan.rank) if plan.rank else None)


def inverse_roots(left: jax.Array, right: jax.Array) -> jax.Array:
    """`1 / sqrt(||q(a_k)|| ||q(b_k)||)` of two matrices' rows; 0 where one is 0."""
    squares = jnp.sum(left * left, axis=1), jnp.sum(right * right, axis=1)
    norms = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])
    return jnp.where(norms > 0, jax.lax.rsqrt(jnp.where(norms > 0, norms, 1.0)), 0.0)


def in_unit_steps(levels: jax.Array, plans: Sequence[Plan]) -> list[jax.Array]:
    """Leaves in steps, float32 `[rows, columns]`, from the levels of all of them."""
    leaves, start = [], 0
    for plan in plans:
        parts = []
        for part in plan.parts:
            size = part.rows * part.columns
            parts.append(levels[start : start + size].reshape(part.rows, part.columns))
            start += size
        if plan.rank:
            left, right = parts
            leaves.append(matmul((inverse_roots(left, right)[:, None] * left).T, right))
        else:
            leaves.append(parts[0] if plan.rows <= plan.columns else parts[0].T)
    return leaves
