"""Rows on disk against a dict, with crashes at every byte that is written."""

import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.client_store import (
    NOWHERE,
    PAGE,
    ClientStore,
    Index,
    empty_index,
)
from fedjax_comp.run_directory import RunDirectoryError

NUM_CLIENTS = 4
TEMPLATE = {
    "error": jnp.array([1.5, -2.0], jnp.bfloat16),
    "nothing": jnp.zeros((0, 3)),
    "seen": jnp.bool_(False),
    "step": jnp.int32(7),
}


def states_of(ids, numbers):
    """States that tell whose they are, and when they were written."""
    return {
        "error": jnp.stack(
            [jnp.array([i, n], jnp.bfloat16) for i, n in zip(ids, numbers, strict=True)]
        ),
        "nothing": jnp.zeros((len(ids), 0, 3)),
        "seen": jnp.ones(len(ids), bool),
        "step": jnp.array(numbers, jnp.int32),
    }


def is_row(states, place, client, number):
    if number is None:
        expected = jax.tree.map(np.asarray, TEMPLATE)
    else:
        expected = jax.tree.map(
            lambda x: np.asarray(x[0]), states_of([client], [number])
        )
    found = jax.tree.map(lambda x: x[place], states)
    for new, old in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        np.testing.assert_array_equal(new, old)


def all_rows_are_there(path, index, rows):
    """A kept checkpoint is whole, read from a copy of the file."""
    copy = path.parent / "copy"
    copy.mkdir(exist_ok=True)
    (copy / path.name).write_bytes(path.read_bytes())
    with ClientStore(copy, TEMPLATE, NUM_CLIENTS) as store:
        store.restore(index)
        states = store.read(np.arange(NUM_CLIENTS))
    for client in range(NUM_CLIENTS):
        is_row(states, client, client, rows.get(client))


class Killed(BaseException):
    """The process is no more."""


class Disk:
    """`os.pwrite` that is killed once so many bytes have been written."""

    def __init__(self):
        self.left = None
        self._pwrite = os.pwrite

    def pwrite(self, file, data, offset):
        if self.left is None:
            return self._pwrite(file, data, offset)
        if self.left < len(data):
            self._pwrite(file, data[: self.left], offset)
            raise Killed
        self.left -= len(data)
        return self._pwrite(file, data, offset)


@st.composite
def histories(draw):
    """Cohorts that are written, and checkpoints; and when each is killed."""
    row = 2 * 2 + 1 + 4
    cohorts = st.lists(
        st.integers(0, NUM_CLIENTS - 1), min_size=1, max_size=4, unique=True
    )
    killed = st.one_of(*[st.none()] * 4, st.integers(0, 4 * row))
    writes = st.tuples(st.just("write"), cohorts, killed)
    # Killed before the checkpoint is there, after it, or not at all; and then the
    # newest one may turn out to be damaged.
    kinds = st.sampled_from([None, None, None, "before", "after"])
    checkpoints = st.tuples(st.just("checkpoint"), kinds, st.booleans())
    return draw(st.lists(writes | checkpoints, max_size=25))


@pytest.mark.thorough
@given(histories())
@settings(deadline=None, max_examples=100)
def test_a_kept_checkpoint_finds_its_rows_whenever_the_run_is_killed(
    tmp_path_factory, history
):
    directory = tmp_path_factory.mktemp("store")
    kept: list[tuple[Index, dict[int, int]]] = []
    model: dict[int, int] = {}
    disk = Disk()

    def resumed(newest_is_damaged=False):
        if newest_is_damaged and len(kept) > 1:
            kept.pop()
        index, rows = kept[-1] if kept else (empty_index(NUM_CLIENTS), {})
        new = ClientStore(directory, TEMPLATE, NUM_CLIENTS)
        # What comes back from a checkpoint cannot be written to.
        new.restore(jax.tree.map(jnp.asarray, index))
        return new, dict(rows)

    # A killed process loses nothing that it wrote: syncing only takes time here.
    with mock.patch("os.pwrite", disk.pwrite), mock.patch("os.fsync"):
        store, model = resumed()
        for number, (operation, what, more) in enumerate(history):
            dies, damaged = False, False
            if operation == "write":
                disk.left = more
                try:
                    store.write(np.array(what), states_of(what, [number] * len(what)))
                    model |= dict.fromkeys(what, number)
                except Killed:
                    dies = True
                disk.left = None
            else:
                index, damaged = store.sync(), more
                if what != "before":
                    kept = [*kept[-1:], (index, dict(model))]
                if what is None:
                    store.committed()
                dies = what is not None
            if dies:
                store.close()
                store, model = resumed(damaged)
            everyone = np.arange(NUM_CLIENTS)
            states = store.read(everyone)
            for client in range(NUM_CLIENTS):
                is_row(states, client, client, model.get(client))
            assert store.num_rows == len(model)
            for index, rows in kept:
                all_rows_are_there(store.path, index, rows)
        store.close()


