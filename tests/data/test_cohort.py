import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_comp.data import (
    federate,
    iid,
    load,
    make_batches,
    sample_clients,
    sample_cohort,
)

FALSE_ALARM = 1e-7


@functools.partial(jax.jit, static_argnames=("max_client_size", "epochs", "batch_size"))
def batches_of(key, order, offsets, ids, **static):
    return make_batches(key, order, offsets, ids, **static)


def csr(sizes, seed=0):
    order = np.random.default_rng(seed).permutation(sum(sizes) + 3)[: sum(sizes)]
    return jnp.asarray(order, jnp.int32), jnp.asarray(
        np.concatenate([[0], np.cumsum(sizes)]), jnp.int32
    )


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [
        ((5, 0, 12, 1), 4),
        ((5, 0, 12, 1), 0),
        ((300, 0, 299, 257), 7),
        ((300, 0, 299, 257), 10_000),
        ((1,), 1),
    ],
)
def test_an_epoch_is_a_permutation_of_the_clients_own(sizes, batch_size):
    order, offsets = csr(sizes)
    longest, epochs = max(sizes), 3
    ids = jnp.asarray(np.arange(len(sizes))[::-1].copy(), jnp.int32)
    got = batches_of(
        jax.random.key(1),
        order,
        offsets,
        ids,
        max_client_size=longest,
        epochs=epochs,
        batch_size=batch_size,
    )
    width = min(batch_size, longest) or longest
    steps = -(-longest // width)
    assert got.rows.shape == got.mask.shape == (len(sizes), epochs * steps, width)
    assert got.rows.dtype == jnp.int32
    for row, client in enumerate(ids.tolist()):
        own = np.asarray(order[offsets[client] : offsets[client + 1]])
        index = np.asarray(got.rows[row]).reshape(epochs, -1)
        mask = np.asarray(got.mask[row]).reshape(epochs, -1)
        for e in range(epochs):
            assert mask[e].tolist() == [j < len(own) for j in range(mask.shape[1])]
            np.testing.assert_array_equal(np.sort(index[e][mask[e]]), np.sort(own))
            assert (index[e][~mask[e]] == 0).all()
        assert got.client_id[row] == client
        assert got.num_examples[row] == len(own)
        assert bool(got.active[row]) == (len(own) > 0)


def test_shuffles_are_uniform_and_epochs_independent():
    # Joint distribution of the orders of 4 examples, padded to 6, in two epochs.
    clients = 20_000
    order = jnp.arange(4, dtype=jnp.int32)
    offsets = jnp.asarray([0, 4], jnp.int32)
    one = functools.partial(make_batches, max_client_size=6, epochs=2, batch_size=6)
    keys = jax.random.split(jax.random.key(0), clients)
    zero = jnp.zeros(1, jnp.int32)
    got = jax.jit(jax.vmap(lambda key: one(key, order, offsets, zero)))(keys)
    orders = np.asarray(got.rows)[:, 0, :, :4]
    names = {p: i for i, p in enumerate(itertools.permutations(range(4)))}
    first, second = (
        np.array([names[tuple(o)] for o in orders[:, e].tolist()]) for e in (0, 1)
    )
    cells = np.bincount(first * 24 + second, minlength=576)
    assert stats.chisquare(cells).pvalue > FALSE_ALARM


def test_long_shuffles_put_every_example_everywhere():
    # More than 256 examples take several rounds of sorting.
    size, clients = 300, 6000
    order = jnp.tile(jnp.arange(size, dtype=jnp.int32), clients)
    offsets = jnp.arange(clients + 1, dtype=jnp.int32) * size
    got = batches_of(
        jax.random.key(5),
        order,
        offsets,
        jnp.arange(clients, dtype=jnp.int32),
        max_client_size=size,
        epochs=1,
        batch_size=0,
    )
    index = np.asarray(got.rows)[:, 0]
    for column in (0, size // 2, size - 1):
        counts = np.bincount(index[:, column], minlength=size)
        assert stats.chisquare(counts).pvalue > FALSE_ALARM
    # Fixed points have mean 1 and variance 1; with rounds alike there would be twice as
    # many, since the square of a permutation keeps what its cycles of two exchange.
    fixed_points = int((index == np.arange(size)).sum())
    bound = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(fixed_points - clients) < bound * np.sqrt(clients)
    # Neighbours in storage are not kept in order: each precedes the next half the time.
    position = np.argsort(index, axis=1)
    ascending = int((position[:, 0] < position[:, 1]).sum())
    assert stats.binomtest(ascending, clients).pvalue > FALSE_ALARM


def test_ties_of_a_very_long_shuffle_do_not_keep_the_stored_order():
    # Ascents of a random permutation of n: mean (n - 1) / 2, variance (n + 1) / 12.
    # One round has 16 random bits here: some n^2 / 2^17 ties would be ascents.
    size = 60_000
    got = batches_of(
        jax.random.key(0),
        jnp.arange(size, dtype=jnp.int32),
        jnp.asarray([0, size], jnp.int32),
        jnp.zeros(1, jnp.int32),
        max_client_size=size,
        epochs=1,
        batch_size=0,
    )
    ascents = int((np.diff(np.asarray(got.rows).reshape(-1)) > 0).sum())
    bound = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(ascents - (size - 1) / 2) < bound * np.sqrt((size + 1) / 12)


def test_a_clients_batches_do_not_depend_on_the_cohort():
    order, offsets = csr((7, 3, 9))
    static = {"max_client_size": 9, "epochs": 2, "batch_size": 4}
    key = jax.random.key(2)
    all_three = batches_of(key, order, offsets, jnp.array([0, 1, 2]), **static)
    last = batches_of(key, order, offsets, jnp.array([2]), **static)
    np.testing.assert_array_equal(all_three.rows[2], last.rows[0])
    other = batches_of(jax.random.key(3), order, offsets, jnp.array([2]), **static)
    assert not np.array_equal(last.rows, other.rows)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_client_size": 0}, "max_client_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_batches_errors_name_the_value(changed, message):
    static = {"max_client_size": 3, "epochs": 1, "batch_size": 1} | changed
    with pytest.raises(ValueError, match=message):
        make_batches(jax.random.key(0), *csr((3,)), jnp.array([0]), **static)


def test_samples_are_uniform_ordered_triples():
    keys = jax.random.split(jax.random.key(0), 24_000)
    got = np.asarray(jax.jit(jax.vmap(lambda k: sample_clients(k, 6, 3)))(keys))
    assert got.dtype == np.int32
    names = {p: i for i, p in enumerate(itertools.permutations(range(6), 3))}
    cells = np.bincount([names[tuple(t)] for t in got.tolist()], minlength=120)
    assert stats.chisquare(cells).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("num_clients", "cohort_size"), [(1, 1), (5, 5), (100, 100), (100_000, 1000)]
)
def test_samples_are_without_replacement(num_clients, cohort_size):
    got = np.asarray(sample_clients(jax.random.key(0), num_clients, cohort_size))
    assert len(set(got.tolist())) == cohort_size
    assert got.min() >= 0
    assert got.max() < num_clients


@pytest.mark.parametrize("cohort_size", [0, 6])
def test_sample_errors_name_the_value(cohort_size):
    with pytest.raises(ValueError, match=f"cohort_size={cohort_size} .*num_clients=5"):
        sample_clients(jax.random.key(0), 5, cohort_size)


def test_a_population_goes_through_jit_as_it_is():
    data = federate(load("digits"), iid(), num_clients=50, seed=0)
    traces = []

    @jax.jit
    def chosen(key, data):
        traces.append(key)
        return sample_cohort(key, data, cohort_size=5, epochs=2, batch_size=8)

    cohort = chosen(jax.random.key(0), data)
    assert cohort.clients.rows.shape == (5, 2 * 4, 8)
    assert cohort.examples.x.dtype == jnp.uint8
    labels = cohort.examples.y[cohort.clients.rows]
    assert labels.shape == (5, 8, 8)
    chosen(jax.random.key(1), data)
    assert len(traces) == 1
