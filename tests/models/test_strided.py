"""Strides against every second pixel of the convolution without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.models.convolution import Conv, conv_direct, conv_lax
from fedjax_comp.models.strided import space_to_depth, strided

CASES = [
    ((8, 9), (3, 3), (2, 2)),
    ((7, 4), (5, 5), (2, 2)),
    ((7, 8), (1, 1), (2, 2)),
    ((6, 9), (2, 4), (3, 2)),
    ((8, 4), (3, 1), (2, 1)),
]


@pytest.mark.parametrize(("size", "kernel", "strides"), CASES)
def test_values_and_gradients_are_those_of_subsampling(size, kernel, strides):
    rng = np.random.default_rng(0)
    s, t = strides
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        w = jnp.asarray(rng.normal(size=(*kernel, 3, 4)))

        def with_gradients(f):
            def run(x, w):
                out, pull = jax.vjp(f, x, w)
                return out, *pull(jnp.cos(out))

            return jax.jit(run)(x, w)

        actual = with_gradients(lambda x, w: strided(conv_lax, x, w, strides))
        expected = with_gradients(lambda x, w: conv_lax(x, w)[:, ::s, ::t])
        for got, want in zip(actual, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


def test_space_to_depth_against_indices():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    blocks = space_to_depth(x, (2, 3))
    assert blocks.shape == (2, 2, 2, 18)
    for s in range(2):
        for t in range(3):
            channels = blocks[..., 3 * (3 * s + t) :][..., :3]
            np.testing.assert_array_equal(channels, x[:, s::2, t::3])


def test_a_layer_with_strides_keeps_the_parameters_of_one_without():
    x = jnp.ones((1, 6, 6, 2))
    layer = Conv(3, (3, 3), conv_direct, strides=(2, 2), use_bias=False)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    assert list(params["params"]) == ["kernel"]
    assert params["params"]["kernel"].shape == (3, 3, 2, 3)
    assert jax.eval_shape(layer.apply, params, x).shape == (1, 3, 3, 3)
