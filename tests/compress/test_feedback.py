"""Error feedback against its recursion written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import make_context
from fedjax_comp.compress import error_feedback, identity, top_k

CONTEXT = make_context(jax.random.key(0), 0)


def test_equals_the_recursion():
    compressor = error_feedback(top_k(k=2))
    xs = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    state = compressor.init(jnp.asarray(xs[0]))
    sender, memory = state.sender, np.zeros(5, np.float32)
    for x in xs:
        due = x + memory
        sent = np.where(np.abs(due) >= np.sort(np.abs(due))[-2], due, 0)
        memory = due - sent
        payload, sender = compressor.encode(CONTEXT, jnp.asarray(x), sender)
        decoded, _ = compressor.decode(CONTEXT, payload, state.receiver)
        np.testing.assert_array_equal(decoded, sent)
        np.testing.assert_array_equal(sender.memory[0], memory)


def test_the_memory_is_float32_and_holds_what_a_narrow_dtype_drops():
    compressor = error_feedback(identity())
    x = jnp.asarray([1.0], jnp.bfloat16)
    sender = compressor.init(x).sender
    sender = sender._replace(memory=(jnp.asarray([2.0**-12], jnp.float32),))
    payload, sender = compressor.encode(CONTEXT, x, sender)
    # 1 + 2**-12 is 1 in bfloat16, and what is cut off is still owed.
    assert payload.tolist() == [1.0]
    assert sender.memory[0].tolist() == [2.0**-12]


def test_integers_pass_and_have_no_memory():
    tree = {"n": jnp.arange(3), "x": jnp.ones(2)}
    state = error_feedback(top_k(k=1)).init(tree)
    assert [m.shape for m in state.sender.memory] == [(2,)]
