"""Local training against plain loops and limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.client.sgd import Learner, local_sgd, local_steps, plain_rate
from tests.problems import make_cohort, softmax_task

TASK = softmax_task()


KEY = jax.random.key(0)


def client(cohort, i):
    return jax.tree.map(lambda x: x[i], cohort.clients)


SCHEDULES = {
    "rate": optax.sgd(optax.piecewise_constant_schedule(0.1, {2: 0.1})),
    "in a chain": optax.chain(
        optax.clip(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 10))
    ),
    "injected": optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1, 0, 5)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_would_begin_anew_every_round_is_refused(name):
    with pytest.raises(ValueError, match="without a schedule"):
        local_sgd(TASK, SCHEDULES[name])


def test_a_schedule_that_shows_on_the_parameters_alone_is_refused_too():
    labels = {"kernel": "slow", "bias": "fast"}
    optimizer = optax.multi_transform(
        {"slow": SCHEDULES["rate"], "fast": optax.sgd(0.1)}, labels
    )
    update = local_sgd(TASK, optimizer)
    cohort = make_cohort([3], batch_size=3)
    with pytest.raises(ValueError, match="without a schedule"):
        update(TASK.init(jax.random.key(0)), cohort.examples, client(cohort, 0))


@pytest.mark.parametrize(
    "optimizer", [optax.adamw(0.1), optax.inject_hyperparams(optax.sgd)(0.1)]
)
def test_counts_that_are_no_schedule_are_taken(optimizer):
    local_sgd(TASK, optimizer)


def test_equals_a_loop_over_the_examples_there_are():
    cohort = make_cohort([7], batch_size=3, epochs=2)
    params = TASK.init(jax.random.key(0))
    optimizer = optax.sgd(0.3, momentum=0.9)
    got, info = jax.jit(local_sgd(TASK, optimizer))(
        params, cohort.examples, client(cohort, 0)
    )
    expected, state = params, optimizer.init(params)
    losses, used = 0.0, 0
    value_and_grad = jax.jit(jax.value_and_grad(TASK.loss))
    for _ in range(2):
        for rows in ([0, 1, 2], [3, 4, 5], [6]):
            batch = jax.tree.map(
                lambda x, rows=rows: x[jnp.array(rows)], cohort.examples
            )
            mask = jnp.ones(len(rows), bool)
            loss, grads = value_and_grad(expected, batch, mask, KEY)
            updates, state = optimizer.update(grads, state, expected)
            expected = optax.apply_updates(expected, updates)
            losses, used = losses + float(loss) * len(rows), used + len(rows)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)
    assert int(info.steps) == 6
    assert float(info.examples_used) == used == 14
    np.testing.assert_allclose(info.loss_sum, losses, rtol=1e-5)


def test_masked_steps_leave_momentum_alone():
    # With momentum an empty step taken by mistake would still move the parameters.
    cohort = make_cohort([2, 9], batch_size=2)
    params = TASK.init(jax.random.key(0))
    update = jax.jit(local_sgd(TASK, optax.sgd(0.3, momentum=0.9)))
    short = client(cohort, 0)
    got, info = update(params, cohort.examples, short)
    trimmed = short._replace(rows=short.rows[:1], mask=short.mask[:1])
    expected, _ = update(params, cohort.examples, trimmed)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert int(info.steps) == 1


def test_an_inactive_client_does_nothing():
    cohort = make_cohort([4], batch_size=2)
    params = TASK.init(jax.random.key(0))
    idle = client(cohort, 0)._replace(active=jnp.array(False))
    got, info = local_sgd(TASK, optax.sgd(1.0))(params, cohort.examples, idle)
    jax.tree.map(np.testing.assert_array_equal, got, params)
    assert int(info.steps) == 0


def test_proximal_term_is_the_gradient_of_half_mu_squared_distance():
    cohort = make_cohort([6], batch_size=2)
    params = TASK.init(jax.random.key(0))
    mu, rate = 0.7, 0.1
    got, _ = local_sgd(TASK, optax.sgd(rate), proximal=mu)(
        params, cohort.examples, client(cohort, 0)
    )

    def penalised(w, batch, mask, key):
        distance = sum(jnp.sum((w[name] - params[name]) ** 2) for name in w)
        return TASK.loss(w, batch, mask, key) + mu / 2 * distance

    expected = params
    for start in (0, 2, 4):
        batch = jax.tree.map(lambda x, s=start: x[s : s + 2], cohort.examples)
        grads = jax.grad(penalised)(expected, batch, jnp.ones(2, bool), KEY)
        expected = jax.tree.map(lambda w, g: w - rate * g, expected, grads)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_learner_keeps_its_momentum_and_is_not_pulled_back():
    cohort = make_cohort([8], batch_size=2)
    work, optimizer = client(cohort, 0), optax.sgd(0.1, momentum=0.9)
    train = jax.jit(local_steps(TASK, optimizer))
    params = TASK.init(jax.random.key(0))
    start = Learner(params, optimizer.init(params))
    whole, _ = train(start, cohort.examples, work)
    learner = start
    for steps in (slice(0, 1), slice(1, 4)):
        part = work._replace(rows=work.rows[steps], mask=work.mask[steps])
        learner, _ = train(learner, cohort.examples, part)
    for a, b in zip(jax.tree.leaves(learner), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("proximal", [-1.0, float("nan"), float("inf")])
def test_refuses_a_proximal_term_that_is_none(proximal):
    with pytest.raises(ValueError, match="proximal"):
        local_sgd(TASK, optax.sgd(0.1), proximal=proximal)


def test_mapped_clients_share_the_examples():
    """A copy for each client of every array is what they are not to cost."""
    cohort = make_cohort([5, 3, 4, 2], batch_size=2)
    params, update = TASK.init(jax.random.key(0)), local_sgd(TASK, optax.sgd(0.1))
    mapped = jax.vmap(update, in_axes=(None, None, 0))
    text = str(jax.make_jaxpr(mapped)(params, cohort.examples, cohort.clients))
    copied = (4, *cohort.examples.x.shape)
    assert f"[{','.join(map(str, copied))}]" not in text
    assert f"[{','.join(map(str, cohort.examples.x.shape))}]" in text


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.3), optax.scale(-0.3), optax.chain(optax.identity(), optax.sgd(0.3))],
)
def test_plain_sgd_has_a_rate(optimizer):
    assert plain_rate(optimizer, "here") == pytest.approx(0.3, rel=1e-6)


NOT_PLAIN = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adaptive": optax.adam(0.1),
    "decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "clipped": optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    "clipped as a whole": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "signs": optax.chain(optax.scale_by_sign(), optax.sgd(0.1)),
    "of parts": optax.multi_transform({"w": optax.sgd(0.1)}, {"w": "w"}),
    "nothing": optax.sgd(0.0),
    "uphill": optax.sgd(-0.1),
    "no number": optax.sgd(float("nan")),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_has_none(name):
    message = (
        r"a plain optax.sgd\(rate\), rate > 0, as the client optimizer of mine: no"
    )
    with pytest.raises(ValueError, match=message):
        plain_rate(NOT_PLAIN[name], "of mine")


def test_a_schedule_has_no_rate():
    with pytest.raises(ValueError, match="without a schedule"):
        plain_rate(optax.sgd(optax.linear_schedule(0.1, 0.0, 5)), "of mine")
