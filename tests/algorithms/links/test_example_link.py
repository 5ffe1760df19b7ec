"""The link of examples: what travels, what it costs, and what the cache saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.algorithms.links.example_link import Batch, Cache, example_link
from fedjax_comp.base import Examples, make_context
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    error_feedback,
    rotate,
    separable,
    stochastic_quantize,
    top_k,
    trellis,
)
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

SHAPE = (4, 3)


def make_batch(sent, ids=None, exponents=None, seed=0):
    size = len(sent)
    rng = np.random.default_rng(seed)
    known = list(range(size)) if ids is None else ids
    # What an example shows depends on which it is.
    x = np.stack([np.random.default_rng(i).uniform(size=SHAPE) for i in known])
    return Batch(
        Examples(jnp.asarray(x, jnp.float32), jnp.asarray(known, jnp.int32) % 10),
        ids=jnp.asarray(known, jnp.int32),
        sent=jnp.asarray(sent),
        exponents=jnp.asarray(
            rng.integers(64, size=size) if exponents is None else exponents, jnp.uint8
        ),
        drawn=jnp.int32(size),
    )


def across(link, batch, state, key=0):
    """Encodes, writes the bytes, and decodes those; also the bits."""
    context = make_context(jax.random.key(key), 2)
    payload, sender = jax.jit(link.encode)(context, batch, state.sender)
    data = to_bytes(payload)
    bits = message_bits(num_bits(payload))
    assert len(data) - HEADER_BYTES == -(-bits // 8)
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), payload
    )
    decoded, receiver = jax.jit(link.decode)(
        context, from_bytes(data, template), state.receiver
    )
    return decoded, state._replace(sender=sender, receiver=receiver), bits


def test_only_what_is_sent_travels_and_is_paid_for():
    lattice = uniform_lattice(3, rounding="nearest")
    link = example_link(lattice, num_classes=10, weighted=True)
    batch = make_batch([False, True, True, False, True])
    decoded, _, bits = across(link, batch, link.init(batch))
    kept = [1, 2, 4]
    exact = np.round(np.asarray(batch.examples.x)[kept] * 7) / 7
    np.testing.assert_allclose(decoded.examples.x[:3], exact, atol=1e-6)
    assert not np.asarray(decoded.examples.x[3:]).any()
    np.testing.assert_array_equal(decoded.examples.y[:3], kept)
    np.testing.assert_array_equal(
        decoded.exponents[:3], np.asarray(batch.exponents)[kept]
    )
    assert decoded.sent.tolist() == [True, True, True, False, False]
    assert int(decoded.drawn) == 5
    # Of each: a flag that it is finite, its symbols, its label, its weight; then the
    # counts of these four among 5, 60, 5 and 5, and how many were drawn.
    assert bits == 3 * (1 + 12 * 3 + 4 + 6) + (3 + 6 + 3 + 3) + 3
    nothing = make_batch([False] * 5)
    _, _, bits = across(link, nothing, link.init(nothing))
    assert bits == 18


def test_a_repeat_costs_its_number_and_decodes_to_the_same_bits():
    link = example_link(
        uniform_lattice(2, rounding="subtractive"),
        num_classes=10,
        cache=Cache(6, SHAPE),
    )
    first = make_batch([True] * 4, ids=[11, 5, 17, 2])
    one, state, full = across(link, first, link.init(None), key=1)
    second = make_batch([True, True, False, True], ids=[17, 30, 5, 11])
    two, state, fewer = across(link, second, state, key=2)
    # Fresh ones stand first: 30, then 17 and 11, as the server had them.
    np.testing.assert_array_equal(two.examples.y[:3], [0, 7, 1])
    np.testing.assert_array_equal(two.examples.x[1], one.examples.x[2])
    np.testing.assert_array_equal(two.examples.x[2], one.examples.x[0])
    example = 1 + 12 * 2 + 4
    assert full - fewer == 3 * example - 2 * 3
    # Two places are left: one of these three is not kept, and travels again.
    third = make_batch([True] * 3 + [False], ids=[40, 41, 42, 43])
    _, state, _ = across(link, third, state, key=3)
    _, _, bits = across(link, third, state, key=4)
    again = make_batch([True] * 3 + [False], ids=[50, 51, 52, 43])
    _, _, new = across(link, again, state, key=4)
    assert new - bits == 1 * example - 1 * 3


@pytest.mark.thorough
@pytest.mark.parametrize(
    "quantizer",
    [
        chain(uniform_lattice(2), entropy_coded()),
        chain(rotate(), stochastic_quantize(levels=8)),
        trellis(2.0, states=16),
        uniform_lattice(4, rounding="subtractive"),
    ],
)
def test_any_compressor_without_memory_may_quantize(quantizer):
    link = example_link(quantizer, num_classes=10)
    batch = make_batch([True, False, True])
    decoded, _, _ = across(link, batch, link.init(batch))
    x = np.asarray(batch.examples.x)[[0, 2]]
    error = np.square(np.asarray(decoded.examples.x)[:2] - x).mean()
    assert error < np.square(x).mean() / 4


def test_mistakes_are_named():
    batch = make_batch([True] * 3)
    context = make_context(jax.random.key(0), 0)
    cases = [
        (error_feedback(uniform_lattice(2)), "without memory"),
        (top_k(0.5), "no index set"),
        (separable(), "fixed length"),
    ]
    for quantizer, message in cases:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                example_link(quantizer, num_classes=10).encode, context, batch, ()
            )
    with pytest.raises(ValueError, match="num_classes=0"):
        example_link(uniform_lattice(1), num_classes=0)
    with pytest.raises(ValueError, match="capacity=0"):
        example_link(uniform_lattice(1), num_classes=2, cache=Cache(0, SHAPE))
