"""Examples held out of training: whose they are, and that none is used twice."""

import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data import Dataset, hold_out, set_aside


def numbered(count, groups=None):
    """A data set whose training inputs are their places, and test inputs negative."""
    x = np.arange(count, dtype=np.float32)[:, None]
    y = np.arange(count, dtype=np.int32) % 2
    test = Examples(-1 - x, y)
    return Dataset("numbered", Examples(x, y), test, groups, groups, 2, 1.0)


def places(examples):
    return examples.x[:, 0].astype(int).tolist()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_every_example_is_on_one_side(share):
    held = hold_out(numbered(40), share, seed=3)
    assert len(held.test.y) == round(share * 40)
    assert sorted(places(held.train) + places(held.test)) == list(range(40))
    assert places(held.train) == sorted(places(held.train))
    assert held.test.y.tolist() == [place % 2 for place in places(held.test)]


def test_every_client_gives_its_share_and_keeps_an_example():
    sizes = [1, 2, 3, 10, 101]
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    groups = groups.astype(np.int32)
    held = hold_out(numbered(len(groups), groups), 0.3, seed=1)
    given = np.bincount(held.test_groups, minlength=5)
    assert given.tolist() == [0, 0, 0, 3, 30]
    assert (np.bincount(held.train_groups, minlength=5) + given).tolist() == sizes
    for examples, own in (
        (held.train, held.train_groups),
        (held.test, held.test_groups),
    ):
        assert own.tolist() == groups[places(examples)].tolist()


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_share_that_is_whole_is_not_rounded_down(percent):
    groups = np.repeat(np.arange(2), 100).astype(np.int32)
    assert len(hold_out(numbered(100), percent / 100, seed=0).test.y) == percent
    held = hold_out(numbered(200, groups), percent / 100, seed=0)
    assert np.bincount(held.test_groups).tolist() == [percent, percent]


def test_groups_may_have_any_numbers():
    groups = np.repeat(np.arange(3), [10, 20, 30]).astype(np.int32)
    names = np.array([-7, 5, 2_000_000_000], np.int32)
    plain = hold_out(numbered(60, groups), 0.3, seed=0)
    named = hold_out(numbered(60, names[groups]), 0.3, seed=0)
    assert places(named.test) == places(plain.test)
    assert named.test_groups.tolist() == names[plain.test_groups].tolist()
    assert named.train_groups.tolist() == names[plain.train_groups].tolist()


def test_the_seed_chooses():
    one, same, other = (hold_out(numbered(40), 0.2, seed=s) for s in (0, 0, 1))
    assert places(one.test) == places(same.test) != places(other.test)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan"), 0.01])
def test_what_holds_nothing_out_is_refused(share):
    with pytest.raises(ValueError, match=f"Expected share={share}"):
        hold_out(numbered(40), share, seed=0)


def test_public_inputs_are_nobody_s_examples():
    groups = np.repeat(np.arange(4, dtype=np.int32), 10)
    left, public = set_aside(numbered(40, groups), 15, seed=3)
    aside = public[:, 0].astype(int).tolist()
    assert len(aside) == 15
    assert sorted(places(left.train) + aside) == list(range(40))
    assert left.train_groups.tolist() == groups[places(left.train)].tolist()
    assert len(left.test.y) == 40
    again = set_aside(numbered(40), 15, seed=3)
    other = set_aside(numbered(40), 15, seed=4)
    assert again[0].train_groups is None
    assert again[1].tolist() == public.tolist() != other[1].tolist()


@pytest.mark.parametrize("count", [0, 40, 2.5])
def test_a_number_of_public_examples_that_cannot_be_is_named(count):
    with pytest.raises(ValueError, match=f"public={count}"):
        set_aside(numbered(40), count, seed=0)
