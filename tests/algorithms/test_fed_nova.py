"""FedNova: its equation, from FedAvg's local models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_comp.algorithms import fed_avg, fed_nova
from tests.problems import make_cohort, softmax_task, stack_clients

SIZES = [6, 3, 9]


def moved(make, active=None):
    """What one round of clients of `SIZES` examples adds to the model, `[n]`."""
    task, cohort = softmax_task(), make_cohort(SIZES, batch_size=3)
    if active is not None:
        clients = cohort.clients._replace(active=active)
        cohort = cohort._replace(clients=clients)
    params = task.init(jax.random.key(1))
    algorithm = make(task, client_optimizer=optax.sgd(0.3))
    server, template = algorithm.init(jax.random.key(0), params)
    step = jax.jit(algorithm.round)
    server, _, _ = step(jax.random.key(2), server, stack_clients(template, 3), cohort)
    change = jax.tree.map(jnp.subtract, algorithm.params(server), params)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(change)])


def expected():
    """`(sum_i p_i tau_i) sum_i p_i (w_i - w) / tau_i`."""
    shares, steps = np.array(SIZES) / sum(SIZES), np.array(SIZES) / 3
    alone = [moved(fed_avg, jnp.arange(3) == i) for i in range(3)]
    each = [p * d / tau for p, d, tau in zip(shares, alone, steps, strict=True)]
    return (shares @ steps) * sum(each)


def test_it_is_its_equation():
    got = moved(fed_nova)
    np.testing.assert_allclose(got, expected(), rtol=2e-5, atol=2e-6)
    assert not np.allclose(got, moved(fed_avg), atol=1e-3)
