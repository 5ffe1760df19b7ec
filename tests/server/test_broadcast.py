"""A broadcast: one message, decoded alike by all who hear it, kept for an audit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import (
    diloco,
    ditto,
    fed_avg,
    fed_distill,
    fed_dyn,
    fed_nova,
    mime_lite,
    optimal_sampling,
    scaffold,
)
from fedjax_comp.base import EVERYONE, SERVER, make_context
from fedjax_comp.compress import differenced, error_feedback, top_k
from fedjax_comp.keys import make_key
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import bytes_by_client
from tests.problems import (
    NUM_CLASSES,
    make_cohort,
    make_examples,
    softmax_task,
    stack_clients,
)

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


SGD = optax.sgd(0.1)
DOWN = error_feedback(top_k(0.3))
ASKED = {"public": make_examples(4).x, "num_classes": NUM_CLASSES}
HEARD = {
    "fed_avg": lambda task, **own: fed_avg(task, client_optimizer=SGD, **own),
    "fed_nova": lambda task, **own: fed_nova(task, client_optimizer=SGD, **own),
    "fed_dyn": lambda task, **own: fed_dyn(
        task, client_optimizer=SGD, alpha=0.1, population=9, **own
    ),
    "scaffold": lambda task, **own: scaffold(
        task, client_optimizer=SGD, population=9, **own
    ),
    "mime_lite": lambda task, **own: mime_lite(task, client_optimizer=SGD, **own),
    "ditto": lambda task, **own: ditto(task, client_optimizer=SGD, pull=0.1, **own),
    "diloco": lambda task, **own: diloco(task, client_optimizer=SGD, **own),
    "fed_distill": lambda task, **own: fed_distill(
        task, client_optimizer=SGD, **ASKED, **own
    ),
    "optimal_sampling": lambda task, **own: optimal_sampling(
        task, client_optimizer=SGD, expected=2, **own
    ),
}


@pytest.mark.parametrize("name", HEARD)
def test_what_nobody_hears_was_not_said(name):
    task = softmax_task()
    algorithm = HEARD[name](task, downlink=DOWN)
    cohort = make_cohort([4, 5], batch_size=5)
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, 2)

    def memory_after(active):
        own = cohort.clients._replace(active=jnp.array(active))
        after, _, info = jax.jit(algorithm.round)(
            jax.random.key(2), server, clients, cohort._replace(clients=own)
        )
        assert bool(info.traffic["downlink"].spoke.any()) == any(active)
        return jax.tree.leaves(after.downlink)

    before = jax.tree.leaves(server.downlink)
    for mine, theirs in zip(memory_after([False, False]), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    heard = zip(memory_after([False, True]), before, strict=True)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in heard)
