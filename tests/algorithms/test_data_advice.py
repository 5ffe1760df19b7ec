"""The advice against real messages, and against the figures of the rule of thumb."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.algorithms.data_advice import advisable, examples_bits, fixed_bits_of
from fedjax_comp.algorithms.links.example_link import Batch, example_link
from fedjax_comp.base import Examples, make_context
from fedjax_comp.compress import chain, entropy_coded, qsgd, top_k
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.data import DataSpec
from fedjax_comp.wire.accounting import message_bits, num_bits

MNIST = DataSpec("mnist", 10, (28, 28, 1), 1 / 255, None, 100, 600, 60000, 10000)
CIFAR = DataSpec("cifar10", 10, (32, 32, 3), 1 / 255, None, 100, 500, 50000, 10000)


@pytest.mark.parametrize(("bits", "count"), [(1, 1), (4, 3)])
def test_lengths_are_those_of_real_messages(bits, count):
    link = example_link(uniform_lattice(bits), num_classes=10)
    batch = Batch(
        Examples(jnp.full((count, 28, 28, 1), 0.3), jnp.zeros(count, jnp.int32)),
        ids=jnp.zeros(count, jnp.int32),
        sent=jnp.ones(count, bool),
        exponents=jnp.zeros(count, jnp.uint8),
        drawn=jnp.int32(count),
    )
    context = make_context(jax.random.key(0), 0)
    payload, _ = jax.jit(link.encode)(context, batch, ())
    real = message_bits(num_bits(payload))
    assert examples_bits(uniform_lattice(bits), MNIST, count) == real


def test_a_gradient_s_length_is_that_of_its_message():
    tree = {"w": jnp.ones((30, 7)), "b": jnp.ones(7)}
    context = make_context(jax.random.key(0), 0)
    for compressor in (qsgd(3), top_k(0.1)):
        payload, _ = jax.jit(compressor.encode)(context, tree, ())
        assert fixed_bits_of(compressor, tree) == message_bits(num_bits(payload))
    with pytest.raises(ValueError, match="fixed length"):
        fixed_bits_of(chain(qsgd(3), entropy_coded()), tree)


def test_the_three_regimes():
    """2NN at B=128 and 4 bits: 401 kbit of data against 199 kbit; ResNet-18 at B=32:
    0.39 against 11.2 Mbit."""
    small = advisable(199_210, MNIST, batch_size=128, bits=4)
    assert small.choice == "gradient"
    assert round(small.data_bits / 1e3) == 402
    assert round(small.gradient_bits / 1e3) == 199
    large = advisable(11_173_962, CIFAR, batch_size=32, bits=4)
    assert large.choice == "data"
    assert round(large.data_bits / 1e6, 2) == 0.39
    assert round(large.gradient_bits / 1e6, 1) == 11.2
    epochs = 60_000 // 320
    cohort = {"batch_size": 32, "bits": 4, "cohort_size": 10}
    first = advisable(11_173_962, MNIST, steps=epochs - 1, **cohort)
    assert first.choice == "data"
    longer = advisable(11_173_962, MNIST, steps=epochs + 1, **cohort)
    assert longer.choice == "shipping"
    assert longer.shipping_bits == first.shipping_bits
    assert "once" in longer.reason


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="batch_size=0"):
        advisable(10, MNIST, batch_size=0, bits=1)
    with pytest.raises(ValueError, match="model=0"):
        advisable(0, MNIST, batch_size=1, bits=1)
