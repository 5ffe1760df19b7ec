"""Algorithms made of algorithms: what they change, and what they leave as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.wrappers import (
    admit,
    admitted,
    gathered,
    unsent,
    without_used,
)
from fedjax_comp.base import Algorithm, Bits, ClientBatches, Cohort, RoundInfo, Traffic
from fedjax_comp.compress import qsgd, top_k
from fedjax_comp.wire.traffic import sent, to_server
from tests.problems import make_cohort, softmax_task, stack_clients


def test_only_who_is_admitted_takes_part():
    def run_round(key, server, clients, cohort):
        active = cohort.clients.active
        uplink = Traffic(Bits(8), active, to_server(cohort.clients.client_id))
        info = RoundInfo(
            jnp.zeros(()), jnp.int32(0), jnp.int32(0), {"uplink": uplink}, {}, {}
        )
        return server + jnp.sum(active), clients + 1, info

    count = Algorithm(
        lambda key, params: (jnp.int32(0), jnp.zeros(())), run_round, lambda s: s
    )
    wrapped = admitted(count)
    server, client = wrapped.init(jax.random.key(0), None)
    clients = jax.tree.map(lambda x: jnp.stack([x] * 4), client)
    clients = admit(clients, np.array([True, False, True, True]))
    nobody = jnp.zeros((4, 1, 1), jnp.int32)
    batches = ClientBatches(
        jnp.arange(4),
        nobody,
        nobody > 0,
        jnp.ones(4),
        jnp.array([True, True, False, True]),
        jax.random.split(jax.random.key(0), 4),
    )
    server, clients, info = wrapped.round(
        jax.random.key(0), server, clients, Cohort(None, batches)
    )
    assert int(server) == 2
    assert info.traffic["uplink"].spoke.tolist() == [True, False, False, True]
    assert clients.inner.tolist() == [1.0] * 4
    assert clients.allowed.tolist() == [True, False, True, True]


@pytest.fixture(scope="module")
def rounds():
    """One round of an algorithm by itself and in either wrapper, compiled once."""
    task, cohort = softmax_task(), make_cohort([4, 6], batch_size=2)
    bare = fed_avg(
        task, client_optimizer=optax.sgd(0.1), uplink=qsgd(4), keep_messages=True
    )
    server, client = bare.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, 2)
    algorithms = (bare, unsent(bare), without_used(bare))

    @jax.jit
    def run(key):
        return [one.round(key, server, clients, cohort) for one in algorithms]

    return run(jax.random.key(2))


@pytest.mark.thorough
def test_what_is_unsent_learns_the_same_and_sends_nothing(rounds):
    (server, _, info), (own, _, silent), _ = rounds
    assert sent(info.traffic).bits.size
    assert sent(silent.traffic).bits.size == 0
    assert silent.messages == {}
    jax.tree.map(np.testing.assert_array_equal, server, own)
    assert silent.client_steps == info.client_steps > 0


def test_without_used_keeps_payloads_alone(rounds):
    (server, _, info), _, (own, _, kept) = rounds
    assert info.messages.keys() == kept.messages.keys() == {"uplink", "downlink"}
    for name, messages in info.messages.items():
        assert jax.tree.leaves(messages.used)
        assert kept.messages[name].used == ()
        jax.tree.map(
            np.testing.assert_array_equal,
            kept.messages[name].payload,
            messages.payload,
        )
    jax.tree.map(np.testing.assert_array_equal, server, own)


def test_gathered_learns_the_same_and_every_message_goes_to_all_others():
    task, cohort = softmax_task(), make_cohort([4, 6, 2], batch_size=2)
    bare = fed_avg(task, client_optimizer=optax.sgd(0.1), uplink=top_k(0.5))
    everywhere = gathered(bare, population=3)
    server, client = bare.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, 3)
    away = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    outcomes = [
        one.round(jax.random.key(2), server, clients, away)
        for one in (bare, everywhere)
    ]
    jax.tree.map(np.testing.assert_array_equal, outcomes[0][0], outcomes[1][0])
    messages = sent(outcomes[1][2].traffic)
    pairs = zip(messages.sender.tolist(), messages.receiver.tolist(), strict=True)
    assert sorted(pairs) == [(0, 1), (0, 2), (2, 0), (2, 1)]
    before = sent({"uplink": outcomes[0][2].traffic["uplink"]}).bits
    assert messages.bits.sum() == 2 * before.sum()
    with pytest.raises(ValueError, match="population=4"):
        gathered(bare, population=4).round(jax.random.key(2), server, clients, away)
