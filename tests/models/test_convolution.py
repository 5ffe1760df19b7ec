"""The convolutions against lax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from fedjax_comp.models.convolution import (
    Conv,
    conv_direct,
    conv_lax,
    conv_patches,
    default_conv,
)

WAYS = [conv_direct, conv_patches]
SIZES = [(28, 28), (14, 7), (8, 5), (1, 2)]
KERNELS = [(5, 5), (3, 1), (2, 4)]


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def _normal(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _reference(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _with_gradients(f):
    def run(x, kernel):
        out, pull = jax.vjp(f, x, kernel)
        return out, pull(jnp.cos(out))

    return jax.jit(run)


def _assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("convolve", [*WAYS, conv_lax])
@pytest.mark.parametrize(
    "case", [(s, KERNELS[i % 3], 1 + i % 3) for i, s in enumerate(SIZES)], ids=str
)
def test_values_and_both_gradients_are_those_of_lax(convolve, case):
    size, kernel_size, channels = case
    x = _normal((2, *size, channels), 0)
    kernel = _normal((*kernel_size, channels, 4), 1)
    expected = _with_gradients(_reference)(x, kernel)
    jax.tree.map(_assert_close, _with_gradients(convolve)(x, kernel), expected)


def test_direct_is_differentiable_twice_in_reverse():
    x, kernel = _normal((2, 4, 3, 2), 0), _normal((3, 2, 2, 3), 1)
    check_grads(jax.jit(conv_direct), (x, kernel), order=2, modes=["rev"])


@pytest.mark.parametrize("convolve", WAYS)
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_mapped_over_clients_is_a_loop_over_clients(convolve, axes):
    x = _normal((3, 2, 5, 4, 2) if axes[0] == 0 else (2, 5, 4, 2), 0)
    kernel = _normal((3, 3, 3, 2, 2) if axes[1] == 0 else (3, 3, 2, 2), 1)
    mapped = jax.jit(jax.vmap(_with_gradients(convolve), axes))(x, kernel)
    reference = _with_gradients(_reference)
    for i in range(3):
        one = reference(
            *(
                a if axis is None else a[i]
                for a, axis in zip((x, kernel), axes, strict=True)
            )
        )
        jax.tree.map(lambda m, o, i=i: _assert_close(m[i], o), mapped, one)


def test_a_second_mapped_axis_is_taken():
    x, kernel = _normal((2, 3, 1, 4, 4, 1), 0), _normal((2, 3, 3, 3, 1, 2), 1)
    _assert_close(
        jax.jit(jax.vmap(jax.vmap(conv_direct)))(x, kernel),
        jax.jit(jax.vmap(jax.vmap(conv_patches)))(x, kernel),
    )


def test_the_kernel_gradient_reaches_xla_as_an_nhwc_convolution():
    # The layout is the whole point: any other has no fast code inside a loop on CPU.
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((5, 5, 3, 4))
    step = jax.grad(lambda k: conv_direct(x, k).sum())
    text = str(jax.make_jaxpr(lambda k: jax.lax.map(step, k[None]))(kernel))
    layouts = text.count("dimension_numbers=ConvDimensionNumbers")
    assert layouts > 0
    canonical = "lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)"
    assert text.count(canonical) == layouts
    assert "optimization_barrier" in text


def test_unneeded_input_gradient_is_not_computed():
    # The first layer of a network: its input is data.
    x, kernel = jnp.zeros((2, 8, 8, 1)), jnp.zeros((5, 5, 1, 4))
    step = jax.jit(jax.grad(lambda k: conv_direct(x, k).sum()))
    # The output itself is not needed either: one convolution is left of three.
    assert step.lower(kernel).compile().as_text().count(" convolution(") <= 1


def test_conv_has_the_parameters_and_values_of_flax():
    x = _normal((2, 6, 7, 3), 0)
    ours, theirs = Conv(4, (3, 5)), nn.Conv(4, (3, 5), dtype=jnp.float64)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), x)["params"]
    params = {k: _normal(v.shape, i) for i, (k, v) in enumerate(shapes.items())}
    _assert_close(
        ours.apply({"params": params}, x), theirs.apply({"params": params}, x)
    )


def test_default_is_direct_on_cpu_only(monkeypatch):
    for backend, expected in (("cpu", conv_direct), ("gpu", conv_lax)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert default_conv() is expected


def test_a_table_is_no_image():
    with pytest.raises(ValueError, match=r"images \[B, H, W, C\].*got inputs \[1, 9\]"):
        Conv(2).init(jax.random.key(0), jnp.ones((1, 9)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_inputs_of_any_float_are_convolved_as_by_flax(dtype):
    x, theirs = _normal((2, 5, 4, 3), 0).astype(dtype), nn.Conv(2, (3, 3))
    with jax.numpy_dtype_promotion("standard"):
        variables = theirs.init(jax.random.key(0), x)
        expected = theirs.apply(variables, x)
        found = Conv(2, (3, 3)).apply(variables, x)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
