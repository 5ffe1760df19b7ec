"""A synthetic stream in the shape of the forest cover data ("covertype"), which drifts.

Covertype (Blackard and Dean 1999, UCI) is a common stream: 54 columns, ten of them
measurements and the others one wilderness area out of 4 and one soil type out of 40;
seven classes of very unequal size; neighbouring rows are alike. None of its data are
here. Only its shape and the sizes of its classes are taken, and everything else is
ours, so that results on this stream hold for this stream only.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_comp.base import Examples
from fedjax_comp.data.streams import Stream, StreamSpec, drawn_stream

NUM_MEASURED, NUM_AREAS, NUM_SOILS = 10, 4, 40
NUM_FEATURES = NUM_MEASURED + NUM_AREAS + NUM_SOILS
COUNTS = (211_840, 283_301, 35_754, 2_747, 9_493, 17_367, 20_510)
"""Rows of each class of covertype."""

NUM_CLASSES = len(COUNTS)
ALIKE = 20.0
"""How near the classes of one update are to their shares in all: the sum of the
parameters of a Dirichlet distribution, so that less is further away."""

APART, PEAKED = 0.8, 1.5
"""Standard deviations of a class's measurements' means, where those of an example are 1
around them, and of the logits of its areas and soils."""


def forest_model(
    spec: StreamSpec, *, alike: float = ALIKE, apart: float = APART
) -> Stream:
    """Examples of seven classes, drawn as they arrive; a new concept has new classes.

    In a concept class `c` has means `m_c ~ N(0, apart^2)` of ten measurements, and
    probabilities `softmax(z_c)`, `z_c ~ N(0, PEAKED^2)`, of four areas and of forty
    soils. At every update the shares of the classes, the same for all learners, are
    drawn from a Dirichlet distribution around `COUNTS`: neighbours resemble each other.

    Args:
      spec: how it is cut into rounds.
      alike: how near an update's shares are to those of all; more than 0.
      apart: how far classes are from each other; at least 0.

    Returns:
      A `Stream` over `synthetic_data`; inputs are float32 `[54]`, the last 44 of 0
      and 1, labels int32 in 0, ..., 6.

    Raises:
      ValueError: for a number that is not as above.

    >>> from fedjax_comp.data.streams import drift_times, synthetic_data
    >>> data = synthetic_data(drifts=drift_times(9, 1, seed=0), seed=0)
    >>> stream = forest_model(StreamSpec(num_learners=2, updates=1, batch_size=3))
    >>> key, time = jax.random.key(0), jnp.int32(0)
    >>> jax.eval_shape(stream, key, time, data).examples.x.shape
    (6, 54)
    """
    if not (math.isfinite(alike) and alike > 0):
        raise ValueError(f"Expected a finite alike={alike} > 0.")
    if not (math.isfinite(apart) and apart >= 0):
        raise ValueError(f"Expected a finite apart={apart} >= 0.")
    shares = jnp.array(COUNTS, jnp.float32) / sum(COUNTS)

    def draw(concept_key: jax.Array, example_key: jax.Array, count: int) -> Examples:
        mean_key, area_key, soil_key = jax.random.split(concept_key, 3)
        means = apart * jax.random.normal(mean_key, (NUM_CLASSES, NUM_MEASURED))
        logits = [
            PEAKED * jax.random.normal(key, (NUM_CLASSES, size))
            for key, size in ((area_key, NUM_AREAS), (soil_key, NUM_SOILS))
        ]
        share_key, label_key, *keys = jax.random.split(example_key, 5)
        local = jax.random.dirichlet(share_key, alike * shares)
        y = jax.random.categorical(label_key, jnp.log(local), shape=(count,))
        measured = means[y] + jax.random.normal(keys[0], (count, NUM_MEASURED))
        chosen = [
            jax.nn.one_hot(jax.random.categorical(key, table[y]), table.shape[1])
            for key, table in zip(keys[1:], logits, strict=True)
        ]
        x = jnp.concatenate([measured, *chosen], axis=1)
        return Examples(x.astype(jnp.float32), y.astype(jnp.int32))

    return drawn_stream(spec, draw)
