"""Rounded distributions against all that there are, and what they cost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import chain, entropy_coded
from fedjax_comp.compress.quantize.simplex import on_simplex, simplex_quantize
from fedjax_comp.wire.accounting import message_bits, num_bits

CONTEXT = make_context(jax.random.key(0), 3)


def sent(quantizer, x):
    def there_and_back(x):
        payload, _ = quantizer.encode(CONTEXT, x, ())
        return quantizer.decode(CONTEXT, payload, ())[0], payload

    return jax.jit(there_and_back)(jnp.asarray(x))


def distributions(rows, classes, seed=0, concentration=0.5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([concentration] * classes, rows).astype(np.float32)


@pytest.mark.parametrize(("bits", "classes"), [(1, 5), (2, 4), (3, 3)])
def test_it_is_the_nearest_of_all_distributions_of_the_grid(bits, classes):
    units = 2**bits - 1
    grid = np.array(
        [
            k
            for k in itertools.product(range(units + 1), repeat=classes)
            if sum(k) == units
        ]
    )
    p = distributions(50, classes)
    distance = np.square(p[:, None] - grid[None] / units).sum(-1)
    decoded, payload = sent(simplex_quantize(bits), p)
    np.testing.assert_allclose(decoded, grid[distance.argmin(1)] / units, atol=1e-6)
    assert num_bits(payload).fixed == 50 * classes * bits + 1


def test_one_bit_is_the_likeliest_class():
    p = distributions(40, 7, seed=1)
    decoded, _ = sent(simplex_quantize(1), p)
    np.testing.assert_array_equal(decoded, np.eye(7, dtype=np.float32)[p.argmax(1)])
    even, _ = sent(simplex_quantize(1), np.full((1, 4), 0.25, np.float32))
    assert even.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_error_is_within_a_unit_and_the_sum_is_one(bits):
    p = distributions(200, 10, seed=2)
    decoded, _ = sent(simplex_quantize(bits), p)
    units = 2**bits - 1
    assert np.abs(np.asarray(decoded) - p).max() < 1 / units + 1e-6
    whole = np.round(np.asarray(decoded, np.float64) * units)
    np.testing.assert_array_equal(whole.sum(1), units)


def test_a_code_costs_less_where_classes_are_never_likely():
    p = np.zeros((200, 10), np.float32)
    p[:, 0] = 1
    pipeline = chain(simplex_quantize(1), entropy_coded())
    coded, _ = jax.jit(pipeline.encode)(CONTEXT, p, pipeline.init(p).sender)
    # A tenth of the symbols are ones: 0.47 bits each, and what the code costs itself.
    assert message_bits(num_bits(coded)) < 0.6 * 2001


def test_what_is_no_distribution_becomes_one():
    given = np.array([[2.0, 2.0], [-3.0, 0.1], [3e38, 3e38], [1e-30, 0.0], [-1.0, 0.0]])
    expected = [[0.5, 0.5], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]
    rows = jax.jit(on_simplex)(jnp.asarray(given, jnp.float32))
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_what_is_no_number_is_seen_by_the_receiver():
    for bad in (jnp.nan, jnp.inf):
        decoded, _ = sent(simplex_quantize(2), jnp.array([[0.5, bad], [0.5, 0.5]]))
        assert np.isnan(decoded).all()


@pytest.mark.parametrize("bits", [0, 17, 1.5])
def test_bits_out_of_their_range_are_named(bits):
    with pytest.raises(ValueError, match=f"bits={bits}"):
        simplex_quantize(bits)
