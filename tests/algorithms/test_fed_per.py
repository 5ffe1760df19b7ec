"""FedPer: NumPy, its limit cases, what travels, and who is evaluated with what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from fedjax_comp.algorithms import fed_avg, fed_per
from fedjax_comp.base import STATISTICS
from fedjax_comp.client_evaluation import client_evaluation_program, in_blocks
from fedjax_comp.execution import scanned
from fedjax_comp.models import classification
from fedjax_comp.wire.accounting import message_bits
from tests.problems import (
    NUM_CLASSES,
    NUM_FEATURES,
    make_cohort,
    softmax_task,
    stack_clients,
)

TASK, KEY = softmax_task(), jax.random.key(0)
PARAMS = TASK.init(KEY)
COHORT = make_cohort([4, 2, 6], batch_size=2)
OPTIMIZER = optax.sgd(0.3)


def make(personal="bias", task=TASK, **options):
    return fed_per(task, client_optimizer=OPTIMIZER, personal=personal, **options)


def run(algorithm, rounds=1, params=PARAMS, cohort=COHORT):
    server, client = algorithm.init(KEY, params)
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step = jax.jit(algorithm.round)
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    return server, clients, info


def local(params, client):
    """Gradient descent on one client's batches, as it is written down."""
    for rows, mask in zip(client.rows, client.mask, strict=True):
        if mask.any():
            batch = jax.tree.map(lambda x, rows=rows: x[rows], COHORT.examples)
            grads = jax.grad(TASK.loss)(params, batch, mask, KEY)
            params = jax.tree.map(lambda w, g: w - 0.3 * g, params, grads)
    return params


def test_it_is_its_algorithm_as_it_is_written_down():
    server, clients, _ = run(make(), rounds=2)
    kernel, own = PARAMS["kernel"], [PARAMS["bias"]] * 3
    for _ in range(2):
        trained = [
            local(
                {"bias": own[i], "kernel": kernel},
                jax.tree.map(lambda x, i=i: x[i], COHORT.clients),
            )
            for i in range(3)
        ]
        own = [each["bias"] for each in trained]
        kernel = sum(
            n * each["kernel"] for n, each in zip((4, 2, 6), trained, strict=True)
        )
        kernel = kernel / 12
    np.testing.assert_allclose(clients.own[0], np.stack(own), rtol=1e-5, atol=1e-6)
    after = server.model.params
    np.testing.assert_allclose(after["kernel"], kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after["bias"], PARAMS["bias"])


def test_one_client_trains_as_it_would_with_all_layers_shared():
    cohort = make_cohort([6], batch_size=2)
    server, clients, _ = run(make(), rounds=3, cohort=cohort)
    plain = fed_avg(TASK, client_optimizer=OPTIMIZER)
    expected, _, _ = run(plain, rounds=3, cohort=cohort)
    got = make().personal(server, jax.tree.map(lambda x: x[0], clients))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got,
        plain.params(expected),
    )


def test_own_layers_are_not_paid_for():
    _, _, info = run(make())
    for cost in info.traffic.values():
        assert message_bits(cost.bits) == 32 * NUM_FEATURES * NUM_CLASSES


def test_a_client_that_breaks_keeps_its_layers():
    x = COHORT.examples.x.at[4].set(jnp.inf)
    cohort = COHORT._replace(examples=COHORT.examples._replace(x=x))
    _, clients, info = run(make(), cohort=cohort)
    assert int(info.dropped) == 1
    np.testing.assert_array_equal(clients.own[0][1], PARAMS["bias"])
    assert bool((clients.own[0][0] != PARAMS["bias"]).any())


def test_every_client_is_evaluated_with_its_own_layers():
    server, clients, _ = run(make(), rounds=4)
    blocks = in_blocks(
        COHORT.examples, np.arange(12), np.array([0, 4, 6, 12]), batch_size=3
    )
    program = client_evaluation_program(TASK, scanned(), personal=make().personal)
    found = jax.jit(program)((server, clients), blocks)
    for i, (begin, end) in enumerate([(0, 4), (4, 6), (6, 12)]):
        own = {"bias": clients.own[0][i], "kernel": server.model.params["kernel"]}
        part = jax.tree.map(lambda x, a=begin, b=end: x[a:b], COHORT.examples)
        sums = TASK.evaluate(own, part, jnp.ones(end - begin, bool))
        np.testing.assert_allclose(found.loss[i], sums["loss"] / (end - begin), 1e-5)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(NUM_CLASSES)(nn.BatchNorm(use_running_average=not train)(x))


def test_running_statistics_may_stay_with_the_client():
    task = classification(Normalized(), input_shape=(NUM_FEATURES,))
    params = task.init(KEY)
    algorithm = make(STATISTICS, task)
    server, clients, info = run(algorithm, params=params)
    jax.tree.map(
        np.testing.assert_array_equal,
        server.model.params[STATISTICS],
        params[STATISTICS],
    )
    assert [x.shape for x in clients.own] == [(3, NUM_FEATURES)] * 2
    assert bool((clients.own[0][0] != clients.own[0][1]).all())
    sizes = [x.size for x in jax.tree.leaves(params["params"])]
    assert message_bits(info.traffic["uplink"].bits) == 32 * sum(sizes)


def test_names_that_are_no_layers_are_refused():
    with pytest.raises(ValueError, match=r"personal='bais' .* it has bias, kernel"):
        make("bais").init(KEY, PARAMS)
    for nothing in (("bias", "kernel"), ()):
        with pytest.raises(ValueError, match="leave a layer that is shared"):
            make(nothing).init(KEY, PARAMS)
