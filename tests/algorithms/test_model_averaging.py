"""Averaging under any trigger: what is not finite stays where it came from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.dynamic_averaging import periodic
from fedjax_comp.algorithms.model_averaging import Members, model_averaging
from fedjax_comp.base import ClientBatches, Cohort, Examples, Task
from fedjax_comp.compress import error_feedback, qsgd
from tests.problems import stack_clients

LINEAR = Task(
    None, lambda w, e, mask, key: -jnp.sum(w * jnp.mean(e.x, axis=0)), lambda *_: {}
)
"""A learner's step is along its example, as far as that is long."""


def steps_along(*sizes):
    m, rows = len(sizes), jnp.arange(len(sizes), dtype=jnp.int32)
    x = jnp.tile(jnp.asarray(sizes, jnp.float32)[:, None], (1, 2))
    keys = jax.random.split(jax.random.key(0), m)
    clients = ClientBatches(
        *(rows, rows.reshape(m, 1, 1), jnp.ones((m, 1, 1), bool)),
        *(jnp.ones(m, jnp.int32), jnp.ones(m, bool), keys),
    )
    return Cohort(Examples(x, jnp.zeros(m)), clients)


@pytest.mark.parametrize("links", ["uplink", "downlink", "both"])
def test_a_message_that_overflows_is_dropped_and_not_remembered(links):
    owing, plain = error_feedback(qsgd(8)), qsgd(8)
    algorithm = model_averaging(
        LINEAR,
        periodic(),
        optimizer=optax.sgd(1.0),
        uplink=plain if links == "downlink" else owing,
        downlink=plain if links == "uplink" else owing,
    )
    coordinator, template = algorithm.init(jax.random.key(0), jnp.zeros(2))
    learners, step = stack_clients(template, 3), jax.jit(algorithm.round)
    dropped, averages = [], []
    for t in range(5):
        cohort = steps_along(1.0, 2.0, 3e38 if t == 1 else 3.0)
        coordinator, learners, info = step(
            jax.random.key(t), coordinator, learners, cohort
        )
        dropped.append(int(info.dropped))
        averages.append(np.asarray(coordinator.average))
    assert dropped == [0, 1, 0, 0, 0]  # the one that overflowed, in that round
    for leaf in jax.tree.leaves((coordinator, learners)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))
    assert np.all(averages[4] > averages[1])


def test_what_members_do_not_hear_cannot_harm_their_average():
    rows = [[1.0, 1.0], [3.0, 3.0], [0.0, 0.0]]
    algorithm = model_averaging(
        LINEAR, first_two, optimizer=optax.sgd(1.0), uplink=qsgd(8)
    )
    coordinator, template = algorithm.init(jax.random.key(0), jnp.zeros(2))
    cohort = steps_along(*(row[0] for row in rows[:2]), 3e38)
    coordinator, _, info = jax.jit(algorithm.round)(
        jax.random.key(1), coordinator, stack_clients(template, 3), cohort
    )
    assert int(info.dropped) == 1
    np.testing.assert_allclose(coordinator.average, [2.0, 2.0], rtol=0.3)


def first_two(key, moved):
    del key
    members = moved.able & (jnp.arange(moved.able.shape[0]) < 2)
    nobody = jnp.zeros_like(members)
    return Members(members, nobody, nobody)
