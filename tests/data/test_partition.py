import numpy as np
import pytest
from scipy import stats

from fedjax_comp.data.partition import dirichlet, from_lists, iid, natural, shards

LABELS = np.random.default_rng(7).integers(0, 10, 6000).astype(np.int32)
FALSE_ALARM = 1e-7


def rng():
    return np.random.default_rng(0)


def parts(assignment):
    return np.split(assignment.order, assignment.offsets[1:-1])


def sizes(assignment):
    return np.diff(assignment.offsets)


@pytest.mark.parametrize(
    "partition",
    [
        iid(),
        iid(sigma=1.0),
        shards(2),
        shards(1),
        dirichlet(0.3),
        dirichlet(0.01),
        dirichlet(0.1, minimum=5),
    ],
)
@pytest.mark.parametrize("num_clients", [1, 7, 100])
def test_every_example_has_one_owner(partition, num_clients):
    order, offsets = partition(LABELS, None, num_clients, rng())
    assert order.dtype == offsets.dtype == np.int32
    assert offsets.shape == (num_clients + 1,)
    assert offsets[0] == 0
    np.testing.assert_array_equal(np.sort(order), np.arange(len(LABELS)))
    assert offsets[-1] == len(LABELS)
    assert (np.diff(offsets) >= 0).all()


@pytest.mark.parametrize("partition", [iid(), iid(size=3), shards(2), dirichlet(0.3)])
def test_same_generator_same_partition(partition):
    first = partition(LABELS, None, 20, np.random.default_rng(3))
    again = partition(LABELS, None, 20, np.random.default_rng(3))
    other = partition(LABELS, None, 20, np.random.default_rng(4))
    np.testing.assert_array_equal(first.order, again.order)
    assert not np.array_equal(first.order, other.order)


