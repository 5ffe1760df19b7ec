"""The residual network against its count of parameters, NumPy and limit cases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import models
from fedjax_comp.models.normalization import GroupNorm, group_norm
from fedjax_comp.models.resnet import Block


def _shapes(module, shape=(32, 32, 3)):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_depth_and_parameters_counted_by_hand(depth):
    params = _shapes(models.resnet(depth)(10))
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    assert len(kernels) == depth
    n = (depth - 2) // 6
    convolutions = 3 * 16 + 2 * n * 16 * 16
    for out in (32, 64):
        convolutions += out * out // 2 + (2 * n - 1) * out * out
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == 9 * convolutions + norms + 64 * 10 + 10


def test_group_norm_in_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, size=(2, 3, 5, 16))
    with jax.enable_x64(True):
        actual = group_norm(jnp.asarray(x), 2)
    for image in range(2):
        for group in (slice(0, 8), slice(8, 16)):
            part = x[image, :, :, group]
            expected = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            np.testing.assert_allclose(actual[image, :, :, group], expected, rtol=1e-9)


def test_an_image_s_output_does_not_depend_on_the_others():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 8)), jnp.float32)
    norm = GroupNorm()
    params = norm.init(jax.random.key(0), x)
    together, alone = norm.apply(params, x)[1], norm.apply(params, x[1:2])[0]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_a_block_that_adds_nothing_is_its_shortcut():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 8)), jnp.float32)
    block = Block(16, 2, None)
    params = jax.jit(block.init)(jax.random.key(0), x)
    params["params"]["GroupNorm_1"]["scale"] = jnp.zeros(16)
    out = jax.jit(block.apply)(params, x)
    np.testing.assert_array_equal(out[..., :8], jax.nn.relu(x[:, ::2, ::2]))
    assert not out[..., 8:].any()


def test_a_projected_shortcut_in_numpy():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 8)).astype(np.float32)
    block = Block(16, 2, None, projected=True)
    params = jax.jit(block.init)(jax.random.key(0), x)
    params["params"]["GroupNorm_1"]["scale"] = jnp.zeros(16)  # all that is not shortcut
    kernel = np.asarray(params["params"]["Conv_2"]["kernel"])
    assert kernel.shape == (1, 1, 8, 16)
    y = (x[:, ::2, ::2] @ kernel[0, 0]).reshape(2, 6, 2, 8)
    mean, variance = (f(y, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = np.maximum((y - mean) / np.sqrt(variance + 1e-5), 0).reshape(2, 3, 2, 16)
    out = jax.jit(block.apply)(params, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    # Between as many channels there is nothing to project.
    assert "Conv_2" not in _shapes(Block(8, 1, None, projected=True), x.shape[1:])


def test_resnet_18_counted_by_hand():
    params = _shapes(models.resnet18(width=8)(10))
    widths = (8, 16, 32, 64)
    convolutions, norms = 9 * 3 * 8 + 9 * 4 * 8 * 8, 2 * 8 + 2 * 4 * 8
    for narrow, wide in itertools.pairwise(widths):
        convolutions += narrow * wide * (9 + 1) + 9 * 3 * wide * wide
        norms += 2 * 5 * wide
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == convolutions + norms + 64 * 10 + 10


@pytest.mark.parametrize("projected", [False, True])
def test_the_way_of_convolving_changes_nothing(projected):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 8)), jnp.float32)
    results = []
    for convolve in (models.conv_direct, models.conv_patches):
        block = Block(16, 2, convolve, projected)
        if not results:
            params = jax.jit(block.init)(jax.random.key(0), x)
        run = jax.jit(jax.value_and_grad(lambda p, b=block: b.apply(p, x).var()))
        results.append(run(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.resnet(18), r"depth=18.*resnet18\(\)"),
        (lambda: models.resnet18(width=0), "width=0"),
        (lambda: models.resnet(2), "depth=2"),
        (lambda: models.resnet(20, width=0), "width=0"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
