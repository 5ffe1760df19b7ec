"""A broadcast: one message, decoded alike by all who hear it, kept for an audit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import EVERYONE, SERVER, make_context
from fedjax_comp.compress import differenced, error_feedback, top_k
from fedjax_comp.keys import make_key
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import bytes_by_client

TREE = jnp.array([1.0, -8.0, 2.0])
CONTEXT = make_context(make_key(0), 0)


def test_memory_of_both_ends_goes_on_and_the_audit_has_the_one_before():
    compressor = differenced(top_k(k=1))
    link = compressor.init(TREE)
    first = broadcast(compressor, CONTEXT, TREE, link)
    np.testing.assert_array_equal(first.received, [0, -8, 0])
    second = broadcast(compressor, CONTEXT, TREE, first.link)
    np.testing.assert_array_equal(second.received, [0, -8, 2])

    messages = second.messages(jnp.array(True))
    assert {x.shape[0] for x in jax.tree.leaves(messages)} == {1}
    assert messages.ends.receiver.tolist() == [EVERYONE]
    assert messages.ends.sender.tolist() == [SERVER]
    one = jax.tree.map(lambda x: x[0], messages)
    assert bool(one.spoke)
    jax.tree.map(np.testing.assert_array_equal, one.receiver, first.link.receiver)
    decoded, after = compressor.decode(one.context, one.payload, one.receiver)
    np.testing.assert_array_equal(decoded, one.used)
    jax.tree.map(np.testing.assert_array_equal, after, second.link.receiver)


def test_each_who_hears_it_pays_for_it():
    said = broadcast(top_k(k=2), CONTEXT, TREE, top_k(k=2).init(TREE))
    traffic = said.traffic(jnp.array([True, False]), jnp.array([4, 1]))
    size = -(-num_bits(said.payload).fixed // 8)
    assert bytes_by_client({"down": traffic}, 5).received == [None] * 4 + [size]
    assert traffic.ends.sender.tolist() == [SERVER, SERVER]


def test_who_misses_a_message_must_need_none_of_those_before():
    with pytest.raises(ValueError, match="without memory at the receiver"):
        partly_heard(differenced(top_k(k=1)), TREE)
    memory = partly_heard(error_feedback(top_k(k=1)), TREE)
    assert [x.shape for x in jax.tree.leaves(memory)] == [TREE.shape]
