"""What a model says of an input, off its losses; and what a lesson goes through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.client.distillation import (
    Lesson,
    distilled,
    in_batches,
    label_losses,
    soft_labels,
)
from fedjax_comp.models import classification, mlp
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_examples, softmax_task

KEY = jax.random.key(0)
PUBLIC = make_examples(6, seed=5).x


def test_losses_of_all_labels_are_those_of_one_run_of_the_model():
    hidden, classes = 256, 40
    task = classification(mlp(hidden)(classes), input_shape=(NUM_FEATURES,))
    params = jax.jit(task.init)(KEY)

    def losses(params, key):
        return label_losses(task, params, PUBLIC, jnp.arange(classes), key)

    compiled = jax.jit(losses).lower(params, KEY).compile()
    got = compiled(params, KEY)
    one_by_one = jax.jit(
        jax.vmap(lambda e: task.loss(params, e, jnp.ones(1, bool), KEY))
    )
    for label in (0, 7, 39):
        each = Examples(PUBLIC[:, None], jnp.full((len(PUBLIC), 1), label))
        np.testing.assert_allclose(got[:, label], one_by_one(each), rtol=1e-5)
    # A run for each label would be forty times this.
    one_run = 2 * len(PUBLIC) * hidden * (NUM_FEATURES + classes)
    assert compiled.cost_analysis()["flops"] < 3 * one_run


def test_batches_go_through_every_example_once_an_epoch():
    rows, mask = in_batches(KEY, 7, 3, 4)
    epochs = np.asarray(rows)[np.asarray(mask)].reshape(3, 7)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(7), (3, 1)))
    assert not (epochs == epochs[0]).all()


def test_soft_labels_are_the_softmax_of_the_logits():
    module = mlp(8)(NUM_CLASSES)
    task = classification(module, input_shape=(NUM_FEATURES,))
    params = jax.jit(task.init)(KEY)
    logits = jax.jit(module.apply)({"params": params}, PUBLIC)
    got = jax.jit(lambda w: soft_labels(task, w, PUBLIC, jnp.arange(NUM_CLASSES)))
    np.testing.assert_allclose(got(params), jax.nn.softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_a_short_batch_counts_those_that_are_there(size):
    # Three examples, the last batch of which holds one, or all of which are one batch.
    task = softmax_task()
    params = task.init(KEY)
    targets = jax.nn.one_hot(jnp.array([0, 2, 1]), NUM_CLASSES)
    rows, mask = in_batches(KEY, 3, 1, size)
    lesson = Lesson(PUBLIC[:3], jnp.arange(NUM_CLASSES), rows, mask, KEY)
    got = jax.jit(lambda w: distilled(task, w, lesson, targets, 0.5))(params)
    # Of certain labels it is training on labelled examples.
    labels = jnp.array([0, 2, 1])
    gradient = jax.jit(jax.grad(task.loss))
    for batch, there in zip(rows, mask, strict=True):
        examples = Examples(PUBLIC[batch], labels[batch])
        grads = gradient(params, examples, there, KEY)
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.5 * g, grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, params)
