"""Audits: each fault is told, and of which message."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import Ends, Messages, make_context
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.compress.combine.chain import chain
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.compress.quantize.scalar import qsgd
from fedjax_comp.keys import make_key

LINK = chain(qsgd(4), entropy_coded())
AUDIT = make_auditor(LINK)


@pytest.fixture(scope="module")
def messages():
    """Three messages, of which the second was not sent."""
    tree = {"w": jax.random.normal(make_key(0), (3, 40))}
    state = LINK.init({"w": tree["w"][0]})

    def one(i, leaf):
        context = make_context(make_key(1), i)
        payload, _ = LINK.encode(context, {"w": leaf}, state.sender)
        used, _ = LINK.decode(context, payload, state.receiver)
        return context, payload, used

    context, payload, used = jax.jit(jax.vmap(one))(jnp.arange(3), tree["w"])
    return Messages(
        context=context,
        payload=payload,
        receiver=state.receiver,
        used=used,
        spoke=jnp.array([True, False, True]),
        ends=Ends(jnp.arange(3), jnp.full(3, -1)),
    )


def test_what_was_sent_is_audited(messages):
    assert AUDIT(messages) == (2, ())


def test_a_message_that_cannot_be_written_is_named_and_the_others_are_audited(messages):
    beyond = jax.tree.map(
        lambda x: x.at[2].set(255) if x.dtype == jnp.uint8 else x, messages.payload
    )
    audit = AUDIT(messages._replace(payload=beyond))
    assert audit.audited == 2
    assert audit.failures == ("message 2: Expected 255 < 9.",)


def test_use_of_something_else_is_named(messages):
    other = jax.tree.map(lambda x: x.at[0].add(0.1), messages.used)
    (failure,) = AUDIT(messages._replace(used=other)).failures
    assert failure.startswith("message 0: the run went on with something else")
