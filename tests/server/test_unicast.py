"""A message to each client: what both ends remember, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import SERVER, make_context
from fedjax_comp.compress import identity, qsgd, top_k
from fedjax_comp.keys import make_key
from fedjax_comp.server.unicast import new_listener, tell
from fedjax_comp.wire.traffic import bytes_by_client

CONTEXT = make_context(make_key(0), 4)
START = {"w": jnp.array([1.0, 2.0, 3.0])}


def told(compressor, params, listener, hears=True):
    who = jnp.int32(4)
    return tell(
        compressor, CONTEXT, params, listener, client_id=who, hears=jnp.array(hears)
    )


def test_the_audit_has_the_memory_from_before_and_what_was_decoded():
    compressor = qsgd(levels=4)
    one = told(compressor, {"w": jnp.ones(3)}, new_listener(compressor, START))
    message = one.message
    assert (int(message.ends.sender), int(message.ends.receiver)) == (SERVER, 4)
    decoded, _ = compressor.decode(message.context, message.payload, message.receiver)
    jax.tree.map(np.testing.assert_array_equal, decoded, message.used)
    np.testing.assert_array_equal(one.received["w"], START["w"] + decoded["w"])


def test_it_is_paid_for_by_who_hears_it():
    listener = new_listener(identity(), START)
    for hears, size in ((True, 12), (False, None)):
        one = told(identity(), {"w": jnp.zeros(3)}, listener, hears)
        stacked = jax.tree.map(lambda x: x[None], one.traffic)
        assert bytes_by_client({"down": stacked}, 5).received[4] == size


def test_who_does_not_hear_knows_what_it_knew():
    listener = new_listener(top_k(k=1), START)
    silent = told(top_k(k=1), {"w": jnp.zeros(3)}, listener, hears=False)
    jax.tree.map(np.testing.assert_array_equal, silent.listener, listener)


def test_what_is_not_finite_is_forgotten_at_both_ends():
    listener = new_listener(identity(), START)
    lost = told(identity(), {"w": jnp.full(3, jnp.inf)}, listener)
    assert not np.isfinite(lost.received["w"]).any()
    jax.tree.map(np.testing.assert_array_equal, lost.listener, listener)
    after = told(identity(), {"w": jnp.zeros(3)}, lost.listener)
    np.testing.assert_array_equal(after.received["w"], np.zeros(3))
