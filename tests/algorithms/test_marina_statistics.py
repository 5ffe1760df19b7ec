"""MARINA's step is unbiased: its mean over the noise is that of what clients sent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.marina import marina
from fedjax_comp.base import Compressor
from fedjax_comp.compress import random_k, stochastic_quantize
from tests.concentration import mean_radius
from tests.problems import make_cohort, softmax_task, stack_clients

SIZES = [6, 3, 9]
TRIALS = 1 << 15
ALARM = 1e-8
FAULT = 0.02


def flat(tree):
    """The leaves of a tree as one vector, leading axes kept: `[..., 18]`."""
    lead = jax.tree.leaves(tree)[0].shape[:-1]  # of the bias
    return jnp.concatenate([x.reshape(*lead, -1) for x in jax.tree.leaves(tree)], -1)


def second_round(uplink, key):
    """What a round of differences adds to the estimate, and what each client sent."""
    task, cohort = softmax_task(), make_cohort(SIZES, batch_size=9)
    algorithm = marina(
        task,
        client_optimizer=optax.sgd(0.5),
        uplink=uplink,
        probability=1e-9,
        keep_messages=True,
    )
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, len(SIZES))
    server, *_ = algorithm.round(jax.random.key(2), server, clients, cohort)
    after, _, info = algorithm.round(key, server, clients, cohort)
    moved = optax.tree.sub(after.estimate, server.estimate)
    return flat(moved), flat(info.messages["uplink"].used)


@pytest.fixture(scope="module")
def exact():
    """The mean of what is to be sent, `[18]`, and how far a draw may be from it.

    Of half the coordinates, doubled, the error is as long as the vector. The errors of
    three clients, weighted by examples, are no longer than the sum of theirs.
    """
    fine = stochastic_quantize(levels=2**16)
    _, sent = jax.jit(lambda key: second_round(fine, key))(jax.random.key(3))
    sent = np.asarray(sent, np.float64)
    step = np.average(sent, axis=0, weights=SIZES)
    reach = np.average(np.linalg.norm(sent, axis=1), weights=SIZES)
    return step, 1.001 * reach / np.linalg.norm(step)


@pytest.fixture(scope="module")
def steps():
    """`(factor) -> [T, 18]`: with messages that decode to so many times too much."""

    def scaled(factor):
        honest = random_k(0.5)

        def decode(context, payload, receiver):
            tree, receiver = honest.decode(context, payload, receiver)
            return jax.tree.map(lambda x: factor * x, tree), receiver

        return Compressor(honest.init, honest.encode, decode)

    @jax.jit
    def drawn(keys, factor):
        return jax.vmap(lambda key: second_round(scaled(factor), key)[0])(keys)

    keys = jax.random.split(jax.random.key(4), TRIALS)
    return lambda factor: np.asarray(drawn(keys, jnp.float32(factor)), np.float64)


def is_unbiased(steps, exact):
    """Whether `<d, mean step> / ||d||^2` is 1, `d` what is to be sent."""
    step, reach = exact
    along = steps @ step / (step @ step)
    radius = float(mean_radius(along, 2 * reach, alarm=ALARM))
    assert radius < 0.8 * FAULT, f"a bias of {radius} would pass"
    # What the fine quantizer rounds is far below.
    return abs(along.mean() - 1) < radius + 1e-4


@pytest.mark.thorough
def test_the_step_is_unbiased(steps, exact):
    assert is_unbiased(steps(1.0), exact)


@pytest.mark.thorough
@pytest.mark.parametrize("factor", [1 - FAULT, 1 + FAULT])
def test_a_step_that_is_off_by_two_percent_is_caught(steps, exact, factor):
    assert not is_unbiased(steps(factor), exact)
