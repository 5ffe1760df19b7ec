"""Reading ahead and writing behind: what is read is what was written last."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.client_store import empty_index
from fedjax_comp.prefetch import Prefetch

NUM_CLIENTS, COHORT = 6, 3


def slow(function, seconds):
    def later(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return later


@pytest.mark.parametrize(("reading", "writing"), [(0, 0), (0.003, 0), (0, 0.003)])
def test_a_round_sees_what_all_rounds_before_it_handed_back(
    tmp_path, monkeypatch, reading, writing
):
    # Half of all clients in every cohort: most are in several rounds running.
    monkeypatch.setattr("os.fsync", lambda file: None)
    rng = np.random.default_rng(0)
    cohorts = [rng.permutation(NUM_CLIENTS)[:COHORT] for _ in range(60)]
    counts = np.zeros(NUM_CLIENTS, np.int32)
    with Prefetch(tmp_path, jnp.int32(0), NUM_CLIENTS) as store:
        store.store.read = slow(store.store.read, reading)
        store.store.write = slow(store.store.write, writing)
        for round_index, ids in enumerate(cohorts[:-1]):
            states = store.take(ids)
            np.testing.assert_array_equal(states, counts[ids])
            store.ask(cohorts[round_index + 1], ids)
            counts[ids] += 1
            store.give(ids, jnp.asarray(states) + 1)
            if round_index % 7 == 0:
                index = store.sync()
                store.committed()
        np.testing.assert_array_equal(store.take(np.arange(NUM_CLIENTS)), counts)
        assert store.measured()["client_store_clients"] == NUM_CLIENTS
        assert 0 < store.seconds_waited < 10
        store.restore(empty_index(NUM_CLIENTS))
        np.testing.assert_array_equal(store.take(np.arange(NUM_CLIENTS)), 0 * counts)
    assert (index.slots >= 0).all()


def test_what_was_read_ahead_is_forgotten_on_restoring(tmp_path):
    first, second = np.arange(3), np.arange(2, 5)
    with Prefetch(tmp_path, jnp.int32(0), NUM_CLIENTS) as store:
        for ids in (first, second):
            store.take(ids)
            store.give(ids, jnp.ones(3, jnp.int32))
        store.ask(first, second)
        store.restore(empty_index(NUM_CLIENTS))
        np.testing.assert_array_equal(store.take(first), np.zeros(3))


def test_rows_that_a_round_was_to_hand_back_are_not_made_up(tmp_path):
    with Prefetch(tmp_path, jnp.int32(0), NUM_CLIENTS) as store:
        store.ask(np.array([1, 2]), np.array([2, 3]))
        with pytest.raises(RuntimeError, match=r"Expected give\(\) between"):
            store.take(np.array([1, 2]))


@pytest.mark.parametrize("when", ["take", "sync"])
def test_what_could_not_be_written_is_told(tmp_path, when):
    def full(ids, states):
        raise OSError(28, "No space left on device")

    ids = np.arange(COHORT)
    with Prefetch(tmp_path, jnp.int32(0), NUM_CLIENTS) as store:
        store.store.write = full
        store.give(ids, jnp.zeros(COHORT, jnp.int32))
        with pytest.raises(OSError, match="No space"):
            store.take(ids) if when == "take" else store.sync()
