"""Accuracy a client: held against a loop of NumPy over clients, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.client_evaluation import (
    ClientAccuracy,
    accuracy_facts,
    client_evaluation_program,
    held_out_blocks,
    in_blocks,
    training_blocks,
    worst_tenth,
)
from fedjax_comp.data import Dataset, federate, federated_data, iid, natural
from fedjax_comp.execution import auto, chunked, scanned, vmapped
from fedjax_comp.models import classification
from fedjax_comp.models.network import Network
from tests.problems import NUM_CLASSES, make_examples, softmax_task

TASK = softmax_task()
LISTS = [[4, 9, 1], [], [7], list(range(10, 33))]
GROUPS = np.repeat([5, 2, 9, 7], [20, 1, 13, 26])
TEST_GROUPS = np.array([9] * 4 + [3] * 5 + [2] * 6 + [5] * 15 + [9] * 30)


def dataset(groups=GROUPS, test_groups=TEST_GROUPS):
    train, test = (
        jax.tree.map(np.asarray, make_examples(60, seed=seed)) for seed in (0, 1)
    )
    return Dataset("written", train, test, groups, test_groups, NUM_CLASSES, 1.0)


def by_loop(params, examples, lists):
    """Accuracy, loss and count of every client, one after another."""
    found = []
    for rows in lists:
        own = jax.tree.map(lambda x, rows=rows: x[np.asarray(rows, int)], examples)
        if not len(rows):
            found.append((np.nan, np.nan, 0))
            continue
        sums = TASK.evaluate(params, own, jnp.ones(len(rows), bool))
        shares = (float(sums[name]) / len(rows) for name in ("accuracy", "loss"))
        found.append((*shares, int(sums["count"])))
    return np.array(found).T


@pytest.mark.thorough
@pytest.mark.parametrize(
    "execution",
    [scanned(), vmapped(), chunked(3), auto()],
    ids=["scanned", "vmapped", "chunked", "auto"],
)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_is_that_of_a_loop_over_clients(execution, batch_size):
    data = federated_data(dataset(), LISTS)
    params = TASK.init(jax.random.key(0))
    blocks = training_blocks(data, batch_size=batch_size)
    clients = jax.jit(client_evaluation_program(TASK, execution))(params, blocks)
    expected = by_loop(params, dataset().train, LISTS)
    for own, other in zip(clients, expected, strict=False):
        np.testing.assert_allclose(own, other, rtol=1e-5)
    assert clients.num_examples.tolist() == [3, 0, 1, 23]


def test_no_block_is_of_two_clients_and_padding_is_less_than_one_a_client():
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in LISTS])])
    order = np.concatenate(LISTS).astype(int)
    blocks = in_blocks(dataset().train, order, offsets, batch_size=5)
    assert blocks.owner.tolist() == [0, 2, 3, 3, 3, 3, 3]
    for client, own in enumerate(LISTS):
        mine = blocks.owner == client
        assert blocks.rows[mine][blocks.mask[mine]].tolist() == own


def test_held_out_are_the_test_examples_of_ones_own_group():
    data = federate(dataset(), natural(), num_clients=0, seed=0)
    blocks = held_out_blocks(dataset(), data, batch_size=4)
    # Clients are the groups in order, 2, 5, 7 and 9; group 3 is no client's.
    assert blocks.num_examples.tolist() == [6, 15, 0, 34]
    for client, group in enumerate([2, 5, 7, 9]):
        mine = blocks.owner == client
        rows = blocks.rows[mine][blocks.mask[mine]]
        assert rows.tolist() == np.flatnonzero(group == TEST_GROUPS).tolist()


def test_held_out_of_a_sample_of_the_groups():
    data = federate(dataset(), natural(), num_clients=2, seed=3)
    owners = [int(GROUPS[data.order[begin]]) for begin in data.offsets[:-1]]
    blocks = held_out_blocks(dataset(), data, batch_size=4)
    expected = [int((group == TEST_GROUPS).sum()) for group in owners]
    assert blocks.num_examples.tolist() == expected


@pytest.mark.parametrize(
    ("source", "partition", "words"),
    [
        (dataset(), iid(), "clients that are the groups"),
        (dataset(None, None), iid(), "names no groups"),
    ],
)
def test_refuses_held_out_examples_that_are_nobodys(source, partition, words):
    data = federate(source, partition, num_clients=3, seed=0)
    with pytest.raises(ValueError, match=words):
        held_out_blocks(source, data, batch_size=4)


def test_refuses_clients_without_any_example():
    with pytest.raises(ValueError, match="all 2 clients have none"):
        in_blocks(dataset().train, np.zeros(0, int), np.zeros(3, int), batch_size=1)


def test_padding_tokens_do_not_count():
    def apply_nothing(x):
        return jnp.zeros((*x.shape, 3)).at[..., 1].set(1.0)

    task = classification(
        Network(lambda key, x: {}, lambda params, x, key: apply_nothing(x)),
        input_shape=(4,),
        input_dtype="int32",
        ignore_label=0,
    )
    labels = np.array([[1, 1, 2, 0], [1, 0, 0, 0], [2, 2, 2, 2]], np.int32)
    examples = Examples(np.ones((3, 4), np.int32), labels)
    blocks = in_blocks(examples, np.arange(3), np.array([0, 2, 3]), batch_size=2)
    clients = client_evaluation_program(task, scanned())({}, blocks)
    assert clients.accuracy.tolist() == [0.75, 0.0]
    assert clients.num_predictions.tolist() == [4, 4]
    assert clients.num_examples.tolist() == [2, 1]


def test_facts_are_those_of_the_clients_that_have_predictions():
    rng = np.random.default_rng(0)
    accuracy, counts = rng.uniform(size=31), rng.integers(1, 9, 31).astype(float)
    counts[5], accuracy[5] = 0, np.nan
    facts = accuracy_facts(ClientAccuracy(accuracy, accuracy, counts, counts))
    own = np.sort(np.delete(accuracy, 5))
    assert facts["evaluated"] == 30
    assert facts["without_examples"] == 1
    assert facts["mean"] == pytest.approx(own.mean())
    total = np.nansum(accuracy * counts) / counts.sum()
    assert facts["weighted_mean"] == pytest.approx(total)
    assert facts["worst"] == own[0]
    assert facts["worst_tenth"] == pytest.approx(own[:3].mean())
    assert facts["median"] == pytest.approx((own[14] + own[15]) / 2)


def test_the_worst_tenth_is_never_nobody():
    assert worst_tenth(np.array([0.25, 0.5])) == 0.25
    assert worst_tenth(np.arange(11.0)) == 0.5
