"""The pooling against that of flax, gradient and ties included."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_comp.models.pooling import max_pool_2x2


@pytest.mark.parametrize("size", list(itertools.product((8, 7, 2), (5, 6))), ids=str)
def test_pool_is_that_of_flax_with_ties(size):
    # Few distinct values: most windows have ties, which go to the first pixel.
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 2, (3, *size, 2)), float)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x):
        out, pull = jax.vjp(pool, x)
        return out, pull(jnp.arange(1.0, out.size + 1).reshape(out.shape))

    expected = value_and_gradient(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), x)
    actual = value_and_gradient(max_pool_2x2, x)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="2 by 2 pixels at least to pool, got 1 by 4"):
        max_pool_2x2(jnp.ones((3, 1, 4, 2)))
