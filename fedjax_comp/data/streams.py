"""Streams: examples that arrive at learners, round after round, and may drift.

A stream is a sampler, `(key, round, data) -> Cohort`, like the one that draws cohorts
from a population, but every learner takes part in every round and gets examples that
it has not seen. What it yields depends on the round and the stream's own data alone,
never on the run's key, so that every protocol is measured on the same stream.

A concept is what holds between two drifts; concept `c` begins at the `c`-th drift. The
synthetic task follows the random graphical model of Kamp et al. 2018 (arXiv
1807.03210, section 5), after Bshouty and Long 2012, as far as they describe it: the
distribution of the conditional probabilities and the shape of the tree are ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import ClientBatches, Cohort, Examples, PyTree
from fedjax_comp.data.sources.checked import check_dataset
from fedjax_comp.data.sources.contract import Dataset
from fedjax_comp.keys import make_key


class StreamSpec(NamedTuple):
    """How a stream is cut into rounds.

    Attributes:
      num_learners: `m`.
      updates: local updates of each learner in a round, `S`.
      batch_size: examples of one update, `B`.
    """

    num_learners: int
    updates: int
    batch_size: int


class StreamData(NamedTuple):
    """What a stream is made of, on the device.

    Attributes:
      key: of everything random in the stream.
      drifts: int32 `[D]`, the updates at which a new concept begins, ascending.
      examples: `[N, ...]`, `()` for a synthetic stream.
      order: int32 `[P N]`, the order in which examples arrive, pass by pass; begun
        again at its end.
    """

    key: jax.Array
    drifts: jax.Array
    examples: Examples | tuple[()]
    order: jax.Array


Drift = Callable[[jax.Array, jax.Array, Examples], Examples]
"""`(key, concept, examples) -> examples`: the same examples under another concept."""

Stream = Callable[[jax.Array, jax.Array, StreamData], Cohort]
"""`(key, round, data) -> Cohort` over all learners; the key is not used."""


def drift_times(num_updates: int, num_drifts: int, *, seed: int) -> np.ndarray:
    """Updates at which concepts change: distinct, uniform, none at the very start.

    Args:
      num_updates: updates in the whole stream.
      num_drifts: `D`, below `num_updates`.
      seed: of the draw.

    Returns:
      int32 `[D]`, ascending.

    Raises:
      ValueError: for a number of drifts that is negative or does not fit.

    >>> drift_times(100, 0, seed=0).tolist()
    []
    """
    if not 0 <= num_drifts < max(num_updates, 1):
        raise ValueError(
            f"Expected 0 <= num_drifts={num_drifts} < num_updates={num_updates}."
        )
    draws = np.random.default_rng(seed).choice(
        np.arange(1, max(num_updates, 2)), size=num_drifts, replace=False
    )
    return np.sort(draws).astype(np.int32)


def example_data(
    dataset: Dataset,
    *,
    drifts: np.ndarray,
    seed: int,
    in_order: bool = False,
    num_passes: int = 1,
) -> StreamData:
    """The training examples of a data set as a stream.

    A stream is longer than its data where it passes over them several times. No pass
    has the order of another, so that no learner's batch comes a second time.

    Args:
      dataset: NumPy examples.
      drifts: from `drift_times`.
      seed: of the order and of the drifts.
      in_order: keep the order of the data set (for series in time) in every pass
        instead of random ones.
      num_passes: `P`, passes over the examples.

    Returns:
      The stream's data.

    Raises:
      InvalidData: as `check_dataset`.
      ValueError: for fewer than one pass.
    """
    check_dataset(dataset)
    checks.integer("num_passes", num_passes, minimum=1)
    count = len(dataset.train.y)
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [
            np.arange(count) if in_order else rng.permutation(count)
            for _ in range(num_passes)
        ]
    )
    return StreamData(
        key=make_key(seed),
        drifts=jnp.asarray(drifts, jnp.int32),
        examples=jax.tree.map(jnp.asarray, dataset.train),
        order=jnp.asarray(order, jnp.int32),
    )


def example_stream(spec: StreamSpec, drift: Drift | None = None) -> Stream:
    """A stream over `example_data`: learners take turns in its order.

    Update `u` of learner `i` takes the `B` examples from place `(u m + i) B` on.

    Args:
      spec: how it is cut into rounds.
      drift: what a concept does to examples; None for no drift.

    Returns:
      A `Stream`.

    Raises:
      ValueError: for a number in `spec` below 1.
    """
    _check(spec)

    def sample(key: jax.Array, round_index: jax.Array, data: StreamData) -> Cohort:
        updates = _updates(spec, round_index)
        learners = jnp.arange(spec.num_learners, dtype=jnp.int32)
        first = updates[None, :] * spec.num_learners + learners[:, None]
        within = jnp.arange(spec.batch_size, dtype=jnp.int32)
        places = first[:, :, None] * spec.batch_size + within[None, None, :]
        rows = data.order[places % data.order.shape[0]].reshape(-1)
        examples: Examples = jax.tree.map(lambda x: x[rows], data.examples)
        if drift is not None:
            examples = _under_concepts(spec, drift, data, updates, examples)
        return _cohort(spec, key, examples)

    return sample


def one_learner(stream: Stream) -> Stream:
    """The same stream to one learner: all examples, update by update.

    It gets what all learners get at one update in as many updates, in their order. So
    it takes `m` times as many steps on the same examples in the same order, at the rate
    of the first learner.

    Args:
      stream: a stream to `m` learners.

    Returns:
      A `Stream` to one.
    """

    def sample(key: jax.Array, round_index: jax.Array, data: StreamData) -> Cohort:
        cohort = stream(key, round_index, data)
        clients = cohort.clients

        def in_line(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x, 0, 1).reshape(1, -1, *x.shape[2:])

        together = ClientBatches(
            client_id=clients.client_id[:1],
            rows=in_line(clients.rows),
            mask=in_line(clients.mask),
            num_examples=clients.num_examples.sum(dtype=jnp.int32, keepdims=True),
            active=clients.active[:1],
            key=clients.key[:1],
            rate=None if clients.rate is None else clients.rate[:1],
        )
        return cohort._replace(clients=together)

    return sample


def permuted_labels(num_classes: int) -> Drift:
    """Every concept but the first renames the classes by a random permutation."""

    def drift(key: jax.Array, concept: jax.Array, examples: Examples) -> Examples:
        permutation = jax.random.permutation(
            jax.random.fold_in(key, concept), num_classes
        )
        names = jnp.where(concept == 0, jnp.arange(num_classes), permutation)
        return examples._replace(y=names[examples.y].astype(examples.y.dtype))

    return drift


def rotated_images() -> Drift:
    """Concept `c` shows square images `[B, H, H, c]` turned by `c` quarter turns."""

    def drift(key: jax.Array, concept: jax.Array, examples: Examples) -> Examples:
        del key
        turns = [lambda x, k=k: jnp.rot90(x, k, axes=(1, 2)) for k in range(4)]
        return examples._replace(x=jax.lax.switch(concept % 4, turns, examples.x))

    return drift


def synthetic_data(*, drifts: np.ndarray, seed: int) -> StreamData:
    """The data of a `drawn_stream`: a key and its drifts."""
    nothing = jnp.zeros(0, jnp.int32)
    return StreamData(make_key(seed), jnp.asarray(drifts, jnp.int32), (), nothing)


def graphical_model(spec: StreamSpec, *, num_features: int = 50) -> Stream:
    """Binary examples from a random tree-shaped graphical model, drawn as they arrive.

    The label is a fair coin. Feature `j` depends on the label and on feature `j // 2`
    (the first one on the label alone), by probabilities that are uniform in [0, 1] and
    drawn anew for every concept.

    Args:
      spec: how it is cut into rounds.
      num_features: length of an example.

    Returns:
      A `Stream` over `synthetic_data`; inputs are float32 `[num_features]` of 0 and 1.

    Raises:
      ValueError: for a number below 1.
    """
    checks.integer("num_features", num_features, minimum=1)

    def draw(concept_key: jax.Array, example_key: jax.Array, count: int) -> Examples:
        tables = jax.random.uniform(concept_key, (num_features, 2, 2))
        label_key, feature_key = jax.random.split(example_key)
        y = jax.random.bernoulli(label_key, 0.5, (count,)).astype(jnp.int32)
        coins = jax.random.uniform(feature_key, (num_features, count))
        x = jnp.zeros((num_features, count), jnp.int32)

        def next_feature(j: jax.Array, x: jax.Array) -> jax.Array:
            parent = jnp.where(j == 0, 0, x[j // 2])
            return x.at[j].set((coins[j] < tables[j, y, parent]).astype(jnp.int32))

        x = jax.lax.fori_loop(0, num_features, next_feature, x)
        return Examples(x.T.astype(jnp.float32), y)

    return drawn_stream(spec, draw)


Draw = Callable[[jax.Array, jax.Array, int], Examples]
"""`(concept's key, update's key, count) -> examples`, of a synthetic stream."""


def drawn_stream(spec: StreamSpec, draw: Draw) -> Stream:
    """A synthetic stream, whose examples are drawn as they arrive.

    Args:
      spec: how it is cut into rounds.
      draw: what all learners get at one update: of the concept that its first key
        stands for, with the second one's randomness.

    Returns:
      A `Stream` over `synthetic_data`.

    Raises:
      ValueError: for a number in `spec` below 1.
    """
    _check(spec)
    count = spec.num_learners * spec.batch_size

    def sample(key: jax.Array, round_index: jax.Array, data: StreamData) -> Cohort:
        updates = _updates(spec, round_index)
        concept_key, example_key = jax.random.split(data.key)
        drawn = jax.vmap(
            lambda update: draw(
                jax.random.fold_in(concept_key, _concept(data, update)),
                jax.random.fold_in(example_key, update),
                count,
            )
        )(updates)
        # [S, m B, ...] to the order [m, S, B] that cohorts index into.
        examples: Examples = jax.tree.map(
            lambda x: jnp.moveaxis(
                x.reshape(
                    spec.updates, spec.num_learners, spec.batch_size, *x.shape[2:]
                ),
                1,
                0,
            ).reshape(-1, *x.shape[2:]),
            drawn,
        )
        return _cohort(spec, key, examples)

    return sample


def _check(spec: StreamSpec) -> None:
    for name, value in spec._asdict().items():
        if value < 1:
            raise ValueError(f"Expected {name}={value} >= 1.")


def _updates(spec: StreamSpec, round_index: jax.Array) -> jax.Array:
    """The stream's updates in a round, int32 `[S]`."""
    return round_index * spec.updates + jnp.arange(spec.updates, dtype=jnp.int32)


