"""Variance monitoring (FDA): its bound, its limit cases, and what its reports cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.algorithms.dynamic_averaging import never, periodic
from fedjax_comp.algorithms.model_averaging import Moved, model_averaging
from fedjax_comp.algorithms.variance_monitoring import variance_monitoring
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
NUM_LEARNERS = 6
COHORT = make_cohort([6, 4, 6, 2, 5, 6], batch_size=2)
TRIGGER = jax.jit(variance_monitoring(1.0))


def run(trigger, rounds=4):
    algorithm = model_averaging(TASK, trigger, optimizer=optax.sgd(0.4))
    server, template = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients = stack_clients(template, NUM_LEARNERS)
    step = jax.jit(algorithm.round)
    infos, servers = [], [server]
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, COHORT)
        infos.append(totals(info.traffic))
        servers.append(server)
    return servers, clients, infos


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31), scale=st.floats(0.01, 2.0), drift=st.floats(0.0, 3.0)
)
def test_the_variance_is_bounded_while_nobody_is_averaged(seed, scale, drift):
    """Against NumPy in float64; along r's last step the common part is taken off."""
    rng = np.random.default_rng(seed)
    heading = rng.normal(size=5)
    unit = heading / np.linalg.norm(heading)
    rows = (scale * rng.normal(size=(7, 5)) + drift * unit).astype(np.float32)
    weights = rng.uniform(0.5, 2.0, 7).astype(np.float32)
    able = rng.random(7) < 0.8
    state = Moved(
        jnp.asarray(rows),
        jnp.asarray(able),
        jnp.asarray(weights),
        jnp.int32(0),
        jnp.asarray(heading, jnp.float32),
    )
    got = TRIGGER(jax.random.key(0), state)
    members = np.asarray(got.members)
    assert members.tolist() in (able.tolist(), [False] * 7)
    if not able.any():
        return
    shares = weights[able] / weights[able].astype(np.float64).sum()
    of_able = rows[able].astype(np.float64)
    squares = shares @ (of_able**2).sum(1)
    variance = squares - ((shares @ of_able) ** 2).sum()
    bound = squares - (shares @ of_able @ unit) ** 2
    assert bound >= variance - 1e-9
    if abs(bound - 1.0) > 1e-4:
        assert members.any() == (bound > 1.0)
    np.testing.assert_allclose(
        np.asarray(got.reports.along), rows @ unit, rtol=1e-4, atol=1e-5
    )


def test_no_bound_is_periodic_averaging_and_two_numbers():
    servers, clients, infos = run(variance_monitoring(0.0))
    others, periodic_clients, theirs = run(periodic())
    equal(servers[-1].reference, others[-1].reference)
    equal(clients, periodic_clients)
    for own, other in zip(infos, theirs, strict=True):
        assert own.uplink_bytes - other.uplink_bytes == 8 * NUM_LEARNERS
        assert own.downlink_bytes - other.downlink_bytes == NUM_LEARNERS  # polls
    # What r moved by last is what the coordinator keeps for the reports.
    moved = optax.tree.sub(servers[-1].reference, servers[-2].reference)
    equal(servers[-1].step, moved)


def test_an_infinite_bound_costs_the_reports_alone():
    _, clients, infos = run(variance_monitoring(float("inf")))
    _, alone, _ = run(never())
    equal(clients, alone)
    for info in infos:
        assert (info.uplink_bytes, info.downlink_bytes) == (8 * NUM_LEARNERS, 0)


def test_mistakes_are_named():
    for theta in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="theta="):
            variance_monitoring(theta)