def test_rows_that_no_checkpoint_needs_are_used_again(tmp_path):
    everyone = np.arange(NUM_CLIENTS)
    index = empty_index(NUM_CLIENTS)
    for number in range(12):
        if number % 4 == 0:  # killed, again and again
            store = ClientStore(tmp_path, TEMPLATE, NUM_CLIENTS)
            store.restore(index)
        for _ in range(3):
            store.write(everyone, states_of(everyone, [number] * NUM_CLIENTS))
        if number % 4 != 3:
            index = store.sync()
            store.committed()
        # Two checkpoints and the run each have a row of a client.
        assert store.path.stat().st_size <= 3 * NUM_CLIENTS * PAGE


def written(directory, ids=(0, 3)):
    store = ClientStore(directory, TEMPLATE, NUM_CLIENTS)
    store.write(np.array(ids), states_of(ids, [1] * len(ids)))
    return store


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("place", range(9))
def test_a_damaged_row_is_named(tmp_path, place):
    store = written(tmp_path)
    flip(store.path, PAGE + place)
    is_row(store.read(np.array([0])), 0, 0, 1)
    with pytest.raises(RunDirectoryError, match=r"state of client 3 .*CRC-32") as told:
        store.read(np.array([0, 3]))
    assert "\n" not in str(told.value)


def test_a_row_of_another_client_and_a_row_of_before_are_damaged(tmp_path):
    store = written(tmp_path)
    before = store.path.read_bytes()
    store.path.write_bytes(before[PAGE:] + bytes(PAGE - 9) + before[PAGE:])
    with pytest.raises(RunDirectoryError, match="client 0 "):
        store.read(np.array([0]))
    store.path.write_bytes(before)
    store.write(np.array([0]), states_of([0], [2]))
    store.path.write_bytes(before)  # a write that the disk has lost
    with pytest.raises(RunDirectoryError, match="client 0 "):
        store.read(np.array([0]))


def test_a_file_that_is_too_short_is_damaged(tmp_path):
    store = written(tmp_path)
    os.truncate(store.path, PAGE + 3)
    with pytest.raises(RunDirectoryError, match=r"client 3 .*3 of 9 bytes"):
        store.read(np.array([3]))


def test_a_disk_that_takes_a_part_of_a_row_is_asked_again(tmp_path):
    whole = os.pwrite
    with mock.patch("os.pwrite", lambda file, data, at: whole(file, data[:2], at)):
        store = written(tmp_path)
    is_row(store.read(np.array([3])), 0, 3, 1)


def test_a_full_disk_is_told_with_the_file(tmp_path):
    def full(file, data, offset):
        raise OSError(28, "No space left on device")

    with (
        mock.patch("os.pwrite", full),
        pytest.raises(OSError, match="No space") as told,
    ):
        written(tmp_path)
    assert told.value.filename == str(tmp_path / "clients.rows")


def test_a_checkpoint_waits_for_the_disk(tmp_path):
    store = written(tmp_path)
    with mock.patch("os.fsync") as fsync:
        fsync.side_effect = lambda file: synced.append(os.fstat(file).st_ino)
        synced: list[int] = []
        store.sync()
    assert synced == [store.path.stat().st_ino, tmp_path.stat().st_ino]


def test_who_never_took_part_takes_no_space(tmp_path):
    store = ClientStore(tmp_path, TEMPLATE, 1_000_000)
    store.write(np.array([999_999]), states_of([9], [1]))
    assert store.num_rows == 1
    assert store.path.stat().st_size == store.row_bytes == 9
    index = store.sync()
    assert (index.slots != NOWHERE).sum() == 1
    assert store.read(np.zeros(0, np.int32))["error"].shape == (0, 2)


def test_states_without_anything_and_states_of_keys(tmp_path):
    store = ClientStore(tmp_path, (), 3)
    store.write(np.array([1]), ())
    assert store.read(np.array([1, 2])) == ()
    assert store.path.stat().st_size == 0
    with pytest.raises(ValueError, match=r"got key<fry>.*on the device"):
        ClientStore(tmp_path, jax.random.key(0), 3)


def test_a_row_may_be_read_in_parts(tmp_path, monkeypatch):
    # Linux gives no more than 2 GiB a call.
    real = os.preadv
    with ClientStore(tmp_path, TEMPLATE, NUM_CLIENTS) as store:
        ids, written = np.array([2]), states_of([2], [5])
        store.write(ids, written)

        def short(file, buffers, start):
            return real(file, [memoryview(buffers[0])[:3]], start)

        monkeypatch.setattr(os, "preadv", short)
        found = store.read(ids)
    jax.tree.map(np.testing.assert_array_equal, found, written)
