"""FLOPs of training against layers counted by hand, and loops written out."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.models import char_lstm, classification, cnn, mlp
from fedjax_comp.network.training_cost import gradient_flops, program_flops


def flops(model, shape, batch_size=10):
    task = classification(model(10), input_shape=shape)
    params = jax.eval_shape(task.init, jax.random.key(0))
    like = Examples(jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))
    return gradient_flops(task, params, like, batch_size=batch_size)


def test_dense_layers_cost_two_products_and_a_third_behind_the_first():
    i, h, o = 300, 200, 10
    products = 2 * (2 * i * h + 3 * h * o)
    # Biases, activations and the loss are the few per cent beside the products.
    for batch_size in (1, 10):
        assert 1 < flops(mlp(h), (i,), batch_size) / products < 1.05


def test_convolutions_cost_what_every_use_of_a_weight_costs():
    """McMahan's CNN: two 5x5 convolutions, "same" borders, and two dense layers."""
    side, kernel = 28, 25
    forward = [
        2 * side**2 * kernel * 1 * 32,
        2 * (side // 2) ** 2 * kernel * 32 * 64,
        2 * 7 * 7 * 64 * 512,
        2 * 512 * 10,
    ]
    products = 3 * sum(forward) - forward[0]
    # XLA leaves out what a kernel reads beyond the border: up to a seventh and a bit.
    assert 0.8 < flops(cnn(), (28, 28, 1)) / products < 1.05


def test_loops_are_multiplied_out_however_they_are_nested():
    x = jax.ShapeDtypeStruct((32, 32), jnp.float32)

    def repeated(body, length):
        return lambda x: jax.lax.scan(lambda y, _: (body(y), None), x, length=length)[0]

    def product(y):
        return y @ y

    nested = repeated(repeated(product, 5), 3)
    assert program_flops(nested, x) == pytest.approx(15 * 2 * 32**3, rel=1e-2)
    inside = jax.jit(repeated(product, 4))
    assert program_flops(lambda x: inside(x) + x @ x, x) == pytest.approx(
        5 * 2 * 32**3, rel=1e-2
    )


@pytest.mark.thorough
def test_a_recurrence_pays_for_every_step():
    def cost(steps):
        task = classification(
            char_lstm()(90), input_shape=(steps,), input_dtype=jnp.int32
        )
        params = jax.eval_shape(task.init, jax.random.key(0))
        sequence = jnp.zeros((1, steps), jnp.int32)
        return gradient_flops(task, params, Examples(sequence, sequence), batch_size=2)

    assert cost(40) == pytest.approx(4 * cost(10), rel=0.02)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        flops(mlp(3), (4,), 0)
