"""Algorithms made of algorithms: what they change, and what they leave as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.wrappers import admit, admitted, unsent, without_used
from fedjax_comp.base import Algorithm, Bits, ClientBatches, Cohort, RoundInfo, Traffic
from fedjax_comp.compress import qsgd
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
