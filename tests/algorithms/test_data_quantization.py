"""Data quantization: its limit cases, its bytes, and that the estimate is unbiased."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.importance import importance, loss_score
from fedjax_comp.algorithms.links.data_uplink import data_uplink
from fedjax_comp.algorithms.links.example_link import Cache
from fedjax_comp.base import Examples
from fedjax_comp.compress import (
    differenced,
    error_feedback,
    identity,
    random_k,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.wire.traffic import totals
from tests.problems import (
    NUM_CLASSES,
    NUM_FEATURES,
    make_cohort,
    softmax_task,
    stack_clients,
)

COARSE = uniform_lattice(1, low=-3.0, high=3.0, rounding="nearest")


def make(quantizer=COARSE, *, optimizer=None, **parts):
    return data_quantization(
        softmax_task(),
        quantizer=quantizer,
        num_classes=NUM_CLASSES,
        optimizer=optax.sgd(1.0) if optimizer is None else optimizer,
        **parts,
    )


def start(algorithm, cohort):
    params = softmax_task().init(jax.random.key(1))
    server, template = algorithm.init(jax.random.key(2), params)
    return server, stack_clients(template, cohort.clients.client_id.shape[0])


def test_exact_data_are_distributed_sgd():
    """With x' = x it is FedAvg of one local step at rate 1: gradients on the uplink."""
    cohort = make_cohort([4, 3], batch_size=4)
    optimizer = optax.sgd(0.3, momentum=0.9)
    exact = make(identity(), optimizer=optimizer)
    averaged = fed_avg(
        softmax_task(), client_optimizer=optax.sgd(1.0), server_optimizer=optimizer
    )
    models = []
    for algorithm in (exact, averaged):
        server, clients = start(algorithm, cohort)
        step = jax.jit(algorithm.round)
        for i in range(3):
            server, clients, info = step(jax.random.key(i), server, clients, cohort)
        models.append(algorithm.params(server))
        assert math.isfinite(info.train_loss)
    # FedAvg sends (w - g) - w, which is g up to the rounding of w in float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *models)


def test_a_perfect_refinement_makes_any_data_exact():
    cohort = make_cohort([4, 3], batch_size=4)
    models = []
    for algorithm in (make(identity()), make(COARSE, refinement=identity())):
        server, clients = start(algorithm, cohort)
        server, _, _ = jax.jit(algorithm.round)(
            jax.random.key(0), server, clients, cohort
        )
        models.append(algorithm.params(server))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *models)


def test_scaled_integers_in_eight_bits_are_exact():
    cohort = make_cohort([4, 3], batch_size=4)
    rng = np.random.default_rng(0)
    stored = jnp.asarray(rng.integers(256, size=(7, NUM_FEATURES)), jnp.uint8)
    task = softmax_task()

    def loss(params, examples, mask, key):
        x = examples.x.astype(jnp.float32) / 255
        return task.loss(params, Examples(x, examples.y), mask, key)

    cohort = cohort._replace(examples=cohort.examples._replace(x=stored))
    models = []
    for quantizer in (identity(), uniform_lattice(8, rounding="nearest")):
        algorithm = data_quantization(
            task._replace(loss=loss),
            quantizer=quantizer,
            num_classes=NUM_CLASSES,
            optimizer=optax.sgd(1.0),
            scale=1 / 255,
        )
        server, clients = start(algorithm, cohort)
        server, _, _ = jax.jit(algorithm.round)(
            jax.random.key(0), server, clients, cohort
        )
        models.append(algorithm.params(server))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *models)


