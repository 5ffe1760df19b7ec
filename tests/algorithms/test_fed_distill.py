"""Federated distillation: its round in NumPy, its limits, bytes, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_distill import fed_distill, sharpened
from fedjax_comp.base import Cohort
from fedjax_comp.client.distillation import soft_labels
from fedjax_comp.compress import (
    differenced,
    identity,
    simplex_quantize,
    uniform_lattice,
)
from fedjax_comp.data import federate, load, set_aside, shards
from fedjax_comp.models import classification, mlp
from fedjax_comp.training import init_state, round_program, uniform_cohorts
from tests.problems import (
    NUM_CLASSES,
    NUM_FEATURES,
    make_cohort,
    make_examples,
    softmax_task,
    stack_clients,
)

TASK, KEY, RATE = softmax_task(), jax.random.key(0), 0.3
PARAMS = TASK.init(KEY)
COHORT = make_cohort([4, 2], batch_size=4)
PUBLIC = make_examples(6, seed=5).x


def make(**own):
    return fed_distill(
        TASK,
        **{
            "public": PUBLIC,
            "num_classes": NUM_CLASSES,
            "client_optimizer": optax.sgd(RATE),
            **own,
        },
    )


def run(algorithm, rounds=1, cohort=COHORT, params=PARAMS):
    server, client = algorithm.init(KEY, params)
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step, info = jax.jit(algorithm.round), None
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    return server, clients, info


def idle(cohort: Cohort) -> Cohort:
    """The same clients without a batch to train on."""
    clients = cohort.clients
    return cohort._replace(clients=clients._replace(mask=jnp.zeros_like(clients.mask)))


def close(a, b, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-5, **tolerance}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


# ----------------------------------------------------------------- ten lines of NumPy


def said(w, x):
    logits = x @ w["kernel"] + w["bias"]
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def stepped(w, x, targets, rate):
    off = (said(w, x) - targets) / len(x)
    return {
        "kernel": w["kernel"] - rate * x.T @ off,
        "bias": w["bias"] - rate * off.sum(0),
    }


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_a_round_is_what_is_written_down(temperature):
    algorithm = make(temperature=temperature, distill_rate=0.5)
    server, clients, info = run(algorithm)
    start = {name: np.asarray(x, np.float64) for name, x in PARAMS.items()}
    x, y = (np.asarray(leaf) for leaf in COHORT.examples)
    public, labels = np.asarray(PUBLIC, np.float64), np.eye(NUM_CLASSES)[y]
    trained = [
        stepped(start, x[rows].astype(np.float64), labels[rows], RATE)
        for rows in (slice(0, 4), slice(4, 6))
    ]
    mean = (4 * said(trained[0], public) + 2 * said(trained[1], public)) / 6
    taught = mean
    if temperature is not None:
        taught = np.exp(mean / temperature)
        taught /= taught.sum(1, keepdims=True)
    close(algorithm.params(server), stepped(start, public, taught, 0.5))
    for i, w in enumerate(trained):
        own = algorithm.personal(server, jax.tree.map(lambda x, i=i: x[i], clients))
        close(own, stepped(w, public, taught, 0.5))
    assert int(info.client_steps) == 4  # one of each kind, two clients


def test_the_server_learns_the_mean_and_clients_what_they_heard_of_it():
    # Who has not trained says what the server says: it stays, and they hear a vote.
    algorithm = make(distill_rate=0.5, downlink=simplex_quantize(1))
    server, clients, _ = run(algorithm, 1, idle(COHORT))
    public = np.asarray(PUBLIC, np.float64)
    start = {name: np.asarray(x, np.float64) for name, x in PARAMS.items()}
    heard = np.eye(NUM_CLASSES)[said(start, public).argmax(1)]
    close(server.params, PARAMS)
    for i in range(2):
        own = jax.tree.map(lambda x, i=i: x[i], clients.own)
        close(own, stepped(start, public, heard, 0.5))


# ------------------------------------------------------------------------------ limits


def test_own_soft_labels_teach_nothing():
    alone = idle(make_cohort([4], batch_size=4))
    server, clients, info = run(make(distill_epochs=3, distill_batch=2), 2, alone)
    close(server.params, PARAMS, rtol=0, atol=1e-6)
    close(clients.own, stack_clients(PARAMS, 1), rtol=0, atol=1e-6)
    assert int(info.client_steps) == 9
    # Sharpened they do: it is their being the model's own that leaves it still.
    other, _, _ = run(make(temperature=0.1), 1, alone)
    assert np.abs(other.params["kernel"] - PARAMS["kernel"]).max() > 1e-3


def test_one_client_s_server_follows_it_to_the_same_predictions():
    # The minimum of the cross-entropy is the teacher, which this model can be.
    alone = make_cohort([5], batch_size=5)
    algorithm = make(distill_rate=1.0, distill_epochs=600)
    server, clients, _ = run(algorithm, 1, alone)
    own = jax.tree.map(lambda x: x[0], clients.own)
    labels = jnp.arange(NUM_CLASSES)
    theirs = soft_labels(TASK, own, PUBLIC, labels)
    before = soft_labels(TASK, PARAMS, PUBLIC, labels)
    assert np.abs(theirs - before).max() > 0.05
    close(soft_labels(TASK, server.params, PUBLIC, labels), theirs, atol=1e-3)


def test_temperatures_run_from_a_vote_to_no_say():
    mean = np.random.default_rng(0).dirichlet([1.0] * 5, 20).astype(np.float32)
    one_hot = np.eye(5)[mean.argmax(1)]
    np.testing.assert_allclose(sharpened(jnp.asarray(mean), 1e-5), one_hot, atol=1e-4)
    np.testing.assert_allclose(sharpened(jnp.asarray(mean), 1e5), 0.2, atol=1e-4)
    np.testing.assert_allclose(sharpened(jnp.asarray(mean), None), mean, atol=1e-6)


def test_nobody_sound_leaves_every_model_and_says_nothing():
    x = jnp.full_like(COHORT.examples.x, jnp.inf)
    broken = COHORT._replace(examples=COHORT.examples._replace(x=x))
    server, clients, info = run(make(), 1, broken)
    close(server.params, PARAMS, rtol=0, atol=0)
    close(clients.own, stack_clients(PARAMS, 2), rtol=0, atol=0)
    assert int(info.dropped) == 2
    assert not info.traffic["downlink"].spoke.any()


# --------------------------------------------------------------------- what is counted


@pytest.mark.parametrize("width", [4, 64])
def test_a_round_costs_what_is_said_and_not_what_the_model_is(width):
    task = classification(
        mlp(width)(NUM_CLASSES), input_shape=(NUM_FEATURES,), scale=1.0
    )
    algorithm = fed_distill(
        task,
        public=PUBLIC,
        num_classes=NUM_CLASSES,
        client_optimizer=optax.sgd(RATE),
        sample=5,
        uplink=simplex_quantize(2),
        downlink=uniform_lattice(8, rounding="nearest"),
    )
    server, client = algorithm.init(KEY, jax.eval_shape(task.init, KEY))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), client)
    *_, info = jax.eval_shape(algorithm.round, KEY, server, like, COHORT)
    assert info.traffic.keys() == {"uplink", "downlink"}
    assert info.traffic["uplink"].bits.fixed == 5 * NUM_CLASSES * 2 + 1
    assert info.traffic["downlink"].bits.fixed == 5 * NUM_CLASSES * 8 + 1
    assert not info.traffic["uplink"].bits.variable


def test_changes_of_soft_labels_are_a_memory_of_all_public_examples():
    plain, _, _ = run(make(), 3)
    changed, clients, _ = run(make(uplink=differenced(identity())), 3)
    close(changed.params, plain.params)
    assert {x.shape[1:] for x in jax.tree.leaves(clients.uplink)} == {(6, NUM_CLASSES)}
    with pytest.raises(ValueError, match=r"without memory .* sample=4 of 6"):
        make(uplink=differenced(identity()), sample=4).init(KEY, PARAMS)


# --------------------------------------------------------------------- what it is for


@pytest.mark.thorough
def test_a_common_model_knows_more_classes_than_any_client_does():
    digits, public = set_aside(load("digits"), 300, seed=0)
    data = federate(digits, shards(2), num_clients=5, seed=0)
    task = classification(mlp(32)(10), input_shape=(8, 8, 1), scale=1 / 16)
    algorithm = fed_distill(
        task,
        public=public,
        num_classes=10,
        client_optimizer=optax.sgd(0.1),
        temperature=0.1,
        distill_rate=0.1,
        distill_epochs=2,
        uplink=simplex_quantize(4),
    )
    sample = uniform_cohorts(cohort_size=5, epochs=2, batch_size=20)
    program = jax.jit(round_program(algorithm, sample, max_rounds=20))
    state = init_state(KEY, algorithm, task.init(jax.random.key(1)), num_clients=5)
    state, _ = program(state, data, jnp.int32(20))
    everyone = jnp.ones(len(data.test.y), bool)
    sums = task.evaluate(algorithm.params(state.server), data.test, everyone)
    common = float(sums["accuracy"] / sums["count"])
    # No model trained alone tells classes it has not seen: each client is right on
    # those that it has at most.
    offsets, order = np.asarray(data.offsets), np.asarray(data.order)
    y, test = np.asarray(data.examples.y), np.asarray(data.test.y)
    bounds = [
        np.isin(test, y[order[offsets[i] : offsets[i + 1]]]).mean() for i in range(5)
    ]
    assert common > np.mean(bounds) + 0.1, (common, bounds)


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"sample": 7}, "sample=7"),
        ({"sample": 0}, "sample=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"distill_rate": float("nan")}, "distill_rate=nan"),
        ({"distill_epochs": 0}, "distill_epochs=0"),
        ({"distill_batch": 0}, "distill_batch=0"),
        ({"public": jnp.ones(())}, "public inputs"),
        ({"public": jnp.ones((0, 5))}, "public inputs"),
        ({"public": ()}, "public inputs"),
    ],
)
def test_what_an_argument_may_not_be_is_named(own, message):
    with pytest.raises(ValueError, match=message):
        make(**own)


def test_sequences_of_labels_are_refused():
    y = jnp.zeros((6, 2), jnp.int32)
    cohort = COHORT._replace(examples=COHORT.examples._replace(y=y))
    with pytest.raises(ValueError, match=r"one label an example .* \[6, 2\]"):
        run(make(), cohort=cohort)
