"""Small tasks, cohorts and populations shared by tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_comp.base import ClientBatches, Cohort, Examples, Task

NUM_FEATURES, NUM_CLASSES = 5, 3


def softmax_task():
    """Multinomial regression with a matrix and a bias, without flax.

    Parameters may be of any float dtype: what is not storage is float32.
    """

    def init(key):
        kernel = 0.1 * jax.random.normal(key, (NUM_FEATURES, NUM_CLASSES))
        return {"bias": jnp.zeros(NUM_CLASSES), "kernel": kernel}

    def losses(params, examples):
        kernel, bias = (params[n].astype(jnp.float32) for n in ("kernel", "bias"))
        logits = examples.x @ kernel + bias[None]
        return logits, optax.softmax_cross_entropy_with_integer_labels(
            logits, examples.y
        )

    def loss(params, examples, mask, key):
        del key
        _, each = losses(params, examples)
        total = jnp.sum(jnp.where(mask, each, 0))
        return total / jnp.maximum(mask.sum(dtype=jnp.float32), 1)

    def evaluate(params, examples, mask):
        logits, each = losses(params, examples)
        correct = (logits.argmax(1).astype(examples.y.dtype) == examples.y) & mask
        return {
            "count": mask.sum(dtype=jnp.float32),
            "loss": jnp.sum(jnp.where(mask, each, 0)),
            "accuracy": correct.sum(dtype=jnp.float32),
        }

    return Task(init, loss, evaluate)


def quadratics(size):
    """An example is a curve `a` (its `y`) and a place `t` (its `x`, `[size]`).

    Its loss is `a / 2 ||w - t||^2`.
    """

    def loss(params, examples, mask, key):
        del key
        each = examples.y / 2 * jnp.sum((params["w"][None] - examples.x) ** 2, axis=1)
        count = jnp.maximum(mask.sum(dtype=jnp.float32), 1)
        return jnp.where(mask, each, 0).sum() / count

    return Task(lambda key: {"w": jnp.zeros(size)}, loss, None)


def make_examples(num_examples, seed=0):
    """Separable examples with labels from a hidden linear model."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, NUM_FEATURES)).astype(np.float32)
    y = (x @ rng.normal(size=(NUM_FEATURES, NUM_CLASSES))).argmax(1)
    return Examples(jnp.asarray(x), jnp.asarray(y, jnp.int32))


def make_cohort(sizes, batch_size, epochs=1):
    """A cohort whose client `i` holds `sizes[i]` examples, in order, never shuffled."""
    steps = epochs * max(1, -(-max(sizes) // batch_size))
    per_epoch = steps // epochs
    index = np.zeros((len(sizes), steps, batch_size), np.int32)
    mask = np.zeros(index.shape, bool)
    first = 0
    for i, size in enumerate(sizes):
        for epoch in range(epochs):
            for j in range(size):
                step = epoch * per_epoch + j // batch_size
                index[i, step, j % batch_size] = first + j
                mask[i, step, j % batch_size] = True
        first += size
    clients = ClientBatches(
        client_id=jnp.arange(len(sizes), dtype=jnp.int32),
        rows=jnp.asarray(index),
        mask=jnp.asarray(mask),
        num_examples=jnp.asarray(sizes, jnp.int32),
        active=jnp.asarray(sizes) > 0,
        key=jax.random.split(jax.random.key(0), len(sizes)),
    )
    return Cohort(make_examples(sum(sizes)), clients)


def stack_clients(template, num_clients):
    """`num_clients` copies of one client's state."""
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), template
    )
