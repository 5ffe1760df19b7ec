"""Groups of leaves: each goes to the compressor of its label."""

import jax.numpy as jnp
import pytest

from fedjax_comp.compress import (
    by_rank,
    chain,
    error_feedback,
    identity,
    partition,
    qsgd,
    random_k,
    stochastic_quantize,
    top_k,
)
from tests.compress.combine.roundtrips import (
    NOTHING,
    TREE,
    assert_counts,
    assert_equal,
    counting,
    roundtrip,
)


def test_each_leaf_goes_to_its_compressor():
    compressor = partition({"matrix": top_k(k=1), "rest": identity()}, by_rank)
    _, decoded = roundtrip(compressor, TREE)
    assert int(jnp.sum(decoded["kernel"] != 0)) == 1
    assert_equal(decoded["bias"], TREE["bias"])
    assert_equal(decoded["steps"], TREE["steps"])


def test_a_label_that_is_not_known_is_named():
    compressor = partition({"matrix": identity()}, by_rank)
    with pytest.raises(ValueError, match=r"label='rest' of leaf .*bias"):
        compressor.init(TREE)


def test_leaves_and_groups_draw_their_own_noise():
    tree = [jnp.ones(64)] * 2
    _, (first, second) = roundtrip(random_k(0.5), tree)
    assert not bool(jnp.all(first == second))
    groups = partition(
        {"0": random_k(0.5), "1": random_k(0.5)}, lambda path, leaf: str(path[0].idx)
    )
    _, (first, second) = roundtrip(groups, tree)
    assert not bool(jnp.all(first == second))


def test_nothing_to_send_is_not_an_error():
    stages = chain(top_k(0.5), stochastic_quantize(2))
    compressor = error_feedback(partition({"rest": stages}, lambda *_: "rest"))
    for tree in NOTHING:
        assert_equal(roundtrip(compressor, tree)[1], tree)


def test_states_of_both_ends_reach_the_compressor_of_a_group():
    assert_counts(partition({"matrix": counting(), "rest": identity()}, by_rank))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="compressor of 'rest'"):
        partition({"rest": qsgd}, by_rank)
    with pytest.raises(ValueError, match="a mapping"):
        partition({}, by_rank)
    with pytest.raises(ValueError, match="such as by_rank"):
        partition({"rest": identity()}, "by_rank")
