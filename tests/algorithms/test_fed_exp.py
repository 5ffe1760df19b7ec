"""FedExP: its step against NumPy, between its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, fed_exp
from fedjax_comp.base import Examples, Task
from fedjax_comp.compress import error_feedback, top_k
from tests.problems import make_cohort, stack_clients

SIZE, RATE = 5, 0.4
TARGETS = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)


def pulls(targets, dtype=jnp.float32):
    """One local step moves client `i` by `RATE (t_i - w)`."""

    def loss(w, examples, mask, key):
        del key
        rows = jnp.where(mask[:, None], examples.x, 0).sum(0)
        held = jnp.where(mask.any(), 1, 0).astype(jnp.float32)
        return held * jnp.sum((w.astype(jnp.float32) - rows) ** 2) / 2

    task = Task(lambda key: jnp.zeros(SIZE, dtype), loss, None)
    cohort = make_cohort([1] * len(targets), batch_size=1)
    examples = Examples(jnp.asarray(targets, jnp.float32), cohort.examples.y)
    return task, cohort._replace(examples=examples)


def run(make, targets, weights, rounds=1, **options):
    task, cohort = pulls(targets)
    counts = jnp.asarray(weights, jnp.int32)
    cohort = cohort._replace(clients=cohort.clients._replace(num_examples=counts))
    algorithm = make(task, client_optimizer=optax.sgd(RATE), **options)
    server, client = algorithm.init(jax.random.key(0), jnp.zeros(SIZE))
    clients, step = stack_clients(client, len(targets)), jax.jit(algorithm.round)
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
    return np.asarray(algorithm.params(server)), info


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 5, 2)])
def test_it_is_its_algorithm_in_numpy(weights):
    w, shares, epsilon, factors = (
        np.zeros(SIZE),
        np.array(weights) / sum(weights),
        0.01,
        [],
    )
    for _ in range(4):
        moves = RATE * (TARGETS - w)
        mean = shares @ moves
        ratio = shares @ (moves**2).sum(1) / (2 * ((mean**2).sum() + epsilon))
        factors.append(max(1, ratio))
        w = w + factors[-1] * mean
    got, info = run(fed_exp, TARGETS, weights, 4, epsilon=epsilon)
    np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)
    step = info.observed["server_step"].value
    np.testing.assert_allclose(step, factors[-1], rtol=1e-4)
    assert max(factors) > 1.2  # the case that tells it from FedAvg


def test_clients_that_agree_are_averaged():
    same = np.repeat(TARGETS[:1], 3, axis=0)
    got, info = run(fed_exp, same, (1, 2, 3))
    expected, _ = run(fed_avg, same, (1, 2, 3))
    np.testing.assert_array_equal(got, expected)
    assert float(info.observed["server_step"].value) == 1


def test_orthogonal_updates_of_m_clients_are_followed_m_halves_as_far():
    got, info = run(fed_exp, np.eye(SIZE)[:4], (1, 1, 1, 1), epsilon=0.0)
    np.testing.assert_allclose(info.observed["server_step"].value, 2, rtol=1e-6)
    np.testing.assert_allclose(got[:4], 2 * RATE / 4, rtol=1e-6)


@pytest.mark.parametrize("size", [1e25, 1e-30, 0.0])
def test_where_squares_leave_float32_it_is_averaging(size):
    got, info = run(fed_exp, size * TARGETS, (1, 1, 1))
    expected, _ = run(fed_avg, size * TARGETS, (1, 1, 1))
    np.testing.assert_array_equal(got, expected)
    assert int(info.dropped) == 0


def test_lengths_are_those_of_what_was_decoded():
    sent = top_k(k=1)
    got, info = run(
        fed_exp, TARGETS, (1, 1, 1), uplink=error_feedback(sent), epsilon=0.0
    )
    moves = RATE * TARGETS
    largest = np.abs(moves) == np.abs(moves).max(axis=1, keepdims=True)
    moves = np.where(largest, moves, 0)
    mean = moves.mean(0)
    ratio = max(1, (moves**2).sum(1).mean() / (2 * (mean**2).sum()))
    np.testing.assert_allclose(info.observed["server_step"].value, ratio, rtol=1e-5)
    np.testing.assert_allclose(got, ratio * mean, rtol=1e-5, atol=1e-7)


def test_a_negative_epsilon_and_running_statistics_are_refused():
    task, _ = pulls(TARGETS)
    with pytest.raises(ValueError, match="epsilon=-1"):
        fed_exp(task, client_optimizer=optax.sgd(RATE), epsilon=-1.0)
    algorithm = fed_exp(task, client_optimizer=optax.sgd(RATE))
    with pytest.raises(ValueError, match="running statistics"):
        algorithm.init(jax.random.key(0), {"params": {}, "batch_stats": {}})
