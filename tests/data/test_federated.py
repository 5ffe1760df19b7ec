import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data import (
    Assignment,
    Dataset,
    DataSpec,
    InvalidData,
    federate,
    federated_data,
    from_lists,
    iid,
    load,
    natural,
)


def small(num_train=6, groups=None):
    return Dataset(
        name="small",
        train=Examples(
            np.arange(num_train * 4, dtype=np.uint8).reshape(num_train, 2, 2),
            np.arange(num_train, dtype=np.int32) % 3,
        ),
        test=Examples(np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.int32)),
        train_groups=groups,
        test_groups=None,
        num_classes=3,
        scale=1 / 255,
    )


def num_bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_memory_of_more_clients_is_index_lists_only():
    dataset = load("digits")
    few = federate(dataset, iid(size=14), num_clients=1000, seed=0)
    many = federate(dataset, iid(size=14), num_clients=100_000, seed=0)
    assert num_bytes(few.examples) == num_bytes(many.examples) == 1437 * (64 + 4)
    assert num_bytes(few.test) == num_bytes(many.test)
    more_clients = 100_000 - 1000
    assert num_bytes(many) - num_bytes(few) == more_clients * (14 * 4 + 4)


def test_one_long_list_costs_nothing_but_itself():
    dataset = small(100)
    equal = federated_data(dataset, [range(i, i + 10) for i in range(0, 100, 10)])
    skewed = federated_data(dataset, [range(91), *([i] for i in range(91, 100))])
    assert skewed.spec.max_client_size == 91
    assert num_bytes(equal) == num_bytes(skewed)


def test_what_is_stored_is_what_was_given():
    dataset = small(groups=np.array([4, 8, 4, 4, 8, 4]))
    data = federate(dataset, natural(), num_clients=0, seed=0)
    assert data.spec == DataSpec(
        name="small",
        num_classes=3,
        input_shape=(2, 2),
        scale=1 / 255,
        ignore_label=None,
        num_clients=2,
        max_client_size=4,
        num_train=6,
        num_test=2,
    )
    assert data.examples.x.dtype == jnp.uint8
    np.testing.assert_array_equal(data.examples.x, dataset.train.x)
    np.testing.assert_array_equal(data.order, [0, 2, 3, 5, 1, 4])
    np.testing.assert_array_equal(data.offsets, [0, 4, 6])


def test_the_spec_is_static():
    data = federated_data(small(), [[0], [1, 2]])
    assert jax.tree.leaves(data.spec) == []
    sizes = []
    jax.jit(lambda d: sizes.append(d.spec.max_client_size) or d.order)(data)
    assert sizes == [2]


def test_clients_may_share_examples_and_be_empty():
    data = federated_data(small(), [[0, 1], [], [1, 0]])
    assert data.offsets.tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ([], "num_clients=0"),
        ([[], []], "all 2 clients are empty"),
        ([[0, 6]], r"index=6 in \[0, 6\)"),
        ([[0], [-1, 2]], r"index=-1 in \[0, 6\)"),
        ([[0], [3, 2, 3]], "client 1 to hold example 3 once"),
        (Assignment(np.arange(3), np.array([0, 2])), "rise from 0 to 3"),
        (Assignment(np.arange(3), np.array([0, 2, 1, 3])), "rise from 0 to 3"),
    ],
)
def test_errors_name_the_value(clients, message):
    with pytest.raises(ValueError, match=message):
        federated_data(small(), clients)


def test_inputs_and_labels_must_agree():
    dataset = small()
    broken = dataset._replace(train=Examples(dataset.train.x[:-1], dataset.train.y))
    with pytest.raises(ValueError, match="training examples of small, got 5 and 6"):
        federated_data(broken, [[0]])


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        federate(small(), iid(), num_clients=1, seed=-1)


def test_a_partition_of_ones_own_gives_as_many_lists_as_were_asked():
    digits = load("digits")

    def two(labels, groups, num_clients, rng):
        return from_lists([[0, 1], [2]])

    assert federate(digits, two, num_clients=2, seed=0).spec.num_clients == 2
    with pytest.raises(ValueError, match=r"num_clients=3 lists from the .* got 2"):
        federate(digits, two, num_clients=3, seed=0)
    with pytest.raises(ValueError, match=r"Assignment .* got list; from_lists\(...\)"):
        federate(digits, lambda *_: [[0, 1], [2]], num_clients=2, seed=0)


def test_what_is_no_data_set_or_list_is_said():
    with pytest.raises(InvalidData, match="Expected a Dataset, not 'digits'"):
        federate("digits", iid(), num_clients=2, seed=0)
    with pytest.raises(ValueError, match="index list of client 0"):
        federated_data(load("digits"), [0, 1, 2])
