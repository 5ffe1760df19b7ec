"""Streams of numbered arrivals, of which some are discarded between minibatches.

Arrival `j` is the same sample whatever the minibatches are and whoever gets it, so runs
with other batch sizes or rates are compared on one stream.

The synthetic streams are our reconstruction of those in Nokleby, Raja, Bajwa 2020
(arXiv 2005.08854): Gaussian samples of a given spectrum, and labels from a logistic
model.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import ClientBatches, Cohort, Examples, PyTree


class ArrivalSpec(NamedTuple):
    """How a stream is cut into minibatches.

    Attributes:
      num_nodes: `N`.
      batch_size: samples of a minibatch in the whole network, `B`, a multiple of `N`.
      discarded: samples lost between two minibatches, `mu`, need not be whole.
    """

    num_nodes: int
    batch_size: int
    discarded: float = 0.0


Draw = Callable[[PyTree, jax.Array], Examples]
"""`(data, numbers[M]) -> Examples[M, ...]`: the samples with these numbers."""


class Synthetic(NamedTuple):
    """What a synthetic stream is made of.

    Attributes:
      key: of its samples.
      root: `[d, d]`; samples are `root z` with standard normal `z`.
      weights: `[d]`, of the logistic model of labels.
    """

    key: jax.Array
    root: jax.Array
    weights: jax.Array


def arrivals(
    spec: ArrivalSpec, draw: Draw
) -> Callable[[jax.Array, jax.Array, PyTree], Cohort]:
    """A sampler of minibatches: every node its part, one local step.

    Minibatch `t` has the `B` arrivals from number `t B + floor(t mu)` on.

    Args:
      spec: how the stream is cut.
      draw: its samples.

    Returns:
      `(key, round, data) -> Cohort` of `N` clients; the key is not used.

    Raises:
      ValueError: for `B` that is no positive multiple of `N`, or a number of discarded
        samples that is negative or not finite.

    >>> def numbers(data, j):
    ...     return Examples(j[:, None].astype(jnp.float32), j)
    >>> sample = arrivals(ArrivalSpec(2, 4, discarded=1.5), numbers)
    >>> sample(jax.random.key(0), jnp.int32(2), ()).examples.y.tolist()
    [11, 12, 13, 14]
    """
    nodes, size, discarded = spec
    if nodes < 1 or size < 1 or size % nodes:
        raise ValueError(
            f"Expected batch_size={size} to be a positive multiple of num_nodes="
            f"{nodes}."
        )
    if not (math.isfinite(discarded) and discarded >= 0):
        raise ValueError(f"Expected discarded={discarded} >= 0 and finite.")
    shape = (nodes, 1, size // nodes)

    def sample(key: jax.Array, round_index: jax.Array, data: PyTree) -> Cohort:
        # Rounding keeps order, so minibatches never overlap.
        lost = jnp.floor(round_index.astype(jnp.float32) * discarded)
        first = round_index * size + lost.astype(jnp.int32)
        examples = draw(data, first + jnp.arange(size, dtype=jnp.int32))
        ids = jnp.arange(nodes, dtype=jnp.int32)
        clients = ClientBatches(
            client_id=ids,
            rows=jnp.arange(size, dtype=jnp.int32).reshape(shape),
            mask=jnp.ones(shape, bool),
            num_examples=jnp.full(nodes, size // nodes, jnp.int32),
            active=jnp.ones(nodes, bool),
            key=jax.vmap(jax.random.fold_in, (None, 0))(key, ids),
        )
        return Cohort(examples, clients)

    return sample


def synthetic(
    key: jax.Array, spectrum: Sequence[float], *, margin: float = 0.0
) -> Synthetic:
    """A stream of Gaussian samples with a given spectrum in random directions.

    Args:
      key: of the directions, the model of the labels and the samples.
      spectrum: eigenvalues of the covariance, `[d]`, the largest first.
      margin: norm of the label model's weights; 0 makes labels fair coins.

    Returns:
      The stream's data; the leading eigenvector is `root[:, 0] / ||root[:, 0]||`.

    Raises:
      ValueError: for a spectrum that is negative or not in order, or a negative margin.

    >>> synthetic(jax.random.key(0), [1.0, 0.5]).root.shape
    (2, 2)
    """
    values = list(spectrum)
    if len(values) < 2 or min(values) < 0 or values != sorted(values, reverse=True):
        raise ValueError(f"Expected spectrum={values} >= 0 and falling, two at least.")
    if margin < 0:
        raise ValueError(f"Expected margin={margin} >= 0.")
    turn_key, weight_key, sample_key = jax.random.split(key, 3)
    basis, _ = jnp.linalg.qr(
        jax.random.normal(turn_key, (len(values), len(values)), jnp.float32)
    )
    direction = jax.random.normal(weight_key, (len(values),), jnp.float32)
    return Synthetic(
        key=sample_key,
        root=basis * jnp.sqrt(jnp.asarray(values, jnp.float32))[None],
        weights=margin * direction / jnp.linalg.norm(direction),
    )


def draw_synthetic(data: Synthetic, numbers: jax.Array) -> Examples:
    """The samples of a synthetic stream: `x = root z`, labels `P(1) = 1 / (1 + e^-wx)`.

    Args:
      data: of the stream.
      numbers: int32 `[M]`.

    Returns:
      `x` float32 `[M, d]`, `y` int32 `[M]`.
    """
    dimension = data.root.shape[0]

    def one(number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(data.key, number)
        return jax.random.normal(key, (dimension + 1,), jnp.float32)

    drawn = jax.vmap(one)(numbers)
    x = drawn[:, :dimension] @ data.root.T
    # The last normal becomes the uniform number that decides on the label.
    coin = jax.scipy.stats.norm.cdf(drawn[:, dimension])
    y = coin < jax.nn.sigmoid(x @ data.weights)
    return Examples(x, y.astype(jnp.int32))
