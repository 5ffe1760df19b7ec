import numpy as np
import pytest

from fedjax_comp.data import federate, load, natural
from fedjax_comp.data.sources import stackoverflow

BEGIN, END = 10_001, 10_002


def sentence(*words):
    whole = np.zeros(21, np.uint16)
    marks = [BEGIN, *words, END][:21]
    whole[: len(marks)] = marks
    return whole


def write(folder, **changed):
    folder.mkdir(exist_ok=True)
    arrays = {
        "tokens": np.stack(
            [sentence(5, 6), sentence(*range(1, 21)), sentence(9), sentence(7, 10_003)]
        ),
        "user": np.array([40, 7, 40, 7]),
        "is_test": np.array([0, 0, 1, 0], np.uint8),
    }
    np.savez(folder / "stackoverflow_words.npz", **{**arrays, **changed})


def test_users_are_clients_and_a_target_is_the_next_word(tmp_path):
    write(tmp_path / "stackoverflow")
    dataset = load("stackoverflow", raw_dir=tmp_path, data_dir=tmp_path / "prepared")
    x, y = dataset.train
    assert x.shape == y.shape == (3, 20)
    assert x[0, :4].tolist() == [BEGIN, 5, 6, 0]
    assert y[0, :4].tolist() == [5, 6, END, 0]
    # Of a sentence of twenty words the end is cut off, and the last word is a target.
    assert (x[1, -1], y[1, -1]) == (19, 20)
    np.testing.assert_array_equal((y == 0), (x == 0))
    assert dataset.train_groups.tolist() == [1, 0, 0]
    assert dataset.test_groups.tolist() == [1]
    population = federate(dataset, natural(), num_clients=2, seed=0)
    assert population.spec.ignore_label == 0
    assert population.spec.max_client_size == 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tokens": np.zeros((4, 20), np.uint16)}, r"tokens uint16\[N, 21\]"),
        ({"tokens": np.full((4, 21), 10_004, np.uint16)}, "below 10004 .*, got 10004"),
        ({"user": np.zeros(4)}, "all integers"),
        ({"is_test": np.zeros(3, np.uint8)}, r"uint8\[3\]"),
    ],
)
def test_other_files_are_refused(tmp_path, changed, told):
    write(tmp_path, **changed)
    with pytest.raises(ValueError, match=told):
        stackoverflow.read_raw(tmp_path)
