"""The synthetic forest: its shape, its classes, and what a drift changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.data.forest_stream import COUNTS, NUM_CLASSES, forest_model
from fedjax_comp.data.streams import StreamSpec, synthetic_data

UPDATES, COUNT = 400, 100
DATA = synthetic_data(drifts=np.array([UPDATES // 2], np.int32), seed=3)
STREAM = jax.jit(forest_model(StreamSpec(4, UPDATES, COUNT // 4)))


def drawn():
    """All examples, `[updates, count, ...]`, the learners' side by side."""
    cohort = STREAM(jax.random.key(0), jnp.int32(0), DATA)
    rows = np.moveaxis(np.asarray(cohort.clients.rows), 0, 1).reshape(UPDATES, COUNT)
    return np.asarray(cohort.examples.x)[rows], np.asarray(cohort.examples.y)[rows]


def test_columns_and_classes_are_those_of_covertype():
    x, y = drawn()
    assert x.shape[-1] == 54
    for first, last in ((10, 14), (14, 54)):
        np.testing.assert_array_equal(x[..., first:last].sum(-1), 1)
    assert set(np.unique(x[..., 10:])) == {0.0, 1.0}
    # Shares differ between updates by a Dirichlet distribution of sum 20 and are right
    # on average: the variance of a mean over updates is p (1 - p) / 21, and the draws'.
    counts = np.stack([(y == c).mean(1) for c in range(NUM_CLASSES)], axis=1)
    expected = np.array(COUNTS) / sum(COUNTS)
    spread = expected * (1 - expected)
    error = np.sqrt((spread / 21 + spread / COUNT) / UPDATES)
    assert (np.abs(counts.mean(0) - expected) < 6 * error).all()  # 7 looks: below 1e-6
    # Neighbours resemble each other far beyond what draws from all would.
    assert counts.var(0)[:2].min() > 3 * (spread / COUNT)[:2].max()


def test_a_drift_moves_the_classes():
    x, y = drawn()
    half = UPDATES // 2
    quarter = half // 2

    def mean(part):
        chosen = x[part][y[part] == 1]
        return chosen[:, :10].mean(0)

    first, still, after = (
        mean(slice(a, a + quarter)) for a in (0, quarter, 2 * quarter)
    )
    # Standard errors near 1 / sqrt(4,900); classes move by sqrt(2) 0.8 a measurement.
    assert np.abs(first - still).max() < 0.15
    assert np.abs(first - after).max() > 0.5


@pytest.mark.thorough
def test_a_round_is_cut_anywhere():
    one = forest_model(StreamSpec(4, 1, COUNT // 4))
    whole = STREAM(jax.random.key(0), jnp.int32(0), DATA)
    part = one(jax.random.key(9), jnp.int32(7), DATA)
    rows = whole.clients.rows[:, 7].reshape(-1)
    np.testing.assert_allclose(part.examples.x, whole.examples.x[rows], atol=1e-6)
    np.testing.assert_array_equal(part.examples.y, whole.examples.y[rows])


def test_mistakes():
    spec = StreamSpec(1, 1, 1)
    with pytest.raises(ValueError, match="alike=0"):
        forest_model(spec, alike=0)
    with pytest.raises(ValueError, match="apart=-1"):
        forest_model(spec, apart=-1)
    with pytest.raises(ValueError, match="batch_size=0"):
        forest_model(spec._replace(batch_size=0))
