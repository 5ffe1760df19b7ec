"""Scores against NumPy, thresholds against their equation, weights against theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.algorithms.importance import (
    draw,
    gradient_norm,
    importance,
    level_for_rate,
    loss_score,
    probability_exponents,
)
from fedjax_comp.algorithms.links.example_link import weight_of
from tests.problems import make_examples, softmax_task

EXAMPLES = make_examples(6)
MASK = jnp.array([True, True, True, True, True, False])


TASK = softmax_task()


def softmax_parts():
    """Parameters, each example's logit gradient, and its input with the bias's 1."""
    params = TASK.init(jax.random.key(1))
    x = np.asarray(EXAMPLES.x, np.float64)
    logits = x @ np.asarray(params["kernel"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return params, p, p - np.eye(3)[np.asarray(EXAMPLES.y)], x


def test_scores_are_losses_and_gradient_norms():
    params, p, delta, x = softmax_parts()
    losses = -np.log(p[np.arange(6), np.asarray(EXAMPLES.y)])
    size = np.linalg.norm(delta, axis=1)
    expected = {
        loss_score(): losses,
        gradient_norm(): size * np.sqrt((x**2).sum(1) + 1),
        gradient_norm(layer="kernel"): size * np.linalg.norm(x, axis=1),
    }
    for score, value in expected.items():
        got = jax.jit(score, static_argnums=0)(
            TASK, params, EXAMPLES, MASK, jax.random.key(0)
        )
        np.testing.assert_allclose(got[:5], value[:5], rtol=1e-5)
        assert float(got[5]) == 0
    with pytest.raises(ValueError, match="layer='Dense_1'"):
        gradient_norm(layer="Dense_1")(TASK, params, EXAMPLES, MASK, jax.random.key(0))


def test_the_level_gives_the_rate():
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.3, 0.5, 0.95):
        scores = rng.exponential(size=40) ** 3
        mask = rng.uniform(size=40) < 0.8
        level = level_for_rate(
            jnp.asarray(scores, jnp.float32), jnp.asarray(mask), rate
        )
        chance = np.minimum(1, scores[mask] / float(level))
        assert abs(chance.mean() - rate) < 1e-5
    assert float(level_for_rate(jnp.zeros(3), jnp.ones(3, bool), 0.5)) == 0


def test_probabilities_are_rounded_up_and_weights_are_their_inverse():
    scores = jnp.asarray(np.geomspace(1e-4, 3, 200), jnp.float32)
    exponents = probability_exponents(scores, jnp.float32(1.0))
    chance = 1 / np.asarray(weight_of(exponents), np.float64)
    share = np.maximum(np.minimum(np.asarray(scores, np.float64), 1), 2 ** (-63 / 8))
    assert (chance >= share * (1 - 1e-5)).all()
    assert (chance <= share * 2 ** (1 / 8) * (1 + 1e-5)).all()
    assert probability_exponents(jnp.zeros(2), jnp.float32(0)).tolist() == [0, 0]


def test_examples_are_drawn_with_the_probability_of_their_weight():
    exponents = jnp.array([0, 4, 16, 40], jnp.uint8)
    draws = 100_000
    keys = jax.random.split(jax.random.key(3), draws)
    share = np.asarray(jax.vmap(lambda key: draw(key, exponents))(keys)).mean(0)
    # Hoeffding, below 1e-7 for each of the four.
    bound = np.sqrt(np.log(2e7) / (2 * draws))
    np.testing.assert_array_less(
        np.abs(share - 1 / np.asarray(weight_of(exponents))), bound
    )
    assert share[0] == 1


def test_a_tuned_threshold_comes_to_its_rate_and_follows_the_scores():
    layer = importance(loss_score(), rate=0.3)
    rng = np.random.default_rng(1)
    mask = jnp.ones(8, bool)

    @jax.jit
    def step(state, scores):
        tau = layer.threshold(state, scores, mask)
        rate = (1 / weight_of(probability_exponents(scores, tau))).mean()
        return layer.update(state, tau, rate), rate

    state, rates = layer.init(), []
    for i in range(1200):
        size = 1.0 if i < 600 else 0.05  # losses fall as training goes on
        scores = jnp.asarray(size * rng.exponential(size=8), jnp.float32)
        state, rate = step(state, scores)
        rates.append(float(rate))
    for part in (rates[:600], rates[700:]):
        # The sum of the errors is the change of log tau: bounded, whatever the scores.
        assert abs(np.mean(part) - 0.3) < 4 / len(part)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either tau or rate"),
        ({"tau": 1.0, "rate": 0.5}, "either tau or rate"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"tau": float("inf")}, "tau=inf"),
        ({"rate": 1.0}, "rate=1.0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        importance(loss_score(), **arguments)
