"""Error feedback against its recursion written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    coded_low_rank,
    differenced,
    error_feedback,
    identity,
    stc,
    top_k,
)
from tests.compress.combine.roundtrips import assert_counts, counting

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


def test_momentum_and_decay_equal_the_recursion():
    momentum, decay = 0.75, 0.5
    compressor = error_feedback(top_k(k=2), momentum=momentum, decay=decay)
    xs = np.random.default_rng(1).standard_normal((20, 5)).astype(np.float32)
    state = compressor.init(jnp.asarray(xs[0]))
    sender = state.sender
    memory, velocity = np.zeros(5), np.zeros(5)
    for x in xs:
        velocity = momentum * velocity + x
        due = decay * memory + velocity
        sent = np.where(np.abs(due) >= np.sort(np.abs(due))[-2], due, 0)
        memory = due - sent
        payload, sender = compressor.encode(CONTEXT, jnp.asarray(x), sender)
        decoded, _ = compressor.decode(CONTEXT, payload, state.receiver)
        np.testing.assert_allclose(decoded, sent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sender.memory[0], memory, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sender.momentum[0], velocity, rtol=1e-5, atol=1e-6)


def test_masking_clears_the_momentum_of_what_was_sent_and_of_nothing_else():
    compressor = error_feedback(top_k(k=1), momentum=0.9, masks_momentum=True)
    x = jnp.asarray([1.0, -4.0, 2.0])
    _, sender = compressor.encode(CONTEXT, x, compressor.init(x).sender)
    assert sender.momentum[0].tolist() == [1.0, 0.0, 2.0]
    assert sender.memory[0].tolist() == [1.0, 0.0, 2.0]


def test_an_exact_compressor_with_momentum_sends_the_momentum():
    compressor = error_feedback(identity(), momentum=0.5)
    sender = compressor.init(jnp.ones(1)).sender
    sums = []
    for _ in range(4):
        payload, sender = compressor.encode(CONTEXT, jnp.ones(1), sender)
        sums.append(float(payload[0]))
    assert sums == [1.0, 1.5, 1.75, 1.875]


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected momentum=1\.0 in \[0\.0, 1\.0\)"):
        error_feedback(identity(), momentum=1.0)
    with pytest.raises(ValueError, match=r"Expected decay=0 in \(0, 1\]"):
        error_feedback(identity(), decay=0)
    with pytest.raises(ValueError, match="momentum > 0 with masks_momentum"):
        error_feedback(identity(), masks_momentum=True)


def test_states_of_both_ends_reach_the_compressor_inside():
    assert_counts(error_feedback(counting()))


def test_what_is_not_a_compressor_is_refused():
    with pytest.raises(ValueError, match="to be a compressor"):
        error_feedback(None)


@pytest.mark.parametrize("around", [error_feedback, differenced])
@pytest.mark.parametrize("inside", [error_feedback(top_k(0.5)), stc(0.1)])
def test_a_memory_around_a_memory_is_refused(around, inside):
    with pytest.raises(
        ValueError, match=f"without error feedback in {around.__name__}"
    ):
        around(inside).init(jnp.ones(20))


@pytest.mark.parametrize(
    "compressor",
    [
        error_feedback(top_k(0.5), momentum=0.9),
        error_feedback(differenced(top_k(0.5))),
        error_feedback(coded_low_rank(1.0, history=3)),
        differenced(coded_low_rank(1.0, history=3)),
    ],
)
def test_both_ends_may_be_given_away_to_a_program(compressor):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)), jnp.float32)

    def message(x, link):
        payload, sender = compressor.encode(CONTEXT, x, link.sender)
        return link._replace(
            sender=sender,
            receiver=compressor.decode(CONTEXT, payload, link.receiver)[1],
        )

    link = compressor.init(x)
    after = jax.jit(message, donate_argnums=1)(x, link)
    assert jax.tree.structure(after) == jax.tree.structure(compressor.init(x))
