"""One batch a client and round."""

import math

import jax
import numpy as np
import pytest

from fedjax_comp.data import federated_data, load
from fedjax_comp.data.minibatch import sample_minibatches

OWN = [[0, 5, 9, 11], [], [3], [7, 8]]


@pytest.fixture(scope="module")
def population():
    return federated_data(load("digits"), OWN)


def test_clients_draw_their_own_examples_uniformly(population):
    draw = jax.jit(sample_minibatches, static_argnames=("cohort_size", "batch_size"))
    cohort = draw(jax.random.key(0), population, cohort_size=4, batch_size=4000)
    clients = cohort.clients
    assert clients.rows.shape == (4, 1, 4000)
    assert clients.client_id.tolist() == [0, 1, 2, 3]
    assert clients.active.tolist() == [True, False, True, True]
    assert clients.num_examples.tolist() == [4, 0, 1, 2]
    np.testing.assert_array_equal(clients.mask[:, 0, 0], clients.active)
    for client, own in enumerate(OWN):
        rows = np.asarray(clients.rows[client]).ravel()
        if own:
            assert set(rows.tolist()) == set(own)
        # Hoeffding, below 1e-7 for each of seven counts.
        for row in own:
            share = (rows == row).mean()
            assert abs(share - 1 / len(own)) < math.sqrt(math.log(2e7) / 8000)


def test_a_part_of_the_clients_is_sampled(population):
    draw = jax.jit(sample_minibatches, static_argnames=("cohort_size", "batch_size"))
    cohort = draw(jax.random.key(1), population, cohort_size=2, batch_size=3)
    assert len(set(cohort.clients.client_id.tolist())) == 2


def test_as_many_steps_as_told_each_with_batches_of_its_own(population):
    cohort = sample_minibatches(
        jax.random.key(2), population, cohort_size=4, batch_size=5, steps=7
    )
    clients = cohort.clients
    assert clients.rows.shape == clients.mask.shape == (4, 7, 5)
    np.testing.assert_array_equal(clients.mask.all(axis=(1, 2)), clients.active)
    first = np.asarray(clients.rows[0])
    assert set(first.ravel().tolist()) == set(OWN[0])
    assert len({tuple(row) for row in first.tolist()}) > 1


def test_mistakes_are_named(population):
    with pytest.raises(ValueError, match="batch_size=0"):
        sample_minibatches(jax.random.key(0), population, cohort_size=1, batch_size=0)
    with pytest.raises(ValueError, match="steps=0"):
        sample_minibatches(
            jax.random.key(0), population, cohort_size=1, batch_size=1, steps=0
        )
    with pytest.raises(ValueError, match="cohort_size=5"):
        sample_minibatches(jax.random.key(0), population, cohort_size=5, batch_size=1)