def test_the_model_is_sent_only_to_those_who_need_it():
    cohort = make_cohort([4, 3], batch_size=4)
    traffic = {}
    for name, parts in {
        "plain": {},
        "weighted": {"importance": importance(loss_score(), tau=1.0)},
    }.items():
        algorithm = make(**parts)
        server, clients = start(algorithm, cohort)
        _, _, traffic[name] = jax.jit(algorithm.round)(
            jax.random.key(0), server, clients, cohort
        )
    assert totals(traffic["plain"].traffic).downlink_messages == 0
    assert totals(traffic["weighted"].traffic).downlink_messages == 2
    model_bits = 32 * (NUM_FEATURES + 1) * NUM_CLASSES
    assert totals(traffic["weighted"].traffic).downlink_bits == 2 * model_bits
    # Of each example five bits, a flag and a label; of each client three counts.
    counts = (4).bit_length() + (20).bit_length() + (4).bit_length()
    plain = 7 * (5 + 1 + 2) + 2 * counts
    assert totals(traffic["plain"].traffic).uplink_bits == plain
    # And a weight; of each client its count, and how many examples were drawn.
    sent = int(traffic["weighted"].observed["examples_sent"].value)
    weighted = sent * (5 + 1 + 2 + 6) + 2 * (counts + 3 + 3)
    assert totals(traffic["weighted"].traffic).uplink_bits == weighted


@pytest.mark.thorough
def test_every_part_together_passes_through_bytes():
    """Cache, importance and refinement, for several rounds."""
    parts = {
        "cache": Cache(5, (NUM_FEATURES,)),
        "refinement": error_feedback(top_k(0.3)),
    }
    quantizer = uniform_lattice(2, low=-3.0, high=3.0)
    algorithm = make(
        quantizer,
        importance=importance(loss_score(), rate=0.6),
        keep_messages=True,
        **parts,
    )
    audit = make_auditor(
        data_uplink(quantizer, num_classes=NUM_CLASSES, weighted=True, **parts)
    )
    cohort = make_cohort([4, 3], batch_size=4)
    server, clients = start(algorithm, cohort)
    step = jax.jit(algorithm.round)
    sent = []
    for i in range(4):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        found = audit(info.messages["uplink"])
        assert found.audited == 2
        assert not found.failures
        sent.append(int(info.observed["examples_sent"].value))
    assert 0 < sum(sent) < 4 * 7
    # Of each client's examples only those it ever sent are kept, once each.
    store = clients.uplink.receiver[0]
    assert 2 <= int(store.filled.sum()) <= 7


DRAWS = 40_000


def estimates(**parts):
    """Mean, variance and true value of the estimate, each a vector `[18]`."""
    cohort = make_cohort([6], batch_size=6)
    algorithm = make(**parts)
    server, clients = start(algorithm, cohort)
    params = algorithm.params(server)

    def one(i):
        key = jax.random.fold_in(jax.random.key(5), i)
        after, _, _ = algorithm.round(key, server, clients, cohort)
        step = optax.tree.sub(params, algorithm.params(after))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step)])

    run = jax.jit(lambda i: jax.lax.map(one, i, batch_size=10_000))
    drawn = np.asarray(run(jnp.arange(DRAWS)), np.float64)
    true = jax.grad(softmax_task().loss)(
        params, cohort.examples, jnp.ones(6, bool), jax.random.key(0)
    )
    true = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(true)])
    return drawn.mean(0), drawn.var(0, ddof=1), true


def is_unbiased(mean, variance, true):
    """Within 6.5 standard errors in all 18 coordinates: false alarm below 1e-6.

    Weights are below 10 here, so one draw has little to say in so many.
    """
    bound = 6.5 * np.sqrt(variance / DRAWS) + 1e-6
    return bool((np.abs(mean - true) < bound).all())


UNBIASED = {
    "refinement": random_k(0.5),
    "importance": importance(loss_score(), tau=3.0),
}


@pytest.mark.thorough
def test_the_whole_estimate_is_unbiased():
    assert is_unbiased(*estimates(**UNBIASED))


@pytest.mark.thorough
def test_planted_faults_are_found(monkeypatch):
    coarse = {"importance": UNBIASED["importance"]}
    assert not is_unbiased(*estimates(**coarse))
    module = sys.modules[data_quantization.__module__]
    monkeypatch.setattr(module, "weight_of", lambda e: jnp.ones(e.shape, jnp.float32))
    assert not is_unbiased(*estimates(**UNBIASED))


def test_a_downlink_with_memory_is_refused():
    with pytest.raises(ValueError, match="without memory"):
        make(downlink=differenced(top_k(0.5))).init(
            jax.random.key(0), softmax_task().init(jax.random.key(1))
        )
