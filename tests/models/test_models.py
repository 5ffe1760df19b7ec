"""Sizes of the models as published, and what they compute in limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import models
from fedjax_comp.base import Examples
from fedjax_comp.models.lstm import lstm
from fedjax_comp.models.transformer import causal_attention


def _num_parameters(module, shape, dtype=jnp.float32):
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), dtype)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameter_counts_are_the_published_ones():
    # McMahan et al. 2017, section 3; the LSTM is counted by hand, see its module.
    assert _num_parameters(models.mlp(200, 200)(10), (28, 28, 1)) == 199_210
    assert _num_parameters(models.cnn()(10), (28, 28, 1)) == 1_663_370
    assert _num_parameters(models.linear()(10), (28, 28, 1)) == 7_850
    by_hand = 796_672 + 265 * 80
    assert _num_parameters(models.char_lstm()(80), (80,), jnp.int32) == by_hand
    width, layers, length, vocabulary = 128, 3, 80, 80
    # Attention and the hidden layer of four times the width, with their biases; two
    # norms a block and one more; embedding, positions and logits.
    block = 4 * width**2 + 4 * width + 8 * width**2 + 5 * width + 4 * width
    ends = (vocabulary + length + 2) * width + (width + 1) * vocabulary
    module = models.char_transformer()(vocabulary)
    by_hand = layers * block + ends
    assert _num_parameters(module, (length,), jnp.int32) == by_hand


def test_every_factory_takes_the_number_of_classes_by_name():
    built = {
        "char_lstm": models.char_lstm(),
        "char_transformer": models.char_transformer(),
        "cnn": models.cnn(),
        "fed_para": models.fed_para(models.mlp(5), rank=2),
        "linear": models.linear(),
        "mlp": models.mlp(5),
        "resnet": models.resnet(),
        "resnet18": models.resnet18(),
        "vgg": models.vgg(),
    }
    assert sorted(built) == sorted(models.FACTORIES)
    assert all(model(num_classes=7).num_classes == 7 for model in built.values())


def test_cnn_takes_small_images_and_its_way_of_convolving_changes_nothing():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 17, (4, 8, 8, 1)), jnp.uint8)
    examples, mask = Examples(x, jnp.arange(4)), jnp.ones(4, bool)
    results = []
    for convolve in (models.conv_direct, models.conv_lax):
        module = models.cnn((3, 5), hidden=6, convolve=convolve)(10)
        task = models.classification(module, input_shape=(8, 8, 1), scale=1 / 16)
        if not results:
            params = jax.jit(task.init)(jax.random.key(0))
        step = jax.jit(jax.value_and_grad(task.loss))
        results.append(step(params, examples, mask, jax.random.key(1)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results
    )


def test_lstm_is_the_textbook_recurrence():
    rng = np.random.default_rng(0)
    inputs, recurrent = rng.normal(size=(2, 4, 12)), rng.normal(size=(3, 12))
    hidden = cell = np.zeros((2, 3))
    expected = []
    for t in range(4):
        gates = np.split(inputs[:, t] + hidden @ recurrent, 4, axis=-1)
        enter, forget, leave = (1 / (1 + np.exp(-gates[i])) for i in (0, 1, 3))
        cell = forget * cell + enter * np.tanh(gates[2])
        hidden = leave * np.tanh(cell)
        expected.append(hidden)
    with jax.enable_x64(True):
        actual = lstm(jnp.asarray(inputs), jnp.asarray(recurrent))
    np.testing.assert_allclose(actual, np.stack(expected, axis=1), rtol=1e-12)


def test_attention_is_the_textbook_one():
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 4, 3, 5))
    expected = np.zeros_like(value)
    for b, t, h in np.ndindex(2, 4, 3):
        scores = [query[b, t, h] @ key[b, s, h] / np.sqrt(5) for s in range(t + 1)]
        weights = np.exp(scores) / np.exp(scores).sum()
        expected[b, t, h] = weights @ value[b, : t + 1, h]
    with jax.enable_x64(True):
        actual = causal_attention(*map(jnp.asarray, (query, key, value)))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_a_transformer_s_characters_have_places():
    """Without positions, the last of `0 1 2` and `1 0 2` would see the same set."""
    module = models.char_transformer(4, depth=1, heads=2)(3)
    x = jnp.array([[0, 1, 2], [1, 0, 2]])
    params = jax.jit(module.init)(jax.random.key(0), x)
    run = jax.jit(module.apply)
    assert abs(run(params, x)[0, 2] - run(params, x)[1, 2]).max() > 1e-5
    params["params"]["Positions_0"]["embedding"] *= 0
    np.testing.assert_allclose(*run(params, x)[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        models.char_lstm(3, widths=(4, 4)),
        models.char_transformer(8, depth=2, heads=2),
    ],
)
def test_character_models_do_not_see_the_future(model):
    module = model(6)
    x = jnp.array([[0, 1, 2, 3]])
    params = jax.jit(module.init)(jax.random.key(0), x)
    run = jax.jit(module.apply)
    changed = run(params, x.at[0, 2].set(5)) != run(params, x)
    assert changed.any(axis=-1)[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: models.mlp(), "at least one width"),
        (lambda: models.mlp(3, 0), r"widths=\(3, 0\)"),
        (lambda: models.mlp(2.5), r"widths=\(2\.5,\) as integers"),
        (lambda: models.mlp([3, 4]), r"widths=\(\[3, 4\],\) as integers"),
        (lambda: models.mlp(3, dropout="a"), r"dropout='a' in \[0, 1\)"),
        (lambda: models.cnn(32), "channels=32 as integers"),
        (lambda: models.vgg((8, 0)), r"channels=\(8, 0\)"),
        (lambda: models.char_lstm(widths=256), "widths=256 as integers"),
        (lambda: models.cnn(()), r"channels=\(\)"),
        (lambda: models.cnn(hidden=0), "hidden=0 >= 1"),
        (lambda: models.char_lstm(0), "embedding=0 >= 1"),
        (lambda: models.char_lstm(widths=()), r"widths=\(\)"),
        (lambda: models.char_transformer(depth=0), "depth=0 >= 1"),
        (lambda: models.char_transformer(10), "heads=4 to divide width=10"),
    ],
)
def test_wrong_hyperparameters_are_named(factory, message):
    with pytest.raises(ValueError, match=message):
        factory()
