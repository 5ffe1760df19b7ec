"""What a newcomer writes by mistake is told in one line, with the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import data, models, training
from fedjax_comp.algorithms import ditto, fed_avg, lazy_gradients, marina
from fedjax_comp.base import Examples
from fedjax_comp.compress import qsgd
from fedjax_comp.execution import vmapped
from fedjax_comp.schedules import scheduled_rates
from fedjax_comp.server.robust import median

SGD = optax.sgd(0.1)
RNG = np.random.default_rng(0)
EXAMPLES = Examples(
    RNG.normal(size=(40, 6)).astype(np.float32), np.arange(40, dtype=np.int32) % 3
)
DATASET = data.Dataset("own", EXAMPLES, EXAMPLES, None, None, 3, 1.0)
TASK = models.classification(models.linear()(3), input_shape=(6,))
SAMPLE = training.uniform_cohorts(cohort_size=5, epochs=1, batch_size=8)


def federated(dataset=DATASET, partition=None):
    partition = data.iid() if partition is None else partition
    return data.federate(dataset, partition, num_clients=5, seed=0)


def go(algorithm=None, *, sample=SAMPLE, clients=5, rounds=1, most=1, dataset=DATASET):
    algorithm = fed_avg(TASK, client_optimizer=SGD) if algorithm is None else algorithm
    params = TASK.init(jax.random.key(0))
    state = training.init_state(jax.random.key(0), algorithm, params, clients)
    program = training.round_program(algorithm, sample, max_rounds=most)
    return jax.jit(program)(state, federated(dataset), rounds)


def own(name, **given):
    return lambda: fed_avg(TASK, **{"client_optimizer": SGD, name: given["value"]})


COLUMN = Examples(EXAMPLES.x, EXAMPLES.y[:, None])
MISTAKES = {
    "execution as a function of 1 argument, not vmapped; .* as a call: vmapped(": (
        own("execution", value=vmapped)
    ),
    "aggregation as a function of 1 argument, not median; write it as a call": (
        own("aggregation", value=median)
    ),
    "the client optimizer as an optax optimizer, not 0.1; .*: optax.sgd(0.1)": (
        own("client_optimizer", value=0.1)
    ),
    "server_optimizer as an optax optimizer, not sgd; write it as a call: sgd(": (
        own("server_optimizer", value=optax.sgd)
    ),
    "partition as a function of 4 arguments, not iid; write it as a call: iid(": (
        lambda: federated(partition=data.iid)
    ),
    "takes its number of classes: mlp(200, 200)(10)": (
        lambda: models.classification(models.mlp(4), input_shape=(6,))
    ),
    "num_clients=5, as many as the data have, got 2": (
        lambda: go(ditto(TASK, client_optimizer=SGD, pull=0.1), clients=2)
    ),
    "batch_size=2.5, an integer >= 0": lambda: go(
        sample=training.uniform_cohorts(cohort_size=5, epochs=1, batch_size=2.5)
    ),
    "size=2.5, an integer >= 1": lambda: data.iid(size=2.5),
    "max_rounds=0 >= 1": lambda: go(most=0),
    "num_rounds=.* as an integer": lambda: go(rounds=1.9, most=2),
    "labels [8, 1]; labels [N, 1] are [N] by y.reshape(-1)": lambda: go(
        dataset=DATASET._replace(train=COLUMN, test=COLUMN)
    ),
    "without rates for marina(), whose estimate lasts for rounds": lambda: go(
        marina(TASK, client_optimizer=SGD, uplink=qsgd(8), probability=0.1),
        sample=scheduled_rates(SAMPLE, optax.constant_schedule(0.5)),
    ),
    "without rates for lazy_gradients(), whose clients take no step": lambda: go(
        lazy_gradients(TASK, optimizer=SGD),
        sample=scheduled_rates(SAMPLE, optax.constant_schedule(0.5)),
    ),
    "Expected float parameters, got int32 at ['step']": lambda: training.init_state(
        jax.random.key(0),
        fed_avg(TASK, client_optimizer=SGD),
        {"w": jnp.ones(2), "step": jnp.int32(0)},
        5,
    ),
}


@pytest.mark.parametrize("told", MISTAKES)
def test_a_mistake_is_told(told):
    pattern = told.replace("(", r"\(").replace(")", r"\)")
    pattern = pattern.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=pattern) as caught:
        MISTAKES[told]()
    assert "\n" not in str(caught.value).strip()
