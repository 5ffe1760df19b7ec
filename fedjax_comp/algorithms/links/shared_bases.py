"""Models whose matrices are factored: bases that all share, and a core between.

`fedjax_comp.algorithms.fed_dlrt` sends and trains these, and dense leaves beside them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree
from fedjax_comp.compress.combine.leafwise import shape_of
from fedjax_comp.compress.low_rank.decompositions import orthonormal, qr, svd
from fedjax_comp.compress.low_rank.singular import matmul, truncated_svd
from fedjax_comp.compress.low_rank.truncation import (
    from_matrix,
    largest_rank,
    low_rank_start,
    scheme_shape,
    to_matrix,
)

_SCHEME = "channel"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectral:
    """A leaf as `left diag(values) right'`, float32.

    Attributes:
      left: `U`, `[m, r]`, orthonormal columns.
      values: `s`, `[r]`.
      right: `V`, `[n, r]`, orthonormal columns.
      like: the leaf's shape and dtype, static.
    """

    left: jax.Array
    values: jax.Array
    right: jax.Array
    like: jax.ShapeDtypeStruct = dataclasses.field(metadata={"static": True})


class Factors(NamedTuple):
    """`left core right'`, or the gradients of a loss in the three."""

    left: jax.Array
    core: jax.Array
    right: jax.Array


class Trained(NamedTuple):
    """What clients train: cores `[2r, 2r]`, and leaves that have no factors."""

    cores: tuple[jax.Array, ...]
    dense: tuple[jax.Array, ...]


class Widened(NamedTuple):
    """What the second broadcast says: new directions, and the mean slope of cores."""

    left: tuple[jax.Array, ...]
    right: tuple[jax.Array, ...]
    slopes: tuple[jax.Array, ...]


Join = Callable[[Sequence[PyTree], Sequence[jax.Array]], PyTree]


def apart(
    model: PyTree,
) -> tuple[tuple[Spectral, ...], tuple[jax.Array, ...], Join]:
    """A model's matrices, its other leaves, and what makes parameters of both."""
    leaves, structure = jax.tree.flatten(
        model, is_leaf=lambda x: isinstance(x, Spectral)
    )
    factored = [isinstance(x, Spectral) for x in leaves]

    def join(matrices: Sequence[PyTree], dense: Sequence[jax.Array]) -> PyTree:
        ours, others = iter(matrices), iter(dense)
        chosen = [next(ours) if is_one else next(others) for is_one in factored]
        return jax.tree.unflatten(structure, chosen)

    matrices = tuple(x for x in leaves if isinstance(x, Spectral))
    dense = tuple(x for x in leaves if not isinstance(x, Spectral))
    return matrices, dense, join


def factored(x: jax.Array, rank: int) -> Spectral | jax.Array:
    """A leaf at its own norm and at the rank, or as it is where that is not less."""
    if x.ndim < 2:
        return x
    m, n = scheme_shape(x.shape, _SCHEME)
    if 2 * rank > min(m, n) or largest_rank(m, n) < rank:
        return x
    matrix = to_matrix(low_rank_start(x, rank, scheme=_SCHEME), _SCHEME)
    found = truncated_svd(matrix, rank)
    core = jnp.eye(rank, dtype=jnp.float32)
    return cut_to(Factors(found.left, core, found.right.T), shape_of(x), rank)


def cut_to(factors: Factors, like: jax.ShapeDtypeStruct, rank: int) -> Spectral:
    """The `rank` leading singular triples of `left core right'`."""
    left, over = qr(factors.left)
    right, other = qr(factors.right)
    u, values, v = svd(matmul(matmul(over, factors.core), other.T))
    return Spectral(
        matmul(left, u[:, :rank]), values[:rank], matmul(right, v[:rank].T), like
    )


def beyond(basis: jax.Array, slope: jax.Array) -> jax.Array:
    """Orthonormal columns that, with the basis, span it and the slope, `[m, r]`."""
    size = jnp.abs(slope).max()
    scaled = slope / jnp.where(size > 0, size, 1.0)
    return orthonormal(jnp.concatenate([basis, scaled], axis=1))[:, basis.shape[1] :]


def padded(core: jax.Array) -> jax.Array:
    """`[[core, 0], [0, 0]]`, of twice the rank."""
    return jnp.pad(core, (0, core.shape[0]))


def bases_of(matrices: Sequence[Spectral], news: Widened) -> list[Factors]:
    """Both bases, widened, and the coefficients that the model has in them."""
    return [
        Factors(
            jnp.concatenate([x.left, left], axis=1),
            padded(jnp.diag(x.values)),
            jnp.concatenate([x.right, right], axis=1),
        )
        for x, left, right in zip(matrices, news.left, news.right, strict=True)
    ]


def products(
    matrices: Sequence[Spectral], factors: Sequence[Factors]
) -> list[jax.Array]:
    """`left core right'` in the shape and dtype of each leaf."""
    return [
        from_matrix(matmul(matmul(f.left, f.core), f.right.T), x.like, _SCHEME)
        for x, f in zip(matrices, factors, strict=True)
    ]


def parameters_of(model: PyTree) -> PyTree:
    """The parameters of a model of factors."""
    matrices, dense, join = apart(model)
    factors = [Factors(x.left, jnp.diag(x.values), x.right) for x in matrices]
    return join(products(matrices, factors), dense)


def moved(model: PyTree, news: Widened, mean: Trained, rank: int) -> PyTree:
    """The model after a mean change of coefficients and dense leaves, cut again."""
    matrices, dense, join = apart(model)
    cut = [
        cut_to(f._replace(core=f.core + change), x.like, rank)
        for x, f, change in zip(
            matrices, bases_of(matrices, news), mean.cores, strict=True
        )
    ]
    return join(
        cut, jax.tree.map(lambda w, d: w + d.astype(w.dtype), dense, mean.dense)
    )
