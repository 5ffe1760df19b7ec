"""Blocks against the compressor applied to each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Context, make_context
from fedjax_comp.compress import (
    ArrayCode,
    blockwise,
    chain,
    entropy_coded,
    error_feedback,
    leafwise,
    qsgd,
    rotate,
    scaled_sign,
    top_k,
)
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import Raw

CONTEXT = make_context(jax.random.key(0), 0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7)), jnp.float32)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [1, 8, 35, 99])
def test_every_block_has_its_own_scale(size: int):
    compressor = blockwise(size, scaled_sign())
    payload, _ = compressor.encode(CONTEXT, X, ())
    decoded = np.asarray(compressor.decode(CONTEXT, payload, ())[0]).ravel()
    flat = np.asarray(X).ravel()
    for start in range(0, 35, size):
        part = flat[start : start + size]
        expected = np.where(part >= 0, 1, -1) * np.abs(part).mean()
        np.testing.assert_allclose(decoded[start : start + size], expected, rtol=1e-5)
    assert num_bits(payload).fixed == 35 + 32 * -(-35 // size)


@pytest.mark.thorough
def test_blocks_of_an_open_stage_stay_open():
    compressor = chain(blockwise(8, rotate()), qsgd(100))
    state = compressor.init(X)
    payload, _ = compressor.encode(CONTEXT, X, state.sender)
    decoded, _ = compressor.decode(CONTEXT, payload, state.receiver)
    assert float(jnp.linalg.norm(decoded - X)) < 0.1 * float(jnp.linalg.norm(X))


@pytest.mark.parametrize(
    "inside, message",
    [
        (top_k(0.5), "IndexSet"),
        (error_feedback(scaled_sign()), "without memory"),
        (chain(qsgd(3), entropy_coded()), "Coded"),
    ],
)
def test_what_differs_in_length_is_refused(inside, message: str):
    with pytest.raises(ValueError, match=message):
        blockwise(8, inside)


def test_shares_of_the_blocks_add_up_to_the_budget():
    def told(context: Context, x: jax.Array) -> Raw:
        del x
        return Raw(context.budget_bits)

    tells = leafwise(ArrayCode("tells", told, lambda context, payload, like: None))
    context = CONTEXT._replace(budget_bits=jnp.float32(350.0))
    payload, _ = blockwise(8, tells).encode(context, X, ())
    full, rest = jax.tree.leaves(payload)
    np.testing.assert_allclose([*full, rest], [80, 80, 80, 80, 30], rtol=1e-4)
