"""The task against a few lines of NumPy, and what masks must never let through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_comp.base import Examples
from fedjax_comp.execution import scanned
from fedjax_comp.models import char_lstm, classification, linear, mlp
from fedjax_comp.training import evaluation_program

SHAPE = (3, 2)
DIGITS = Examples(
    x=jnp.asarray(np.random.default_rng(0).integers(0, 17, (5, *SHAPE)), jnp.uint8),
    y=jnp.array([0, 3, 1, 2, 3]),
)
MASK = jnp.array([True, False, True, True, False])
NAMES = ("loss", "accuracy", "count")
KEY = jax.random.key(5)


def _linear_task():
    return classification(linear()(4), input_shape=SHAPE, scale=1 / 16)


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_loss_and_counts_are_those_of_numpy():
    task = _linear_task()
    params = jax.jit(task.init)(jax.random.key(0))
    weights, bias = (np.asarray(params["Dense_0"][k]) for k in ("kernel", "bias"))
    x = np.asarray(DIGITS.x, np.float32).reshape(5, -1) / 16
    scores = _log_softmax(x @ weights + bias)
    losses = -scores[np.arange(5), np.asarray(DIGITS.y)]
    hits = scores.argmax(-1) == np.asarray(DIGITS.y)
    kept = np.asarray(MASK)
    np.testing.assert_allclose(
        task.loss(params, DIGITS, MASK, KEY), losses[kept].mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        [task.evaluate(params, DIGITS, MASK)[name] for name in NAMES],
        (losses[kept].sum(), hits[kept].sum(), 3),
        rtol=1e-5,
    )


def test_a_masked_row_changes_nothing_whatever_it_holds():
    task = classification(mlp(3)(4), input_shape=SHAPE)
    params = jax.jit(task.init)(jax.random.key(0))
    broken = Examples(
        x=jnp.where(MASK[:, None, None], DIGITS.x.astype(jnp.float32), jnp.nan),
        y=jnp.where(MASK, DIGITS.y, 99),
    )
    clean = jax.tree.map(lambda leaf: leaf[np.asarray(MASK)], DIGITS)
    expected = jax.jit(jax.value_and_grad(task.loss))(
        params, clean, jnp.ones(3, bool), KEY
    )
    actual = jax.jit(jax.value_and_grad(task.loss))(params, broken, MASK, KEY)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
        actual,
        expected,
    )


def test_nothing_unmasked_is_zero_with_zero_gradient():
    task = _linear_task()
    params = jax.jit(task.init)(jax.random.key(0))
    broken = Examples(jnp.full((2, *SHAPE), jnp.inf), jnp.array([-1, 7]))
    nothing = jnp.zeros(2, bool)
    loss, grads = jax.jit(jax.value_and_grad(task.loss))(params, broken, nothing, KEY)
    assert loss == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))
    sums = task.evaluate(params, broken, nothing)
    assert [float(sums[name]) for name in NAMES] == [0, 0, 0]


@pytest.mark.thorough
def test_tokens_are_labels_and_padding_is_not():
    vocabulary, padding = 6, 5
    task = classification(
        char_lstm(3, widths=(4,))(vocabulary),
        input_shape=(3,),
        input_dtype="int32",
        ignore_label=padding,
    )
    params = jax.jit(task.init)(jax.random.key(0))
    x = jnp.array([[0, 1, 2], [3, 4, 0], [1, 1, 1]], jnp.uint8)
    y = jnp.array([[1, 2, padding], [4, padding, padding], [1, 1, 1]])
    mask = jnp.array([True, True, False])
    logits = char_lstm(3, widths=(4,))(vocabulary).apply(
        {"params": params}, x.astype(jnp.int32)
    )
    scores = _log_softmax(np.asarray(logits))
    expected = -np.array([scores[0, 0, 1], scores[0, 1, 2], scores[1, 0, 4]])
    np.testing.assert_allclose(
        task.loss(params, Examples(x, y), mask, KEY), expected.mean(), rtol=1e-5
    )
    sums = task.evaluate(params, Examples(x, y), mask)
    np.testing.assert_allclose(sums["loss"], expected.sum(), rtol=1e-5)
    assert sums["count"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale=0.0 finite and not zero"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": 0.5, "input_dtype": "int32"}, "scale=0.5 was given"),
        ({"input_shape": (8, 0)}, r"input_shape=\(8, 0\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        classification(nn.Dense(2), **{"input_shape": (8,), **arguments})


class _Passed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("module", "told"),
    [(Normalized(), "train=False"), (Dropping(), "train=False")],
)
def test_a_module_that_keeps_statistics_or_draws_is_refused(module, told):
    task = classification(module, input_shape=(2, 2))
    with pytest.raises(ValueError, match=told):
        task.init(jax.random.key(0))


@pytest.mark.parametrize("top", [1, 2, 5, 9])
def test_labels_are_ranked_as_the_largest_logit_is_found(top):
    """Ties by place, as a stable sort has them; what is not finite is no hit."""
    some = np.random.default_rng(0).integers(0, 3, (40, 5)).astype(np.float32)
    logits = np.concatenate([some, np.zeros((5, 5), np.float32)])
    logits[::7, 3] = np.nan
    logits[1::7, 2] = np.inf
    labels = np.arange(45) % 5
    labels[-2:] = (-1, 5)  # no labels at all
    order = np.argsort(-np.where(np.isnan(logits), np.inf, logits), 1, kind="stable")
    places = np.argmax(order == labels[:, None], axis=1)
    finite = np.isfinite(logits[np.arange(45), labels % 5]) & (labels // 5 == 0)
    task = classification(_Passed(), input_shape=(5,), top=top)
    sums = jax.jit(task.evaluate)(
        {}, Examples(jnp.asarray(logits), jnp.asarray(labels)), jnp.ones(45, bool)
    )
    assert float(sums[f"top_{top}_accuracy"]) == ((places < top) & finite).sum()
    assert float(sums["accuracy"]) == ((places < 1) & finite).sum()


def test_perplexity_is_that_of_the_mean_loss():
    task = classification(nn.Dense(5), input_shape=(3,), top=2, perplexity=True)
    params = task.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    found = evaluation_program(task, scanned(), batch_size=4)(
        params, Examples(jnp.asarray(x), jnp.arange(9) % 5)
    )
    np.testing.assert_allclose(
        found.others["perplexity"], np.exp(found.loss), rtol=1e-6
    )
    assert found.others.keys() == {"perplexity", "top_2_accuracy"}


def test_the_mean_of_bfloat16_logits_is_taken_in_float32():
    # 257 is no bfloat16: a mean over so many would be one over 256.
    task = classification(nn.Dense(10, dtype=jnp.bfloat16), input_shape=(4,))
    params = jax.tree.map(jnp.zeros_like, task.init(KEY))
    examples = Examples(jnp.ones((257, 4)), jnp.zeros(257, jnp.int32))
    with jax.numpy_dtype_promotion("standard"):  # as flax's layers have it
        loss = task.loss(params, examples, jnp.ones(257, bool), KEY)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)