def test_iid_sizes_differ_by_at_most_one():
    assert set(sizes(iid()(LABELS, None, 7, rng()))) == {6000 // 7, 6000 // 7 + 1}


def test_iid_labels_follow_the_whole():
    counts = np.stack(
        [
            np.bincount(LABELS[p], minlength=10)
            for p in parts(iid()(LABELS, None, 10, rng()))
        ]
    )
    result = stats.chi2_contingency(counts)
    assert result.pvalue > FALSE_ALARM


def test_iid_more_clients_than_examples_leaves_some_empty():
    assignment = iid()(LABELS[:10], None, 25, rng())
    assert sorted(sizes(assignment)) == [0] * 15 + [1] * 10


def test_lognormal_sizes_have_the_spread_asked_for():
    num_clients, sigma = 2000, 0.5
    got = sizes(iid(sigma=sigma)(np.zeros(2_000_000, np.int32), None, 2000, rng()))
    squares = (num_clients - 1) * np.log(got).var(ddof=1) / sigma**2
    low, high = stats.chi2.ppf([FALSE_ALARM, 1 - FALSE_ALARM], num_clients - 1)
    assert low < squares < high


def test_fixed_size_shares_examples_but_never_within_a_client():
    assignment = iid(size=40)(LABELS[:100], None, 1000, rng())
    assert set(sizes(assignment)) == {40}
    assert all(len(set(p)) == 40 for p in parts(assignment))
    # 40,000 draws over 100 examples: each is held about 400 times.
    held = np.bincount(assignment.order, minlength=100)
    assert stats.chisquare(held).pvalue > FALSE_ALARM


def test_shards_have_few_labels_and_equal_sizes():
    balanced = np.repeat(np.arange(10, dtype=np.int32), 600)
    assignment = shards(2)(balanced[rng().permutation(6000)], None, 100, rng())
    shuffled = balanced[rng().permutation(6000)]
    assert set(sizes(assignment)) == {60}
    # Shards of 30 never straddle a label of 600 examples.
    assert max(len(set(shuffled[p])) for p in parts(assignment)) == 2


def test_one_shard_a_client_is_the_sorted_list_cut_up():
    labels = np.array([2, 0, 1, 1, 0, 2])
    held = [labels[p].tolist() for p in parts(shards(1)(labels, None, 3, rng()))]
    assert sorted(held) == [[0, 0], [1, 1], [2, 2]]


def test_dirichlet_concentration_is_the_theorems():
    # E[sum_k p_k^2] = (alpha + 1) / (K alpha + 1) for p ~ Dirichlet(alpha, ..., alpha).
    alpha, num_clients, num_labels, each = 0.5, 5, 1000, 200
    labels = np.repeat(np.arange(num_labels), each)
    assignment = dirichlet(alpha)(labels, None, num_clients, rng())
    p = np.stack(
        [
            np.bincount(labels[part], minlength=num_labels) / each
            for part in parts(assignment)
        ]
    )
    measured = (p**2).sum(0).mean()
    hoeffding = np.sqrt(np.log(2 / FALSE_ALARM) / (2 * num_labels))
    rounding = 2 * 1 / each
    expected = (alpha + 1) / (num_clients * alpha + 1)
    assert abs(measured - expected) < hoeffding + rounding


def test_dirichlet_limits():
    labels = np.repeat(np.arange(10), 100)
    even = parts(dirichlet(1e9)(labels, None, 10, rng()))
    for part in even:
        np.testing.assert_allclose(np.bincount(labels[part]), 10, atol=1)
    alone = parts(dirichlet(1e-6)(labels, None, 10, rng()))
    for label in range(10):
        assert sum(label in labels[part] for part in alone) == 1


def test_dirichlet_minimum_takes_only_what_others_can_spare():
    free = dirichlet(0.05)(LABELS, None, 200, rng())
    filled = dirichlet(0.05, minimum=20)(LABELS, None, 200, rng())
    assert sizes(free).min() < 20
    assert sizes(filled).min() == 20
    short = sizes(free) < 20
    assert (sizes(filled)[short] == 20).all()
    assert (sizes(filled)[~short] <= sizes(free)[~short]).all()
    exact = dirichlet(0.05, minimum=30)(LABELS, None, 200, rng())
    assert set(sizes(exact)) == {30}


def test_natural_is_by_group():
    groups = np.array([5, 2, 5, 9, 2, 5])
    held = [p.tolist() for p in parts(natural()(LABELS[:6], groups, 0, rng()))]
    assert held == [[1, 4], [0, 2, 5], [3]]
    some = parts(natural()(LABELS[:6], groups, 2, rng()))
    assert len(some) == 2
    assert all(p.tolist() in held for p in some)


def test_hundred_thousand_clients():
    labels = np.arange(60_000) % 62
    for partition in (iid(), iid(sigma=1.0), iid(size=14), dirichlet(0.3)):
        assert len(partition(labels, None, 100_000, rng()).offsets) == 100_001
    groups = np.repeat(np.arange(100_000), 2)
    assert len(natural()(groups, groups, 0, rng()).offsets) == 100_001


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(sigma=-1), "sigma=-1"),
        (lambda: iid(sigma=float("nan")), "sigma=nan"),
        (lambda: iid(sigma="0.5"), "sigma='0.5' >= 0"),
        (lambda: iid(size=0), "size=0"),
        (lambda: iid(size=2, sigma=0.5), "size=2 or sigma=0.5"),
        (lambda: shards(0), "per_client=0"),
        (lambda: dirichlet(0), "alpha=0"),
        (lambda: dirichlet(float("inf")), "alpha=inf"),
        (lambda: dirichlet("0.3"), "alpha='0.3' > 0"),
        (lambda: dirichlet(1, minimum=-1), "minimum=-1"),
        (lambda: iid()(LABELS, None, 0, rng()), "num_clients=0"),
        (lambda: iid(size=7)(LABELS[:6], None, 1, rng()), "size=7 <= 6"),
        (lambda: shards(2)(LABELS[:6], None, 4, rng()), "num_clients=4"),
        (lambda: shards(2)(LABELS[:6, None], None, 1, rng()), "one integer label"),
        (lambda: dirichlet(1)(LABELS * 0.5, None, 1, rng()), "one integer label"),
        (lambda: dirichlet(1, minimum=4)(LABELS[:6], None, 2, rng()), "minimum=4"),
        (lambda: natural()(LABELS, None, 0, rng()), "natural groups"),
        (lambda: natural()(LABELS[:2], np.arange(2), 3, rng()), "num_clients=3 <= 2"),
        (lambda: natural()(LABELS[:2], np.arange(3), 0, rng()), "3 and 2"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_from_lists_of_nothing():
    assert from_lists([]).offsets.tolist() == [0]
    assert from_lists([[], []]).offsets.tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_clients", [10.0, 143.7, True, "3"])
@pytest.mark.parametrize(
    "partition",
    [iid(), iid(sigma=1.0), iid(size=3), shards(2), dirichlet(0.3), natural()],
)
def test_a_number_of_clients_is_an_integer(partition, num_clients):
    with pytest.raises(ValueError, match=f"num_clients={num_clients!r}, an integer"):
        partition(LABELS, LABELS, num_clients, rng())
