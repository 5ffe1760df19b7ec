"""The VGG-like network against its count of parameters, and its mistakes."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp import models


def test_parameters_counted_by_hand():
    module = models.vgg((8, 16), repeats=2, hidden=5)(3)
    x = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    logits, params = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, 3)
    convolutions = 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16)
    norms = 2 * (8 + 8 + 16 + 16)
    dense = (2 * 3 * 16) * 5 + 5 + 5 * 3 + 3
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == convolutions + norms + dense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, r"channels=\(\)"),
        ({"channels": (8, 0)}, "channels="),
        ({"repeats": 0}, "repeats=0"),
        ({"hidden": 0}, "hidden=0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        models.vgg(**options)
