"""Payloads as vectors of integers that may be added modulo a power of two, and back.

Messages add as integers if all clients agree on one grid: Bonawitz, Salehi, Konečný,
McMahan and Gruteser, "Federated learning with autotuned communication-efficient secure
aggregation", 2019. Messages of `common_range` are on such a grid already; floats are
put on one here.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp import checks
from fedjax_comp.base import PyTree
from fedjax_comp.compress import noise
from fedjax_comp.compress.quantize.common_range import Ranged
from fedjax_comp.wire.fields import Raw, is_field

MAX_GRID_LEVELS = (1 << 24) - 1


class Grid(NamedTuple):
    """`levels` equally spaced numbers in `[-limit, limit]`, 0 among them."""

    levels: int
    limit: float

    @property
    def half(self) -> int:
        """The largest integer that stands for a level."""
        return self.levels // 2

    @property
    def step(self) -> float:
        """The distance of neighbouring levels."""
        return self.limit / self.half


def integer_grid(levels: int, *, limit: float) -> Grid:
    """The grid of a cohort for payloads of floats.

    Args:
      levels: odd, in [3, 2**24 - 1].
      limit: the largest magnitude, positive; what lies beyond is clipped.

    Returns:
      A `Grid`.

    Raises:
      ValueError: when an argument is not as above.

    >>> integer_grid(5, limit=1.0).step
    0.5
    """
    levels = checks.integer("levels", levels, minimum=3, maximum=MAX_GRID_LEVELS)
    if levels % 2 == 0:
        raise ValueError(f"Expected levels={levels} to be odd, so that 0 is a level.")
    return Grid(levels, checks.between("limit", limit, above=0, at_most=1e30))


def round_to_grid(key: jax.Array, x: jax.Array, grid: Grid) -> jax.Array:
    """Integers that stand for floats: unbiased where these lie within the limit.

        q = floor(t) + [u < t - floor(t)],   t = clip(x, -limit, limit) / step

    so that `E[step q] = x` and the variance is at most `step^2 / 4` for each client and
    coordinate: the error of a sum of `C` clients is at most `sqrt(C) step / 2` root
    mean square, and what clipping cut off comes on top.

    Args:
      key: scalar key array, the client's own.
      x: float array of any shape.
      grid: the cohort's.

    Returns:
      int32 `[x.size]` in `[-grid.half, grid.half]`.

    >>> x = jnp.array([-9.0, 0.0, 0.5])
    >>> round_to_grid(jax.random.key(0), x, integer_grid(5, limit=1.0)).tolist()
    [-2, 0, 1]
    """
    t = jnp.clip(x.astype(jnp.float32) / grid.limit, -1.0, 1.0) * grid.half
    return noise.bernoulli_round(key, t).reshape(-1).astype(jnp.int32)


def is_part(node: PyTree) -> bool:
    """Whether `node` is one part of a payload: a field, a `Ranged`, or an array."""
    return is_field(node) or isinstance(node, Ranged)


def parts_of(payload: PyTree) -> list[PyTree]:
    """The parts of a payload in order: `Ranged` messages whole, fields and arrays."""
    return jax.tree.leaves(payload, is_leaf=is_part)


def length_of(template: PyTree) -> int:
    """Integers in the vector that a payload becomes."""
    return sum(
        int(np.prod(part.shape, dtype=np.int64))
        for part in (
            part.symbols.values if isinstance(part, Ranged) else part
            for part in parts_of(template)
        )
    )


def has_floats(template: PyTree) -> bool:
    """Whether any part of a payload needs a grid."""
    return not all(isinstance(part, Ranged) for part in parts_of(template))


def require_floats(template: PyTree) -> None:
    """Refuses payloads that no client can clip as a whole, beside noise.

    Raises:
      ValueError: for integers.
    """
    if any(isinstance(part, Ranged) for part in parts_of(template)):
        raise ValueError(
            "Expected an uplink of floats beside noise, which are clipped and rounded "
            "as they are sent: identity(), rotate(), random_k(shared=True), "
            "count_sketch or random_projection, and not common_range."
        )


def to_integers(key: jax.Array, payload: PyTree, grid: Grid | None) -> jax.Array:
    """A qualifying payload as one vector of centred integers, int32 `[n]`.

    Args:
      key: scalar key array, the client's own, for the rounding of floats.
      payload: of a compressor that `qualify` passed: `Ranged` messages and floats, all
        of them finite (`is_finite`).
      grid: for the floats; None for a payload without floats.

    Returns:
      The messages' symbols less those of 0, and the floats on the grid.

    Raises:
      ValueError: when there are floats and no grid.
    """
    vectors = []
    for i, part in enumerate(parts_of(payload)):
        if isinstance(part, Ranged):
            symbols = part.symbols.values.reshape(-1).astype(jnp.int32)
            vectors.append(symbols - part.symbols.cardinality // 2)
        else:
            own = jax.random.fold_in(key, i)
            vectors.append(round_to_grid(own, part, _given(grid)))
    return jnp.concatenate(vectors)


def is_finite(payload: PyTree) -> jax.Array:
    """Whether all of a payload's numbers are finite; else its client must not send."""
    finite = [
        part.finite.values if isinstance(part, Ranged) else jnp.all(jnp.isfinite(part))
        for part in parts_of(payload)
    ]
    return jnp.all(jnp.stack(finite))


def _given(grid: Grid | None) -> Grid:
    if grid is None:
        raise ValueError(
            "Expected grid=integer_grid(levels, limit=...): this payload holds floats, "
            "and only integers are masked."
        )
    return grid


def from_integers(
    total: npt.NDArray[np.int64] | jax.Array, template: PyTree, grid: Grid | None
) -> PyTree:
    """A sum of vectors as the payload that decodes to the sum.

    Args:
      total: `[n]`, the sum of vectors from `to_integers`.
      template: one client's payload, or shapes and dtypes of it.
      grid: for the floats.

    Returns:
      A payload whose symbols lie outside of `[0, cardinality)` where the sum does: not
      to be sent, but `decode` is linear in it.

    Raises:
      ValueError: for floats without a grid.
    """
    start = 0

    def fill(part: PyTree) -> PyTree:
        nonlocal start
        ranged = isinstance(part, Ranged)
        like = part.symbols.values if ranged else part
        stop = start + int(np.prod(like.shape, dtype=np.int64))
        values = total[start:stop].reshape(like.shape)
        start = stop
        if ranged:
            symbols = jnp.asarray(values + part.symbols.cardinality // 2, jnp.int32)
            return Ranged(
                Raw(jnp.asarray(True)),
                dataclasses.replace(part.symbols, values=symbols),
            )
        return jnp.asarray(values.astype(float) * _given(grid).step, like.dtype)

    return jax.tree.map(fill, template, is_leaf=is_part)


def largest_magnitude(template: PyTree, grid: Grid | None) -> int:
    """The largest magnitude of an integer that one client may send.

    Raises:
      ValueError: for floats without a grid.
    """
    return max(
        part.symbols.cardinality // 2 if isinstance(part, Ranged) else _given(grid).half
        for part in parts_of(template)
    )


def bits_for_sum(parties: int, magnitude: int) -> int:
    """The fewest bits of a modulus in which no sum of `parties` integers wraps.

    >>> bits_for_sum(parties=10, magnitude=7)
    8
    """
    return (parties * magnitude).bit_length() + 1
