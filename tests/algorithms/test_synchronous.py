"""The shared shape of a round: with FedAvg's step it is FedAvg."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, synchronous
from fedjax_comp.algorithms.synchronous import Step
from fedjax_comp.base import Observed
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import differenced, error_feedback, qsgd, top_k
from fedjax_comp.wire.accounting import num_bits
from tests.problems import make_cohort, softmax_task, stack_clients

TASK, OUTER = softmax_task(), optax.sgd(0.5, momentum=0.9)
LINKS = {"uplink": error_feedback(top_k(0.5)), "downlink": qsgd(16)}


def momentum_step(params, memory, mean, beside):
    """FedAvgM, with optax's momentum as the memory."""
    del beside
    gradient = jax.tree.map(lambda d, w: -d.astype(w.dtype), mean, params)
    updates, memory = OUTER.update(gradient, memory, params)
    return Step(optax.apply_updates(params, updates), memory)


def run(algorithm, rounds=3, sizes=(6, 3, 9)):
    cohort = make_cohort(list(sizes), batch_size=3)
    server, client = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients, step = stack_clients(client, len(sizes)), jax.jit(algorithm.round)
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    return algorithm.params(server), clients, info


def test_with_its_step_it_is_federated_averaging():
    train = local_sgd(TASK, optax.sgd(0.3))
    mine = run(synchronous(train, momentum_step, memory=OUTER.init, **LINKS))
    theirs = run(
        fed_avg(TASK, client_optimizer=optax.sgd(0.3), server_optimizer=OUTER, **LINKS)
    )
    # One of the two fuses a product into a sum and the other does not.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        mine,
        theirs,
    )
    assert mine[2].traffic["uplink"].bits.fixed > 0


def test_what_else_is_added_up_is_heard_by_the_step_and_scales_are_not_weights():
    """Client `i` is worth `n_i` and scaled by `1 / n_i`: the mean is `sum d_i / N`."""
    sizes = (6, 3, 9)
    train = local_sgd(TASK, optax.sgd(0.3))

    def step(params, memory, mean, beside):
        del memory
        seen = {"clients": Observed(beside)}
        return Step(optax.tree.add(params, mean), observed=seen)

    def scale(batches):
        return 1 / batches.num_examples.astype(jnp.float32)

    def one(summand, batches):
        del batches
        return (summand.update.weight > 0).astype(jnp.float32)

    start = TASK.init(jax.random.key(1))
    params, _, info = run(synchronous(train, step, scale=scale, beside=one), 1)
    assert float(info.observed["clients"].value) == 3
    moved = optax.tree.sub(params, start)
    plain = synchronous(train, lambda p, m, mean, b: Step(optax.tree.add(p, mean)))
    alone = [
        optax.tree.sub(run_alone(plain, i, sizes), start) for i in range(len(sizes))
    ]
    expected = jax.tree.map(lambda *each: sum(each) / sum(sizes), *alone)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
        moved,
        expected,
    )


def run_alone(algorithm, i, sizes):
    cohort = make_cohort(list(sizes), batch_size=3)
    active = jnp.arange(len(sizes)) == i
    cohort = cohort._replace(clients=cohort.clients._replace(active=active))
    server, client = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients = stack_clients(client, len(sizes))
    server, _, _ = jax.jit(algorithm.round)(jax.random.key(0), server, clients, cohort)
    return algorithm.params(server)


def test_a_step_to_what_is_not_finite_is_not_taken():
    def step(params, memory, mean, beside):
        del mean, beside
        return Step(jax.tree.map(lambda w: w * jnp.inf, params), memory + 1)

    algorithm = synchronous(
        local_sgd(TASK, optax.sgd(0.3)), step, memory=lambda params: jnp.zeros(())
    )
    params, _, info = run(algorithm, 1)
    jax.tree.map(np.testing.assert_array_equal, params, TASK.init(jax.random.key(1)))
    assert int(info.dropped) == 3


def test_a_round_of_nobody_moves_nothing():
    """Momentum of the rounds before would."""
    algorithm = synchronous(
        local_sgd(TASK, optax.sgd(0.3)), momentum_step, memory=OUTER.init
    )
    cohort = make_cohort([6, 3], batch_size=3)
    server, client = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients, step = stack_clients(client, 2), jax.jit(algorithm.round)
    server, clients, _ = step(jax.random.key(0), server, clients, cohort)
    idle = cohort.clients._replace(active=jnp.zeros(2, bool))
    after, _, info = step(
        jax.random.key(1), server, clients, cohort._replace(clients=idle)
    )
    jax.tree.map(np.testing.assert_array_equal, after, server)
    assert int(info.dropped) == 0


def test_messages_are_kept_where_an_audit_wants_them():
    algorithm = synchronous(
        local_sgd(TASK, optax.sgd(0.3)),
        momentum_step,
        memory=OUTER.init,
        keep_messages=True,
        **LINKS,
    )
    _, _, info = run(algorithm, 1)
    for kind in ("uplink", "downlink"):
        bits = num_bits(jax.tree.map(lambda x: x[0], info.messages[kind].payload))
        assert bits.fixed == info.traffic[kind].bits.fixed > 0


def test_a_broadcast_that_needs_memory_is_refused():
    algorithm = synchronous(
        local_sgd(TASK, optax.sgd(0.3)), momentum_step, downlink=differenced(top_k(0.5))
    )
    with pytest.raises(ValueError, match="without memory at the receiver"):
        algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
