"""Block and chunk sparsifiers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import entropy_coded
from fedjax_comp.compress.combine.chain import chain
from fedjax_comp.compress.sparsify.structured import block_top_k, chunk_top_k
from fedjax_comp.wire.accounting import num_bits

CONTEXT = make_context(jax.random.key(0), 0)


def roundtrip(compressor, tree):
    state = compressor.init(tree)
    payload, _ = compressor.encode(CONTEXT, tree, state.sender)
    return payload, compressor.decode(CONTEXT, payload, state.receiver)[0]


@pytest.mark.parametrize("n", [12, 14])
def test_the_heaviest_blocks_are_kept_whole(n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    blocks = np.pad(x, (0, -n % 4)).reshape(-1, 4)
    k = round(0.5 * len(blocks))
    heaviest = np.argsort(-np.sum(blocks**2, axis=1))[:k]
    expected = np.zeros_like(blocks)
    expected[heaviest] = blocks[heaviest]
    payload, decoded = roundtrip(block_top_k(0.5, block=4), jnp.asarray(x))
    np.testing.assert_array_equal(decoded, expected.reshape(-1)[:n])
    # 32 bits a number and 2 an index.
    assert num_bits(payload).fixed == k * (4 * 32 + 2)


@pytest.mark.parametrize("n", [3, 8, 21])
def test_every_chunk_keeps_its_largest(n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    expected = np.zeros_like(x)
    for start in range(0, n, 8):
        chunk = x[start : start + 8]
        for i in np.argsort(-np.abs(chunk))[:2]:
            expected[start + i] = chunk[i]
    _, decoded = roundtrip(chunk_top_k(2, chunk=8), jnp.asarray(x))
    np.testing.assert_array_equal(decoded, expected)


def test_a_place_costs_the_chunks_bits_and_may_be_coded():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(640), jnp.float32)
    payload, _ = roundtrip(chunk_top_k(4), x)
    assert num_bits(payload).fixed == 10 * 4 * (32 + 6)
    _, decoded = roundtrip(chain(chunk_top_k(4), entropy_coded()), x)
    np.testing.assert_array_equal(decoded, roundtrip(chunk_top_k(4), x)[1])


def test_all_of_it_is_exact_and_tiny_blocks_are_compared():
    x = jnp.arange(1.0, 11.0)
    np.testing.assert_array_equal(roundtrip(chunk_top_k(4, chunk=4), x)[1], x)
    np.testing.assert_array_equal(roundtrip(block_top_k(1.0, block=4), x)[1], x)
    tiny = jnp.asarray([1e-30, 0, 3e-30, 0], jnp.float32)  # squares are 0 in float32
    np.testing.assert_array_equal(
        roundtrip(block_top_k(0.5, block=2), tiny)[1], tiny.at[0].set(0)
    )


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected k=5 in \[1, 4\]"):
        chunk_top_k(5, chunk=4)
    with pytest.raises(ValueError, match="Expected block=0 >= 1"):
        block_top_k(0.5, block=0)
    with pytest.raises(ValueError, match=r"Expected fraction=2 in \(0, 1\]"):
        block_top_k(2, block=4)
