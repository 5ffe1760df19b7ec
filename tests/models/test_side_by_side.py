"""Channels side by side: the same numbers as without, mapped and differentiated."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from fedjax_comp import models
from fedjax_comp.base import Examples
from fedjax_comp.models.convolution import conv_direct, conv_lax
from fedjax_comp.models.pooling import max_pool_2x2
from fedjax_comp.models.side_by_side import plus_bias, pooled_relu, side_by_side

CLIENTS, OUTER = 3, 2


def images(*leading, channels=5, size=6):
    """Few distinct values: windows have ties, and relu has zeros."""
    shape = (*leading, 2, size, size + 1, channels)
    numbers = np.random.default_rng(len(leading)).integers(-2, 3, shape)
    return jnp.asarray(numbers, jnp.float32)


def biases(*leading, channels=5):
    return jnp.asarray(np.random.default_rng(9).normal(size=(*leading, channels)), "f")


def plain(x, bias):
    return max_pool_2x2(nn.relu(x + bias[None, None, None]))


def beside(x, bias):
    return pooled_relu(plus_bias(x, bias))


def value_and_gradients(function, x, bias):
    out, pull = jax.vjp(function, x, bias)
    weights = jnp.cos(jnp.arange(float(out.size))).reshape(out.shape)
    return out, pull(weights)


@pytest.mark.parametrize(
    ("axes", "mapped"),
    [
        ((), (images(), biases())),
        (((0, 0),), (images(CLIENTS), biases(CLIENTS))),
        (((0, None),), (images(CLIENTS), biases())),
        (((None, 0),), (images(), biases(CLIENTS))),
        (((0, 0), (0, 0)), (images(OUTER, CLIENTS), biases(OUTER, CLIENTS))),
        (((0, 0), (None, 0)), (images(OUTER), biases(OUTER, CLIENTS))),
    ],
    ids=[
        "alone",
        "both",
        "shared bias",
        "shared images",
        "twice",
        "twice, images once",
    ],
)
def test_values_and_gradients_are_those_without(axes, mapped):
    def of(function):
        found = functools.partial(value_and_gradients, function)
        for axis in reversed(axes):
            found = jax.vmap(found, axis)
        return jax.jit(found)(*mapped)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        of(beside),
        of(plain),
    )


@pytest.mark.thorough
def test_second_derivatives_are_those_without():
    def steepness(function, x, bias):
        def total(bias):
            return jnp.sum(jnp.sin(function(x, bias)))

        return jnp.sum(jax.grad(total)(bias) ** 2)

    def of(function):
        return jax.vmap(jax.grad(functools.partial(steepness, function), (0, 1)))(
            images(CLIENTS), biases(CLIENTS)
        )

    for ours, theirs in zip(of(beside), of(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        assert jnp.abs(theirs).max() > 0.1


def test_no_array_of_mapped_clients_has_an_axis_of_its_own_for_them():
    # The point of it all: between merging and taking apart there are four axes.
    seen = []

    @side_by_side
    def watched(x, bias):
        seen.append(x.shape)
        return x + bias[None, None, None]

    jax.make_jaxpr(jax.vmap(jax.grad(lambda x, b: watched(x, b).sum())))(
        images(CLIENTS), biases(CLIENTS)
    )
    assert {len(shape) for shape in seen} == {4}
    assert (2, 6, 7, 5 * CLIENTS) in seen


@pytest.mark.thorough
def test_clients_of_the_cnn_train_as_they_do_one_by_one():
    task = {
        convolve: models.classification(
            models.cnn((2, 3), hidden=4, convolve=convolve)(num_classes=3),
            input_shape=(8, 8, 1),
        )
        for convolve in (conv_lax, conv_direct)
    }
    keys = jax.random.split(jax.random.key(0), CLIENTS)
    params = jax.vmap(task[conv_lax].init)(keys)
    x = jax.random.normal(jax.random.key(1), (CLIENTS, 4, 8, 8, 1))
    y = jnp.arange(4 * CLIENTS).reshape(CLIENTS, 4) % 3

    def gradients(convolve):
        def one(params, x, y):
            examples = Examples(x, y)
            mask = jnp.ones(4, bool)
            return jax.grad(task[convolve].loss)(params, examples, mask, keys[0])

        return one

    together = jax.jit(jax.vmap(gradients(conv_lax)))(params, x, y)
    one_by_one = jax.jit(gradients(conv_direct))
    alone = [
        one_by_one(jax.tree.map(lambda p, i=i: p[i], params), x[i], y[i])
        for i in range(CLIENTS)
    ]
    for i, one in enumerate(alone):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            jax.tree.map(lambda p, i=i: p[i], together),
            one,
        )
    assert float(optax.tree.norm(alone[0])) > 0.01


def test_a_cnn_on_a_cpu_has_none_of_it():
    module = models.cnn((2,), hidden=4, convolve=conv_direct)(num_classes=3)
    params = module.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    text = str(jax.make_jaxpr(module.apply)(params, jnp.ones((1, 8, 8, 1))))
    names = re.findall(r"name=(\w+)", text)
    assert "pooled_relu" not in names
    assert "plus_bias" not in names
