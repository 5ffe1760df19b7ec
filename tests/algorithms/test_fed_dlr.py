"""FedDLR against NumPy, its limit cases, and every message as bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.base import Task
from fedjax_comp.compress import (
    chain,
    differenced,
    entropy_coded,
    error_feedback,
    identity,
    low_rank,
    scaled_sign,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.compress.low_rank.truncation import truncation
from fedjax_comp.wire.traffic import totals
from tests.problems import NUM_FEATURES, make_cohort, softmax_task, stack_clients
from tests.traced_once import traced_once

OUTPUTS = 12
LINK = truncation(0.9)


def _task():
    """The softmax problem with a 5x12 matrix, four columns to a class."""
    small = softmax_task()

    def init(key):
        kernel = 0.3 * jax.random.normal(key, (NUM_FEATURES, OUTPUTS))
        return {"bias": jnp.zeros(3), "kernel": kernel}

    def loss(params, examples, mask, key):
        mixed = params["kernel"].reshape(NUM_FEATURES, 3, 4).sum(2)
        return small.loss(
            {"bias": params["bias"], "kernel": mixed}, examples, mask, key
        )

    return Task(init, loss, None)


TASK = _task()
PARAMS = TASK.init(jax.random.key(1))
COHORT = make_cohort([6, 3, 9], batch_size=3)


def _run(algorithm, *, rounds=1, cohort=COHORT, params=PARAMS):
    server, template = algorithm.init(jax.random.key(2), params)
    clients = stack_clients(template, cohort.clients.client_id.shape[0])
    step, infos = traced_once(algorithm.round), []
    for i in range(rounds):
        server, clients, info = step(jax.random.key(10 + i), server, clients, cohort)
        infos.append(info)
    return server, infos


def _assert_close(a, b, **tolerances):
    tolerances = {"rtol": 2e-5, "atol": 2e-6, **tolerances}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b)


def test_truncations_that_lose_nothing_are_federated_averaging():
    optimizer, exact = optax.sgd(0.5), truncation()
    ours = fed_dlr(TASK, client_optimizer=optimizer, uplink=exact, downlink=exact)
    theirs = fed_avg(TASK, client_optimizer=optimizer)
    server, infos = _run(ours, rounds=2)
    expected, other = _run(theirs, rounds=2)
    _assert_close(ours.params(server), theirs.params(expected))
    np.testing.assert_allclose(infos[1].train_loss, other[1].train_loss, rtol=1e-5)
    assert float(infos[1].observed["downlink_loss"].value) == 0


def _truncated(kernel, energy):
    u, s, v = np.linalg.svd(kernel, full_matrices=False)
    reached = np.cumsum(s**2) / np.sum(s**2)
    rank = int(np.searchsorted(reached, energy)) + 1
    m, n = kernel.shape
    return (
        (kernel, None)
        if rank * (m + n) >= m * n
        else ((u[:, :rank] * s[:rank]) @ v[:rank], rank)
    )


def test_a_round_in_numpy():
    """Truncate, train from it, truncate again, average matrices, truncate again."""
    energy = 0.8
    link = truncation(energy)
    algorithm = fed_dlr(
        TASK, client_optimizer=optax.sgd(0.5), uplink=link, downlink=link
    )
    server, (info,) = _run(algorithm)
    sent, rank_down = _truncated(np.asarray(PARAMS["kernel"], np.float64), energy)
    grad, total, ranks = jax.jit(jax.grad(TASK.loss)), 0, []
    for i, size in enumerate([6, 3, 9]):
        own = {"bias": PARAMS["bias"], "kernel": jnp.asarray(sent, jnp.float32)}
        rows, masks = COHORT.clients.rows[i], COHORT.clients.mask[i]
        for row, mask in zip(rows, masks, strict=True):
            if mask.any():
                batch = jax.tree.map(lambda x, row=row: x[row], COHORT.examples)
                step = grad(own, batch, mask, jax.random.key(0))
                own = jax.tree.map(lambda w, g: w - 0.5 * g, own, step)
        kernel, rank = _truncated(np.asarray(own["kernel"], np.float64), energy)
        ranks.append(rank)
        total = total + size / 18 * kernel
    expected, _ = _truncated(total, energy)
    np.testing.assert_allclose(algorithm.params(server)["kernel"], expected, atol=5e-6)
    assert rank_down is not None
    assert None not in ranks
    count_bits = (5 * 12).bit_length()
    numbers = [3 + rank * (5 + 12) for rank in ranks]
    assert totals(info.traffic).uplink_bits == 32 * sum(numbers) + 3 * count_bits
    assert totals(info.traffic).downlink_bits == 3 * (
        32 * (3 + rank_down * 17) + count_bits
    )


@pytest.mark.parametrize("factored", [False, True])
def test_every_message_decodes_from_its_bytes_as_ranks_change(factored):
    algorithm = fed_dlr(
        TASK,
        client_optimizer=optax.sgd(1.0),
        uplink=error_feedback(LINK),
        downlink=LINK,
        factored=factored,
        keep_messages=True,
    )
    _, infos = _run(algorithm, rounds=4)  # `_run` asserts one compilation
    auditors = {
        "uplink": make_auditor(error_feedback(LINK)),
        "downlink": make_auditor(LINK),
    }
    counts = set()
    for info in infos:
        for direction, messages in info.messages.items():
            audit = auditors[direction](messages)
            assert audit.audited > 0
            assert audit.failures == ()
        counts |= set(np.asarray(info.traffic["uplink"].bits.variable[0]).tolist())
    assert len(counts) > 1


def test_factored_training_stays_within_the_rank_that_was_sent():
    down = truncation(max_rank=1)
    algorithm = fed_dlr(
        TASK,
        client_optimizer=optax.sgd(0.5),
        uplink=identity(),
        downlink=down,
        factored=True,
    )
    alone = make_cohort([9], batch_size=3)
    server, infos = _run(algorithm, rounds=3, cohort=alone)
    kernel = np.asarray(algorithm.params(server)["kernel"], np.float64)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert values[1] < 1e-5 * values[0]
    # One client's model is of rank one as it comes, so that truncating takes nothing.
    assert max(float(info.observed["downlink_loss"].value) for info in infos) < 1e-10
    losses = [float(info.train_loss) for info in infos]
    assert losses[2] < losses[1] < losses[0]


def test_factors_taken_apart_are_those_that_were_sent():
    def trained(**factors):
        algorithm = fed_dlr(
            TASK,
            client_optimizer=optax.sgd(0.5),
            uplink=identity(),
            downlink=low_rank(2),
            **factors,
        )
        server, _ = _run(algorithm, rounds=2)
        return algorithm.params(server)

    # Up to signs, which gradient steps keep.
    _assert_close(trained(factor_rank=2), trained(factored=True), rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_quantized_factors_are_trained_within_their_rank():
    down = chain(low_rank(1), stochastic_quantize(levels=256), entropy_coded())

    def losses(**factors):
        algorithm = fed_dlr(
            TASK,
            client_optimizer=optax.sgd(0.5),
            uplink=identity(),
            downlink=down,
            **factors,
        )
        alone = make_cohort([9], batch_size=3)
        server, infos = _run(algorithm, rounds=4, cohort=alone)
        kernel = np.asarray(algorithm.params(server)["kernel"], np.float64)
        values = np.linalg.svd(kernel, compute_uv=False)
        assert values[1] < 1e-5 * values[0]
        return [float(info.observed["downlink_loss"].value) for info in infos]

    # Of a matrix the truncation takes what was learned outside of the rank that was
    # sent; of factors only rounding is left, which 256 levels make of order 1e-5.
    assert max(losses(factor_rank=1)) < 1e-4 < max(losses())


def test_feedback_gives_back_what_a_truncation_took():
    """What was sent and what is still owed add up to what there was to send."""
    link = error_feedback(truncation(max_rank=1))
    state = link.init(PARAMS)
    algorithm = fed_dlr(
        TASK, client_optimizer=optax.sgd(0.0), uplink=truncation(), downlink=link
    )
    server, _ = algorithm.init(jax.random.key(0), PARAMS)
    owed = server.downlink.sender.memory[1]
    _assert_close(server.model["kernel"] + owed, PARAMS["kernel"])
    assert state.sender.memory[1].shape == owed.shape
    assert float(jnp.abs(owed).max()) > 0


def test_a_round_without_clients_changes_nothing():
    algorithm = fed_dlr(TASK, client_optimizer=optax.sgd(0.5))
    server, _ = algorithm.init(jax.random.key(2), PARAMS)
    nobody = COHORT.clients._replace(active=jnp.zeros(3, bool))
    after, (info,) = _run(algorithm, cohort=COHORT._replace(clients=nobody))
    _assert_close(after.model, server.model, rtol=0, atol=0)
    assert totals(info.traffic).uplink_bits == totals(info.traffic).downlink_bits == 0


def test_a_client_that_breaks_is_left_out():
    broken = COHORT.examples._replace(x=COHORT.examples.x.at[7].set(jnp.inf))
    cohort = COHORT._replace(examples=broken)
    algorithm = fed_dlr(TASK, client_optimizer=optax.sgd(0.5))
    server, (info,) = _run(algorithm, cohort=cohort)
    assert int(info.dropped) == 1
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), server.model))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="without memory"):
        fed_dlr(
            TASK, client_optimizer=optax.sgd(1.0), downlink=differenced(top_k(0.5))
        ).init(jax.random.key(0), PARAMS)
    with pytest.raises(ValueError, match="rank=0"):
        fed_dlr(TASK, client_optimizer=optax.sgd(1.0), factor_rank=0)
    with pytest.raises(ValueError, match="factored=True"):
        fed_dlr(
            TASK, client_optimizer=optax.sgd(1.0), downlink=scaled_sign(), factored=True
        ).init(jax.random.key(0), PARAMS)
