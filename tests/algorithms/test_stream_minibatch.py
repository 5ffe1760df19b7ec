"""The pace of streams against an event simulation, and Krasulina's method."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.algorithms.stream_minibatch import (
    Rates,
    angle_error,
    decaying_step,
    krasulina_task,
    minibatch_sgd,
    pace,
)
from fedjax_comp.base import Examples
from fedjax_comp.data.arrivals import (
    ArrivalSpec,
    arrivals,
    draw_synthetic,
    synthetic,
)
from fedjax_comp.wire.traffic import totals
from tests.problems import make_examples, softmax_task


def simulate(rates, batch_size, num_nodes, rounds, iterations):
    """A queue of one minibatch, sample by sample: lost samples and elapsed time."""
    busy = batch_size / (num_nodes * rates.processing) + rounds / rates.messages
    waiting = lost = taken = 0
    free_at, number = 0.0, 0
    first_start = None
    while taken < iterations:
        now = number / rates.arriving
        number += 1
        if waiting < batch_size:
            waiting += 1
        else:
            lost += 1
        if waiting == batch_size and now >= free_at:
            if first_start is None:
                # What came before the first minibatch says nothing of the pace.
                first_start, lost = now, 0
            taken += 1
            waiting = 0
            free_at = now + busy
    return lost / (taken - 1), (now - first_start) / (taken - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 12),
    st.floats(0.2, 5.0),
    st.integers(0, 6),
    st.floats(0.3, 10.0),
)
def test_the_discard_formula_against_events(nodes, each, processing, rounds, messages):
    rates = Rates(10.0, processing * 3, messages * 3)
    batch_size, iterations = nodes * each, 40
    lost, seconds = simulate(rates, batch_size, nodes, rounds, iterations)
    expected = pace(rates, batch_size=batch_size, num_nodes=nodes, rounds=rounds)
    # Each minibatch starts with an arrival, so that it may wait for up to one more.
    assert expected.discarded - 1e-6 <= lost <= expected.discarded + 1 + 1e-6
    assert expected.seconds - 1e-9 <= seconds <= expected.seconds + 0.1 + 1e-9
    assert expected.arrived == pytest.approx(expected.seconds * rates.arriving)


def test_processors_that_are_too_slow_lose_whatever_the_batch():
    rates = Rates(1000.0, 100.0, 1e9)
    for batch_size in (4, 400, 40_000):
        lost = pace(rates, batch_size=batch_size, num_nodes=4, rounds=1).discarded
        # 400 of 1000 samples a second are processed.
        assert lost == pytest.approx(1.5 * batch_size, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pace(Rates(0.0, 1, 1), batch_size=1, num_nodes=1, rounds=0), "arriv"),
        (lambda: pace(Rates(1, 1, 1), batch_size=3, num_nodes=2, rounds=0), "size=3"),
        (lambda: pace(Rates(1, 1, 1), batch_size=2, num_nodes=2, rounds=-1), "rounds"),
        (lambda: decaying_step(0.0, 1.0), "scale=0.0"),
        (lambda: decaying_step(1.0, math.inf), "offset=inf"),
        (lambda: krasulina_task(1), "dimension=1"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def krasulina(data, spec, steps, scale, offset):
    """Error after each of `steps` minibatches, by the algorithm."""
    task = krasulina_task(data.root.shape[0])
    algorithm = minibatch_sgd(task, optimizer=optax.sgd(decaying_step(scale, offset)))
    sample = arrivals(spec, draw_synthetic)
    leading = data.root[:, 0] / jnp.linalg.norm(data.root[:, 0])
    server, template = algorithm.init(data.key, task.init(data.key))
    nodes = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (spec.num_nodes, *jnp.shape(x))), template
    )

    def step(server, t):
        cohort = sample(data.key, t, data)
        server, _, _ = algorithm.round(data.key, server, nodes, cohort)
        v = algorithm.params(server)
        return server, (v, angle_error(v, leading))

    return jax.lax.scan(step, server, jnp.arange(steps, dtype=jnp.int32))[1]


def test_dm_krasulina_is_its_formula():
    """v + gamma (C v - (v C v / v v) v), in float64 loops."""
    data = synthetic(jax.random.key(1), [1.0, 0.4, 0.2, 0.1])
    spec = ArrivalSpec(num_nodes=3, batch_size=6, discarded=1.0)
    got, _ = jax.jit(lambda: krasulina(data, spec, 20, 3.0, 10.0))()
    v = np.asarray(krasulina_task(4).init(data.key), np.float64)
    for t in range(20):
        x = np.asarray(draw_synthetic(data, 7 * t + jnp.arange(6)).x, np.float64)
        covariance = x.T @ x / 6
        v = v + 3.0 / (10 + t) * (covariance @ v - (v @ covariance @ v) / (v @ v) * v)
        np.testing.assert_allclose(got[t], v, rtol=2e-4, atol=2e-5)


def test_the_loss_of_training_is_that_of_evaluation():
    task, v = krasulina_task(3), jnp.array([1.0, 2.0, -1.0])
    x = Examples(jax.random.normal(jax.random.key(0), (5, 3)), jnp.zeros(5, jnp.int32))
    mask = jnp.array([True, True, False, True, True])
    sums = task.evaluate(v, x, mask)
    loss = task.loss(v, x, mask, jax.random.key(1))
    np.testing.assert_allclose(loss, sums["loss"] / sums["count"], rtol=1e-6)


@pytest.mark.slow
def test_krasulinas_error_falls_as_one_over_the_arrivals():
    """On three spectra: the slope, and for large t the constant too.

    With steps c / t and Gaussian samples the error of coordinate j is stationary at
    (c^2 / B) lambda_1 lambda_j / (2 c (lambda_1 - lambda_j) - 1) / t.
    """
    batch, trials, steps, scale, offset = 8, 128, 3000, 8.0, 30.0
    keys = jax.random.split(jax.random.key(0), trials)
    runs = jax.jit(
        jax.vmap(
            lambda data: krasulina(data, ArrivalSpec(4, batch), steps, scale, offset)[1]
        )
    )
    for spectrum in ([1.0, 0.5, 0.3, 0.1], [1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.1, 0.0]):
        data = jax.vmap(lambda key, s=spectrum: synthetic(key, s))(keys)
        errors = np.asarray(runs(data), np.float64).mean(0)
        at = np.unique(np.geomspace(steps / 10, steps, 20).astype(int)) - 1
        arrived = batch * (at + 1)
        slope = np.polyfit(np.log(arrived), np.log(errors[at]), 1)[0]
        assert abs(slope + 1) < 0.15, (spectrum, slope)
        limit = sum(
            scale**2 / batch * spectrum[0] * value / (2 * scale * (1 - value) - 1)
            for value in spectrum[1:]
        )
        # A weighted sum of squares of normals varies by sqrt(2) of itself at most, the
        # mean of 128 by an eighth: five of these are one alarm in a million.
        assert errors[-1] * steps / limit == pytest.approx(1, abs=5 / 8)


def test_exact_averaging_is_a_step_along_the_mean_gradient():
    task, examples = softmax_task(), make_examples(12)
    algorithm = minibatch_sgd(task, optimizer=optax.sgd(0.3, momentum=0.9))
    sample = arrivals(
        ArrivalSpec(3, 6), lambda data, j: jax.tree.map(lambda x: x[j], data)
    )
    params = task.init(jax.random.key(0))
    server, template = algorithm.init(jax.random.key(1), params)
    nodes = jax.tree.map(lambda x: jnp.stack([x] * 3), template)
    step = jax.jit(algorithm.round)
    velocity = jax.tree.map(jnp.zeros_like, params)
    for t in range(2):
        cohort = sample(jax.random.key(2), jnp.int32(t), examples)
        server, nodes, info = step(jax.random.key(2), server, nodes, cohort)
        rows = slice(6 * t, 6 * t + 6)
        batch = Examples(examples.x[rows], examples.y[rows])
        gradient = jax.jit(jax.grad(task.loss))(
            params, batch, jnp.ones(6, bool), jax.random.key(0)
        )
        velocity = jax.tree.map(lambda m, g: 0.9 * m + g, velocity, gradient)
        params = jax.tree.map(lambda w, m: w - 0.3 * m, params, velocity)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            algorithm.params(server),
            params,
        )
        assert totals(info.traffic).uplink_messages == 3
        assert totals(info.traffic).uplink_bytes == 3 * 4 * 18
