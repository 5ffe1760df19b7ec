"""A tree as one vector: the choice is across leaves, and all of it comes back."""

import jax.numpy as jnp
import pytest

from fedjax_comp.compress import chain, flattened, identity, qsgd, rotate, top_k
from tests.compress.combine.roundtrips import (
    NOTHING,
    assert_counts,
    assert_equal,
    counting,
    roundtrip,
)


def test_the_choice_is_across_leaves():
    tree = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([[3.0], [9.0]])}
    _, decoded = roundtrip(flattened(top_k(k=1)), tree)
    assert_equal(decoded, {"a": jnp.zeros(2), "b": jnp.asarray([[0.0], [9.0]])})


def test_dtypes_are_restored_and_integers_pass():
    tree = {
        "a": jnp.asarray([1.5], jnp.bfloat16),
        "n": jnp.arange(2),
        "s": jnp.ones(()),
    }
    assert_equal(roundtrip(flattened(identity()), tree)[1], tree)


def test_nothing_to_send_is_not_an_error():
    for tree in NOTHING:
        assert_equal(roundtrip(flattened(chain(rotate(), qsgd(3))), tree)[1], tree)


def test_states_of_both_ends_reach_the_compressor_inside():
    assert_counts(flattened(counting()))


def test_what_is_not_a_compressor_is_refused():
    with pytest.raises(ValueError, match="to be a compressor"):
        flattened(None)