def _concept(data: StreamData, update: jax.Array) -> jax.Array:
    return jnp.sum(data.drifts <= update, dtype=jnp.int32)


def _under_concepts(
    spec: StreamSpec,
    drift: Drift,
    data: StreamData,
    updates: jax.Array,
    examples: Examples,
) -> Examples:
    """Puts each update's examples under the concept that holds then."""
    shape = (spec.num_learners, spec.updates, spec.batch_size)

    def one_update(update: jax.Array, x: Examples) -> Examples:
        flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), x)
        drifted = drift(data.key, _concept(data, update), flat)
        return jax.tree.map(lambda a, b: b.reshape(a.shape), x, drifted)

    grouped: PyTree = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), examples)
    drifted = jax.vmap(one_update, in_axes=(0, 1), out_axes=1)(updates, grouped)
    return jax.tree.map(lambda a: a.reshape(math.prod(shape), *a.shape[3:]), drifted)


def _cohort(spec: StreamSpec, key: jax.Array, examples: Examples) -> Cohort:
    """All learners, with the round's own examples `[m S B, ...]` in their order."""
    shape = (spec.num_learners, spec.updates, spec.batch_size)
    learners = jnp.arange(spec.num_learners, dtype=jnp.int32)
    clients = ClientBatches(
        client_id=learners,
        rows=jnp.arange(math.prod(shape), dtype=jnp.int32).reshape(shape),
        mask=jnp.ones(shape, bool),
        num_examples=jnp.full(
            spec.num_learners, spec.updates * spec.batch_size, jnp.int32
        ),
        active=jnp.ones(spec.num_learners, bool),
        key=jax.vmap(jax.random.fold_in, (None, 0))(key, learners),
    )
    return Cohort(examples, clients)
