"""Clients drawn by their sizes: chances, distinctness, and an unbiased mean."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.data import (
    federated_data,
    load,
    sample_cohort,
    sample_minibatches,
)
from fedjax_comp.data.client_sampling import sample_by_size
from fedjax_comp.training import minibatch_cohorts, uniform_cohorts

SIZES = np.array([40, 0, 10, 30, 5, 60, 25, 30])
OFFSETS = jnp.asarray(np.concatenate([[0], np.cumsum(SIZES)]), jnp.int32)
COHORT, DRAWS = 3, 20_000


def draw(keys):
    one = lambda key: sample_by_size(  # noqa: E731
        key, OFFSETS, COHORT, total=int(SIZES.sum()), largest=int(SIZES.max())
    )
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_chances_are_in_proportion_and_nobody_is_drawn_twice():
    ids = draw(jax.random.split(jax.random.key(0), DRAWS))
    assert all(len(set(row)) == COHORT for row in ids.tolist())
    counts = np.bincount(ids.ravel(), minlength=len(SIZES))
    assert counts[1] == 0
    # Hoeffding for each of eight counts: 1e-7 in all.
    bound = math.sqrt(DRAWS * math.log(2 * 8 / 1e-7) / 2)
    expected = COHORT * SIZES / SIZES.sum()
    assert (abs(counts - DRAWS * expected) < bound).all()
    # A planted fault: what a uniform draw would give lies outside for the largest.
    assert abs(DRAWS * COHORT / 7 - DRAWS * expected[5]) > bound


def test_the_plain_mean_is_an_unbiased_one_of_the_weighted_mean():
    values = np.random.default_rng(0).uniform(-1, 1, len(SIZES))
    ids = draw(jax.random.split(jax.random.key(1), DRAWS))
    means = values[ids].mean(1)
    bound = math.sqrt(2 * math.log(2 / 1e-7) / DRAWS)  # of means in [-1, 1]
    assert abs(means.mean() - SIZES @ values / SIZES.sum()) < bound


def test_all_are_drawn_where_all_hold_alike():
    ids = sample_by_size(
        jax.random.key(0), jnp.arange(0, 50, 10), 4, total=40, largest=10
    )
    assert sorted(ids.tolist()) == [0, 1, 2, 3]


def test_a_client_that_is_too_large_is_named():
    with pytest.raises(
        ValueError, match=r"cohort_size=4 in \[1, 3\] .* holds 60 of 200"
    ):
        sample_by_size(jax.random.key(0), OFFSETS, 4, total=200, largest=60)


@pytest.mark.parametrize(
    "make",
    [
        lambda **own: uniform_cohorts(epochs=1, batch_size=2, **own),
        lambda **own: minibatch_cohorts(steps=2, batch_size=2, **own),
    ],
)
def test_samplers_let_those_who_are_drawn_count_alike(make):
    data = federated_data(load("digits"), [[0, 1, 2, 3], [4, 5], [], [6, 7, 8, 9]])
    sample = jax.jit(make(cohort_size=2, by_size=True))
    clients = sample(jax.random.key(0), jnp.int32(0), data).clients
    assert clients.num_examples.tolist() == [1, 1]
    assert 2 not in clients.client_id.tolist()
    plain = jax.jit(make(cohort_size=2))(jax.random.key(0), jnp.int32(0), data)
    assert set(plain.clients.num_examples.tolist()) <= {0, 2, 4}


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("sample", [sample_cohort, sample_minibatches])
def test_a_cohort_is_of_whole_clients(sample, by_size):
    data = federated_data(load("digits"), [[0, 5], [1, 2], [3, 4]])
    options = {"epochs": 1} if sample is sample_cohort else {}
    with pytest.raises(ValueError, match=r"cohort_size=1\.5, an integer"):
        sample(
            jax.random.key(0),
            data,
            cohort_size=1.5,
            batch_size=1,
            by_size=by_size,
            **options,
        )
