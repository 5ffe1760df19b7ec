"""Streams of numbered arrivals: what is skipped, and what a sample is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data.arrivals import (
    ArrivalSpec,
    arrivals,
    draw_synthetic,
    synthetic,
)


def test_minibatches_never_overlap_and_skip_what_is_lost():
    spec = ArrivalSpec(num_nodes=2, batch_size=6, discarded=2.3)
    sample = arrivals(spec, lambda data, j: Examples(j[:, None], j))
    seen = [
        np.asarray(sample(jax.random.key(0), jnp.int32(t), ()).examples.y)
        for t in (0, 1, 2, 99_999, 100_000)
    ]
    for t, numbers in zip((0, 1, 2), seen, strict=False):
        first = 6 * t + math.floor(2.3 * t)
        np.testing.assert_array_equal(numbers, np.arange(first, first + 6))
    assert seen[3][-1] < seen[4][0]


def test_samples_have_the_spectrum_and_do_not_depend_on_the_minibatch():
    data = synthetic(jax.random.key(3), [1.0, 0.5, 0.1], margin=3.0)
    count = 40_000
    examples = jax.jit(draw_synthetic)(data, jnp.arange(count))
    x = np.asarray(examples.x, np.float64)
    values = np.linalg.eigvalsh(x.T @ x / count)[::-1]
    # Sample eigenvalues of Gaussians vary by sqrt(2 / count) of themselves.
    np.testing.assert_allclose(values, [1.0, 0.5, 0.1], rtol=6 * (2 / count) ** 0.5)
    part = draw_synthetic(data, jnp.arange(17, 23))
    np.testing.assert_allclose(part.x, examples.x[17:23], rtol=1e-5, atol=1e-6)
    odds = 1 / (1 + np.exp(-x @ np.asarray(data.weights)))
    noise = np.sqrt((odds * (1 - odds)).sum())
    assert abs(np.asarray(examples.y).sum() - odds.sum()) < 5.5 * noise
    assert np.corrcoef(odds, np.asarray(examples.y))[0, 1] > 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: arrivals(ArrivalSpec(2, 3), draw_synthetic), "batch_size=3"),
        (lambda: arrivals(ArrivalSpec(1, 1, -1.0), draw_synthetic), "discarded=-1"),
        (lambda: synthetic(jax.random.key(0), [0.5, 1.0]), "falling"),
        (lambda: synthetic(jax.random.key(0), [1.0, 0.5], margin=-1.0), "margin"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
