"""Leaves in the basis in which `coded_low_rank` sends them, and back from levels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.compress.low_rank.history import Remembered, basis_of
from fedjax_comp.compress.low_rank.singular import matmul
from fedjax_comp.compress.low_rank.subspace import Triples, leading_triples
from fedjax_comp.compress.quantize.separable_classes import Matrix

_NARROWEST = 4  # sides of a matrix that is decomposed
_WATER = 1 / 11  # squared steps of error in a coordinate that travels


class Plan(NamedTuple):
    """How a leaf travels.

    Attributes:
      rows: of the matrix that it is.
      columns: likewise.
      rank: the most directions that travel; 0 for a leaf that travels as it is.
      history: the directions that both ends remember; 0 without a memory.
    """

    rows: int
    columns: int
    rank: int
    history: int = 0

    @property
    def parts(self) -> tuple[Matrix, ...]:
        """The matrices of levels, each row with a size of its own.

        These are the leaf itself; or its left and its right factor; or, with a memory,
        two parts of each factor: what lies in the memory and what does not.
        """
        if not self.rank:
            return (_by_row(*sorted((self.rows, self.columns))),)
        sides = self.rows, self.columns
        if not self.history:
            return tuple(_by_row(self.rank, side) for side in sides)
        return tuple(
            _by_row(self.rank, size) for side in sides for size in (self.history, side)
        )


def _by_row(rows: int, columns: int) -> Matrix:
    return Matrix(rows, columns, by_row=rows > 1, by_column=False)


def plan_of(shape: tuple[int, ...], max_rank: int, history: int = 0) -> Plan:
    """How a leaf of a shape travels; kernels are `[height width inputs, outputs]`.

    >>> plan_of((5, 5, 32, 64), 16), plan_of((10,), 16).rank
    (Plan(rows=800, columns=64, rank=16, history=0), 0)
    """
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    narrow = min(rows, columns)
    rank = min(max_rank, narrow) if narrow >= _NARROWEST else 0
    return Plan(rows, columns, rank, min(history, narrow) if rank else 0)


class Directions(NamedTuple):
    """A leaf in the basis in which it travels.

    Attributes:
      leaf: float32 `[rows, columns]`.
      triples: its leading ones; None for a leaf that travels as it is.
      parts: of what travels, the matrices of `Plan.parts` before they are divided into
        steps.
    """

    leaf: jax.Array
    triples: Triples | None
    parts: tuple[jax.Array, ...]

    def largest_step(self, plan: Plan) -> jax.Array:
        """The largest step at which something of it travels, float32 scalar."""
        if self.triples is None:
            return jnp.max(jnp.abs(self.leaf))
        return self.triples.values[0] / math.sqrt(max(plan.rows, plan.columns))

    def in_steps(self, step: jax.typing.ArrayLike) -> list[jax.Array]:
        """Matrices of the shapes of `plan.parts`, zeros in rows that do not travel."""
        if self.triples is None:
            return [self.parts[0] / step]
        water = _WATER * jnp.square(step)
        cost = sum(_cost(part, water) for part in self.parts)
        # Not `<`: what is not a number shall stay visible.
        is_small = (cost >= jnp.square(self.triples.values))[:, None]
        return [jnp.where(is_small, 0.0, part / step) for part in self.parts]


def _cost(part: jax.Array, water: jax.Array) -> jax.Array:
    """Error, and bits at what a bit is worth, of each row by reverse water-filling.

        sum min(v, w) + 2 ln 2 w bits,   bits = log2(max(v / w, 1)) / 2

    of as many numbers as the row has, of variance `v` each, at the water level `w`.
    """
    variance = jnp.mean(jnp.square(part), axis=1)
    above = jnp.maximum(variance / water, 1.0)
    return part.shape[1] * (jnp.minimum(variance, water) + water * jnp.log(above))


def directions_of(
    leaf: jax.Array, plan: Plan, memory: Remembered | None = None
) -> Directions:
    """A leaf, float32 `[rows, columns]` of moderate numbers, as its plan has it."""
    if not plan.rank:
        part = leaf if plan.rows <= plan.columns else leaf.T
        return Directions(leaf, None, (part,))
    triples = leading_triples(leaf, plan.rank)
    factors = triples.left, triples.right
    if memory is None:
        return Directions(leaf, triples, factors)
    parts: list[jax.Array] = []
    for factor, weighted in zip(factors, memory, strict=True):
        basis = basis_of(weighted)
        known = matmul(factor, basis.T)
        parts += [known, factor - matmul(known, basis)]
    return Directions(leaf, triples, tuple(parts))


def inverse_roots(left: jax.Array, right: jax.Array) -> jax.Array:
    """`1 / sqrt(||q(a_k)|| ||q(b_k)||)` of two matrices' rows; 0 where one is 0."""
    squares = jnp.sum(left * left, axis=1), jnp.sum(right * right, axis=1)
    norms = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])
    return jnp.where(norms > 0, jax.lax.rsqrt(jnp.where(norms > 0, norms, 1.0)), 0.0)


def factors_of(
    levels: jax.Array,
    plans: Sequence[Plan],
    memories: Sequence[Remembered | None],
) -> list[tuple[jax.Array, ...]]:
    """The factors of each leaf in steps, or the leaf that travels as it is.

    Args:
      levels: of all leaves, float32 `[n]`.
      plans: of each.
      memories: of each before the message; None without one.

    Returns:
      For each leaf float32 `[rank, rows]` and `[rank, columns]`, or one matrix.
    """
    found: list[tuple[jax.Array, ...]] = []
    start = 0
    for plan, memory in zip(plans, memories, strict=True):
        parts = []
        for part in plan.parts:
            size = part.rows * part.columns
            parts.append(levels[start : start + size].reshape(part.rows, part.columns))
            start += size
        if memory is not None:
            pairs = zip(parts[::2], parts[1::2], memory, strict=True)
            parts = [matmul(c, basis_of(w)) + rest for c, rest, w in pairs]
        found.append(tuple(parts))
    return found


def in_unit_steps(factors: tuple[jax.Array, ...], plan: Plan) -> jax.Array:
    """A leaf in steps, float32 `[rows, columns]`, from its factors."""
    if not plan.rank:
        return factors[0] if plan.rows <= plan.columns else factors[0].T
    left, right = factors
    return matmul((inverse_roots(left, right)[:, None] * left).T, right)
