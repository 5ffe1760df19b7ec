"""Augmentation: a task whose training examples are changed at random.

He et al. 2016, "Deep residual learning for image recognition", section 4.2: four
pixels are padded on each side, a window of the image's size is taken at random, and it
is mirrored half of the time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Examples, PyTree, Task

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
"""`(key, x[B, ...]) -> x[B, ...]`, in the dtype they are stored in."""

_AUGMENTED = 2**32 - 1
"""Folded into the loss's key, which the task itself goes on with."""


def augmented(task: Task, augmentation: Augmentation) -> Task:
    """A task that is trained on changed examples and evaluated on the stored ones.

    Args:
      task: the task.
      augmentation: changes a batch's inputs.

    Returns:
      A `Task` with the same parameters.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1))
    >>> other = augmented(task, crop_and_flip(1))
    >>> other.evaluate is task.evaluate
    True
    """

    def changed(examples: Examples, key: jax.Array) -> Examples:
        own = augmentation(jax.random.fold_in(key, _AUGMENTED), examples.x)
        return examples._replace(x=own)

    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        return task.loss(params, changed(examples, key), mask, key)

    def observe(
        before: PyTree,
        after: PyTree,
        examples: Examples,
        mask: jax.Array,
        key: jax.Array,
    ) -> PyTree:
        assert task.observe is not None  # or this is not in the task
        return task.observe(before, after, changed(examples, key), mask, key)

    seen = None if task.observe is None else observe
    return task._replace(loss=loss, observe=seen)


def crop_and_flip(padding: int = 4, *, flip: bool = True) -> Augmentation:
    """Images `[H, W, C]` moved by up to so many pixels, and mirrored half of the time.

    What moves in from outside is 0.

    Args:
      padding: the most pixels, in either direction and both ways, at least 0.
      flip: whether left and right change places with a chance of a half.

    Returns:
      An `Augmentation`.

    Raises:
      ValueError: for a negative padding; when inputs are not `[B, H, W, C]`.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> crop_and_flip(0, flip=False)(jax.random.key(0), x)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    checks.integer("padding", padding, minimum=0)

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        if x.ndim != 4:
            raise ValueError(
                f"Expected images [B, H, W, C] to crop, got the shape {x.shape}."
            )
        place_key, flip_key = jax.random.split(key)
        places = jax.random.randint(place_key, (len(x), 2), 0, 2 * padding + 1)
        room = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = jnp.pad(x, room)

        def window(image: jax.Array, place: jax.Array) -> jax.Array:
            start = (place[0], place[1], jnp.int32(0))
            return jax.lax.dynamic_slice(image, start, x.shape[1:])

        moved = jax.vmap(window)(padded, places)
        if not flip:
            return moved
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x), 1, 1, 1))
        return jnp.where(mirrored, moved[:, :, ::-1], moved)

    return augment
