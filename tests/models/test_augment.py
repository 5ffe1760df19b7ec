"""Augmentation against windows cut out by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.models import classification, linear
from fedjax_comp.models.augment import augmented, crop_and_flip

IMAGES = np.random.default_rng(0).integers(1, 255, (200, 5, 4, 2)).astype(np.uint8)


def windows(image, padding):
    """Every window of a padded image and its mirror image, by place."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = image.shape[:2]
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            cut = padded[top : top + height, left : left + width]
            yield (top, left, False), cut
            yield (top, left, True), cut[:, ::-1]


def test_every_image_is_one_of_its_windows_and_all_are_taken():
    out = np.asarray(crop_and_flip(1)(jax.random.key(0), jnp.asarray(IMAGES)))
    assert out.dtype == np.uint8
    taken = []
    for image, got in zip(IMAGES, out, strict=True):
        found = [place for place, one in windows(image, 1) if (one == got).all()]
        assert len(found) == 1
        taken += found
    # 18 windows, 200 images: one is never taken with a chance below 2e-4 of this key.
    assert len(set(taken)) == 18


def test_it_trains_on_changed_images_and_evaluates_the_stored_ones():
    task = classification(linear()(3), input_shape=(5, 4, 2), scale=1 / 255)
    other = augmented(task, crop_and_flip(2))
    params = task.init(jax.random.key(0))
    examples = Examples(jnp.asarray(IMAGES), jnp.arange(200, dtype=jnp.int32) % 3)
    mask, key = jnp.ones(200, bool), jax.random.key(1)
    own = augmented(task, lambda key, x: crop_and_flip(2)(key, x))
    assert float(other.loss(params, examples, mask, key)) == float(
        own.loss(params, examples, mask, key)
    )
    plain = float(task.loss(params, examples, mask, key))
    assert float(other.loss(params, examples, mask, key)) != plain
    still = augmented(task, crop_and_flip(0, flip=False))
    assert float(still.loss(params, examples, mask, key)) == plain
    assert other.evaluate is task.evaluate


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"got the shape \(3, 7\)"):
        crop_and_flip(1)(jax.random.key(0), jnp.zeros((3, 7)))
    with pytest.raises(ValueError, match="padding=-1"):
        crop_and_flip(-1)
