"""What a party keeps to itself, and what all parties agree on before they start.

A private map takes a party's inputs to a few numbers that say little by themselves. An
anchor is data that are nobody's private examples, on which the maps can be compared
(`data_collaboration`).

Source: Imakura, Sakurai 2020 (arXiv 1902.07535), section 3, and Bogdanova et al. 2020
(arXiv 2011.06803) for the uniform anchor, PCA and SVD; the other anchors and maps are
our reading of their descriptions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.keys import MAX_SEED, make_key


class PrivateMap(NamedTuple):
    """A party's own map, `f(x) = (x - mean) matrix`; it never leaves the party.

    Attributes:
      mean: `[d]`.
      matrix: `[d, m]`.
    """

    mean: jax.Array
    matrix: jax.Array


FitMap = Callable[[jax.Array, jax.Array], PrivateMap]
"""`(key, x[N, d]) -> PrivateMap`: chosen by a party from its own inputs."""

Anchor = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, public[P, d]) -> [r, d]`: agreed by all, from public data if at all."""


def apply_map(private: PrivateMap, x: jax.Array) -> jax.Array:
    """`(x - mean) matrix`, `[N, d] -> [N, m]`."""
    return (x - private.mean[None]) @ private.matrix


def pca(components: int) -> FitMap:
    """The leading principal directions of a party's inputs.

    Args:
      components: `m`.

    Returns:
      A `FitMap`, which raises `ValueError` for fewer examples or inputs than `m`, and
      for inputs that are no floats.

    Raises:
      ValueError: for `components < 1`.

    >>> x = jax.random.normal(jax.random.key(0), (20, 5))
    >>> pca(3)(jax.random.key(1), x).matrix.shape
    (5, 3)
    """
    _check_components(components)

    def fit(key: jax.Array, x: jax.Array) -> PrivateMap:
        del key
        _check_floats(x)
        _check_fits(components, x)
        mean = x.mean(0)
        return PrivateMap(mean, _right_vectors(x - mean[None], components))

    return fit


def truncated_svd(components: int) -> FitMap:
    """As `pca` without removing the mean: only the directions are private.

    Args:
      components: `m`.

    Returns:
      A `FitMap`, as of `pca`.

    Raises:
      ValueError: for `components < 1`.
    """
    _check_components(components)

    def fit(key: jax.Array, x: jax.Array) -> PrivateMap:
        del key
        _check_floats(x)
        _check_fits(components, x)
        return PrivateMap(jnp.zeros_like(x[0]), _right_vectors(x, components))

    return fit


def random_orthogonal(components: int, *, seed: int | None = None) -> FitMap:
    """Orthonormal directions drawn uniformly: they say nothing about the data.

    Args:
      components: `m`, at most the inputs `d`.
      seed: of directions that all parties share and everybody knows. These match
        without an anchor, and to hide inputs is left to noise on what is sent
        (`row_noise`). Each party draws its own from its key when None.

    Returns:
      A `FitMap`.

    Raises:
      ValueError: for `components < 1` and a seed outside `[0, 2^32)`; on use, for more
        components than inputs, and for inputs that are no floats.
    """
    _check_components(components)
    if seed is not None:
        checks.integer("seed", seed, minimum=0, maximum=MAX_SEED)

    def fit(key: jax.Array, x: jax.Array) -> PrivateMap:
        _check_floats(x)
        if components > x.shape[1]:
            raise ValueError(
                f"Expected components={components} <= {x.shape[1]} inputs."
            )
        own = key if seed is None else make_key(seed)
        drawn = jax.random.normal(own, (x.shape[1], components), x.dtype)
        return PrivateMap(jnp.zeros_like(x[0]), jnp.linalg.qr(drawn)[0])

    return fit


def permuted(fit: FitMap) -> FitMap:
    """Another map with its components in a secret order and of secret signs.

    Args:
      fit: the map to hide.

    Returns:
      A `FitMap`; the result of the collaboration is the same.
    """

    def fit_permuted(key: jax.Array, x: jax.Array) -> PrivateMap:
        map_key, order_key, sign_key = jax.random.split(key, 3)
        private = fit(map_key, x)
        components = private.matrix.shape[1]
        order = jax.random.permutation(order_key, components)
        signs = jax.random.rademacher(sign_key, (components,), x.dtype)
        return private._replace(matrix=private.matrix[:, order] * signs[None])

    return fit_permuted


def uniform(size: int, *, low: float = 0.0, high: float = 1.0) -> Anchor:
    """An anchor of independent uniform numbers in the range of the inputs.

    Args:
      size: rows, `r`.
      low: where the range begins.
      high: where it ends.

    Returns:
      An `Anchor` that uses nothing of the data but the number of inputs and the dtype.

    Raises:
      ValueError: for `size < 1` or an empty range; on use, for no floats.
    """
    _check_size(size)
    if not low < high:
        raise ValueError(f"Expected low={low} < high={high}.")

    def draw(key: jax.Array, public: jax.Array) -> jax.Array:
        _check_floats(public)
        shape = (size, public.shape[1])
        return jax.random.uniform(key, shape, public.dtype, low, high)

    return draw


def public_sample(size: int) -> Anchor:
    """An anchor of public examples, drawn without replacement.

    Args:
      size: rows, `r`.

    Returns:
      An `Anchor`, which raises `ValueError` when there are fewer public examples.

    Raises:
      ValueError: for `size < 1`.
    """
    _check_size(size)

    def draw(key: jax.Array, public: jax.Array) -> jax.Array:
        if size > public.shape[0]:
            raise ValueError(f"Expected size={size} <= {public.shape[0]} public rows.")
        return jax.random.choice(key, public, (size,), replace=False)

    return draw


def low_rank_sample(size: int, *, rank: int) -> Anchor:
    """An anchor with the mean and leading covariance of public data, and no row of it.

    Rows are `mean + z diag(s) V^T / sqrt(P)` with standard normal `z` and the leading
    `rank` singular values and vectors of the centred public data.

    Args:
      size: rows, `r`.
      rank: of the anchor around its mean; maps are matched in these directions only.

    Returns:
      An `Anchor`.

    Raises:
      ValueError: for a number below 1; on use, for a rank above that of the data,
        and for data that are no floats.
    """
    _check_size(size)
    checks.integer("rank", rank, minimum=1)

    def draw(key: jax.Array, public: jax.Array) -> jax.Array:
        _check_floats(public)
        rows = public.shape[0]
        if rank > min(public.shape):
            raise ValueError(f"Expected rank={rank} <= {min(public.shape)}.")
        mean = public.mean(0)
        _, values, vectors = jnp.linalg.svd(public - mean[None], full_matrices=False)
        z = jax.random.normal(key, (size, rank), public.dtype)
        scaled = z * (values[:rank] / rows**0.5)[None]
        return mean[None] + scaled @ vectors[:rank]

    return draw


def _right_vectors(x: jax.Array, count: int) -> jax.Array:
    return jnp.linalg.svd(x, full_matrices=False)[2][:count].T


def _check_components(components: int) -> None:
    checks.integer("components", components, minimum=1)


def _check_floats(x: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Expected inputs in floats, got {x.dtype}: give x.astype(jnp.float32), "
            "times what brings its numbers to order one."
        )


def _check_fits(components: int, x: jax.Array) -> None:
    if components > min(x.shape):
        raise ValueError(
            f"Expected components={components} <= {x.shape[0]} examples and "
            f"{x.shape[1]} inputs of the party; use fewer, or random_orthogonal."
        )


def _check_size(size: int) -> None:
    checks.integer("size", size, minimum=1)
