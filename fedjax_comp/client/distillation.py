"""Distillation: a model learns what others predict for unlabelled inputs.

A model's predicted probabilities are computed from the losses of a `Task`, one for each
label, since a task offers nothing else about its predictions. Hinton, Vinyals and Dean
2015, "Distilling the knowledge in a neural network" (arXiv 1503.02531), section 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.base import Examples, PyTree, Task


class Lesson(NamedTuple):
    """The inputs of a round's distillation, and the order in which steps take them.

    Attributes:
      inputs: the public examples of the round, `[P', ...]`.
      labels: all that an example may have, `[L]`, in the dtype they are stored in.
      rows: int32 `[S, B]`, which inputs each step takes.
      mask: bool `[S, B]`, False where a batch is short.
      key: for the randomness of a model (dropout), scalar key array.
    """

    inputs: PyTree
    labels: jax.Array
    rows: jax.Array
    mask: jax.Array
    key: jax.Array


def label_losses(
    task: Task,
    params: PyTree,
    inputs: PyTree,
    labels: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """The loss of every label that an input could have, `-log p(c | x)`.

    Only the part of the loss that depends on the label is mapped over labels, so that
    the model is run once for an input and not once for each of its labels.

    Args:
      task: one label an example.
      params: of the model.
      inputs: `[P, ...]`.
      labels: `[L]`, all that there are.
      key: for the model's randomness in training, split into one for each input; None
        to evaluate it without randomness.

    Returns:
      float32 `[P, L]`.
    """
    there = jnp.ones(1, bool)

    def of_input(x: PyTree, number: jax.Array) -> jax.Array:
        def of_label(label: jax.Array) -> jax.Array:
            one = Examples(jax.tree.map(lambda leaf: leaf[None], x), label[None])
            if key is None:
                return task.evaluate(params, one, there)["loss"]
            return task.loss(params, one, there, jax.random.fold_in(key, number))

        return jax.vmap(of_label)(labels)

    numbers = jnp.arange(num_inputs(inputs), dtype=jnp.int32)
    return jax.vmap(of_input)(inputs, numbers).astype(jnp.float32)


def soft_labels(
    task: Task, params: PyTree, inputs: PyTree, labels: jax.Array
) -> jax.Array:
    """A model's predictions for inputs `[P, ...]`: probabilities, float32 `[P, L]`.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=4), input_shape=(2,))
    >>> params = task.init(jax.random.key(0))
    >>> soft_labels(task, params, jnp.zeros((1, 2)), jnp.arange(4)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    return jax.nn.softmax(-label_losses(task, params, inputs, labels), axis=-1)


def distilled(
    task: Task, params: PyTree, lesson: Lesson, targets: jax.Array, rate: float
) -> PyTree:
    """A model after steps of SGD towards given label distributions.

        w <- w - rate * grad of -mean_p sum_c y_pc log p(c | x_p; w)

    Args:
      task: one label an example.
      params: of the model.
      lesson: the inputs, and which of them each step takes.
      targets: `y`, distributions `[P', L]`.
      rate: of every step.
    """
    optimizer = optax.sgd(rate)

    def step(
        params: PyTree, batch: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[PyTree, None]:
        rows, mask, number = batch
        inputs = jax.tree.map(lambda x: x[rows], lesson.inputs)
        weights = jnp.where(mask[:, None], targets[rows], 0)
        key = jax.random.fold_in(lesson.key, number)

        def loss(params: PyTree) -> jax.Array:
            losses = label_losses(task, params, inputs, lesson.labels, key)
            return jnp.sum(weights * losses) / jnp.sum(mask, dtype=jnp.float32)

        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params))
        return optax.apply_updates(params, updates), None

    numbers = jnp.arange(lesson.rows.shape[0], dtype=jnp.int32)
    params, _ = jax.lax.scan(step, params, (lesson.rows, lesson.mask, numbers))
    return params


def in_batches(
    key: jax.Array, count: int, epochs: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """Numbers `0..count - 1` in a new order each epoch, cut in batches.

    Returns:
      rows int32 `[S, B]` and mask bool `[S, B]`, `B = min(size, count)`; the last batch
      of an epoch may be short.

    >>> rows, mask = in_batches(jax.random.key(0), 5, epochs=2, size=3)
    >>> rows.shape, mask.sum(axis=1).tolist()
    ((4, 3), [3, 2, 3, 2])
    """
    size = min(size, count)
    steps = -(-count // size)
    orders = jax.vmap(lambda one: jax.random.permutation(one, count))(
        jax.random.split(key, epochs)
    )
    rows = jnp.pad(orders, ((0, 0), (0, steps * size - count)))
    mask = jnp.broadcast_to(jnp.arange(steps * size) < count, rows.shape)
    return (
        rows.reshape(epochs * steps, size).astype(jnp.int32),
        mask.reshape(epochs * steps, size),
    )


def num_inputs(inputs: PyTree) -> int:
    """How many inputs there are.

    Raises:
      ValueError: for none, and for leaves that disagree.

    >>> num_inputs(jnp.ones((3, 2)))
    3
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
        raise ValueError(
            f"Expected public inputs [P, ...] with P >= 1, got shapes {shapes}."
        )
    return int(counts.pop()[0])
