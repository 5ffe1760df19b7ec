"""Balanced clusters: bounds on all examples, limit cases, and the partition."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedjax_comp.data import clusters, federate, load
from fedjax_comp.data.clusters import (
    SizeBounds,
    balanced_assignment,
    balanced_clusters,
    k_means_plus_plus,
    size_bounds,
    squared_distances,
)
from fedjax_comp.experiment.expressions import build


def rng():
    return np.random.default_rng(0)


@st.composite
def problems(draw):
    clusters_ = draw(st.integers(1, 7))
    examples = draw(st.integers(clusters_, 60))
    replication = draw(st.integers(1, clusters_))
    share = replication / clusters_
    smallest = draw(st.one_of(st.none(), st.floats(0, share)))
    largest = draw(st.one_of(st.none(), st.floats(share, 1)))
    seed = draw(st.integers(0, 2**16))
    ties = draw(st.booleans())
    return clusters_, examples, replication, smallest, largest, seed, ties


@settings(max_examples=200, deadline=None)
@given(problems())
def test_sizes_keep_their_bounds_on_all_examples(problem):
    count, examples, replication, smallest, largest, seed, ties = problem
    options = {"replication": replication, "smallest": smallest, "largest": largest}
    try:
        bounds = size_bounds(examples, count, **options)
    except ValueError:
        assume(False)  # whole examples cannot always meet fractions; then it is said
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(examples, 2)).astype(np.float32)
    if ties:
        x = np.round(x)
    sample = max(count, examples // 2)
    try:
        made = balanced_clusters(x, count, generator, sample_size=sample, **options)
    except ValueError:
        assume(False)  # the same, for the sample
    sizes = made.chosen.sum(0)
    assert bounds.lower <= sizes.min()
    assert sizes.max() <= bounds.upper
    assert (made.chosen.sum(1) == replication).all()


def test_loose_bounds_leave_the_nearest():
    distances = rng().random((50, 6))
    chosen = balanced_assignment(distances, SizeBounds(0, 50), replication=2)
    nearest = np.argsort(distances, 1)[:, :2]
    np.testing.assert_array_equal(
        np.sort(nearest, 1), np.argwhere(chosen)[:, 1].reshape(50, 2)
    )


def test_tight_bounds_cost_little_more_than_the_best():
    """Against all assignments of six examples to three clusters of two."""
    ratios = []
    for seed in range(20):
        distances = np.random.default_rng(seed).random((6, 3))
        chosen = balanced_assignment(distances, SizeBounds(2, 2))
        best = min(
            distances[np.arange(6), list(owners)].sum()
            for owners in itertools.product(range(3), repeat=6)
            if np.bincount(owners, minlength=3).tolist() == [2, 2, 2]
        )
        ratios.append(distances[chosen].sum() / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.15


def test_distances_and_seeds():
    x = rng().normal(size=(40, 3)).astype(np.float32)
    plain = ((x[:, None] - x[None, :5]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(x, x[:5]), plain, atol=1e-4)
    # Three far groups: a seed in each, since odds within a chosen one are nearly zero.
    groups = np.repeat(np.eye(3, dtype=np.float32) * 1e3, 5, axis=0)
    seeds = k_means_plus_plus(groups, 3, rng())
    assert set(seeds.argmax(1).tolist()) == {0, 1, 2}
    # More seeds than distinct rows: some repeat, none is NaN.
    assert np.isfinite(k_means_plus_plus(groups, 5, rng())).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10, 3), {"replication": 4}, "replication=4 <= 3 machines"),
        ((10, 3), {"replication": 0}, "replication=0"),
        ((10, 0), {}, "num_clusters=0"),
        ((10, 2), {"smallest": 0.6, "largest": 0.5}, "smallest=0.6"),
        ((10, 2), {"smallest": 0.6}, "past the fair share"),
        ((10, 4), {"largest": 0.2}, "past the fair share"),
    ],
)
def test_impossible_bounds_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        size_bounds(*arguments, **options)


def test_clusters_is_a_partition_for_every_experiment():
    made = build("partition", "clusters(2, smallest=0.2, largest=0.6)")
    digits = load("digits")
    data = federate(digits, made, num_clients=5, seed=0)
    sizes = np.diff(data.offsets)
    assert data.spec.num_clients == 5
    assert sizes.sum() == 2 * 1437
    assert sizes.min() >= 0.2 * 1437
    assert sizes.max() <= 0.6 * 1437
    # Clusters look at inputs alone, and find labels: far more of one than at random.
    one = federate(digits, clusters(), num_clients=10, seed=0)
    parts = np.split(np.asarray(one.order), np.asarray(one.offsets[1:-1]))
    purity = sum(np.bincount(digits.train.y[part]).max() for part in parts) / 1437
    assert purity > 0.5
    for text in ("clusters(0)", "clusters(sample_size=0)"):
        with pytest.raises(ValueError, match="=0"):
            build("partition", text)


def test_stored_bytes_are_clustered_as_the_numbers_that_they_are():
    x = np.random.default_rng(0).integers(0, 256, (400, 64)).astype(np.uint8)
    found = [
        balanced_clusters(x.astype(dtype), 8, np.random.default_rng(1))
        for dtype in (np.float32, np.uint8)
    ]
    np.testing.assert_array_equal(found[0].chosen, found[1].chosen)
    np.testing.assert_allclose(found[0].centres, found[1].centres, rtol=1e-5)


def test_distances_beyond_float32_are_refused():
    x = 1e20 * rng().normal(size=(20, 3)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        distances = squared_distances(x, x[:4])
    assert not np.isfinite(distances).all()
    with pytest.raises(ValueError, match="beyond float32; scale them"):
        balanced_assignment(distances, SizeBounds(5, 5))
