"""A tree, a message there and back, and a compressor that counts its messages."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Compressor, LinkState, make_context

CONTEXT = make_context(jax.random.key(0), 0)
TREE = {
    "kernel": jnp.arange(24.0).reshape(6, 4) - 7,
    "bias": jnp.asarray([0.5, -2.0, 1.0]),
    "steps": jnp.arange(2),
}
NOTHING = ({}, {"steps": jnp.arange(3)}, {"empty": jnp.zeros((0, 2))})
"""Trees of which nothing is open."""


def roundtrip(compressor, tree, context=CONTEXT):
    state = compressor.init(tree)
    payload, _ = compressor.encode(context, tree, state.sender)
    return payload, compressor.decode(context, payload, state.receiver)[0]


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def counting() -> Compressor:
    """Counts messages at both ends, to follow states through combinators."""
    return Compressor(
        init=lambda like: LinkState(jnp.asarray(0), jnp.asarray(0)),
        encode=lambda context, tree, sender: (tree, sender + 1),
        decode=lambda context, payload, receiver: (payload, receiver + 1),
    )


def assert_counts(compressor, *, at_least=2):
    """Three messages are counted at both ends, wherever the counters are inside."""
    state = compressor.init(TREE)
    for _ in range(3):
        payload, sender = compressor.encode(CONTEXT, TREE, state.sender)
        _, receiver = compressor.decode(CONTEXT, payload, state.receiver)
        state = LinkState(sender, receiver)
    counts = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.integer)]
    assert len(counts) >= at_least
    assert all(int(count) == 3 for count in counts)
