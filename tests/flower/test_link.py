"""Sealed messages as bytes: what is read back, and what is refused."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Compressor, make_context
from fedjax_comp.compress import (
    chain,
    coded_low_rank,
    differenced,
    entropy_coded,
    error_feedback,
    identity,
    qsgd,
    random_k,
    top_k,
)
from fedjax_comp.flower.link import (
    OVERHEAD_BYTES,
    STAMP_BYTES,
    Refused,
    Stamp,
    flower_link,
    seal,
    stamp_of,
    unseal,
)
from fedjax_comp.wire.accounting import message_bytes

MODEL = {"b": jnp.arange(5.0), "w": jnp.linspace(-1.0, 1.0, 60).reshape(12, 5)}
OWN = Stamp("update", run=2**63 + 5, round=4, node=2**64 - 1)
UPLINK = error_feedback(chain(top_k(0.2), qsgd(8), entropy_coded()))


def link_with(uplink=UPLINK, downlink=None, **own):
    return flower_link(uplink, downlink or identity(), MODEL, **own)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_dense_links_carry_bits():
    link = link_with(identity())
    data, _ = link.tell("train", OWN.run, 4, MODEL, link.downlink_sender)
    assert_equal(link.hear(OWN._replace(kind="train"), data), MODEL)
    data, _ = link.answer(OWN, MODEL, ())
    assert_equal(link.read(OWN, data, ())[0], MODEL)
    assert len(seal(data, OWN)) == 65 * 4 + OVERHEAD_BYTES


@pytest.mark.thorough
def test_a_message_is_the_compressor_s_and_costs_what_the_ledger_says():
    """Both ends derive one context, whose keys a shared random-k needs."""
    uplink = random_k(0.3, shared=True)
    link, other = link_with(uplink), link_with(uplink)
    data, _ = link.answer(OWN, MODEL, link.uplink_sender)
    update, _ = other.read(OWN, data, other.uplink_receiver)
    kept = np.concatenate([np.ravel(x) for x in update.values()])
    assert 0 < np.count_nonzero(kept) < 30
    context = make_context(jax.random.key(0), 1)
    payload, _ = uplink.encode(context, MODEL, ())
    assert len(data) - OVERHEAD_BYTES + STAMP_BYTES == message_bytes(payload)
    with_another_seed = link_with(uplink, seed=1).read(OWN, data, ())[0]
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(update.values(), with_another_seed.values(), strict=True)
    )


def test_error_feedback_owes_what_was_not_sent():
    """What is decoded of two rounds and still owed adds up to what was to be sent."""
    link = link_with()
    sender, receiver, total = link.uplink_sender, link.uplink_receiver, 0.0
    for number in (1, 2):
        own = OWN._replace(round=number)
        data, sender = link.answer(own, MODEL, sender)
        update, receiver = link.read(own, data, receiver)
        total = jax.tree.map(jnp.add, update, total) if number == 2 else update
    owed = jax.tree.leaves(sender)
    for said, left, wanted in zip(
        jax.tree.leaves(total), owed, jax.tree.leaves(MODEL), strict=True
    ):
        np.testing.assert_allclose(said + left, 2 * wanted, atol=1e-5)


def test_the_server_s_memory_of_a_client_is_kept_apart():
    link = link_with(differenced(identity()))
    data, _ = link.answer(OWN, MODEL, link.uplink_sender)
    update, receiver = link.read(OWN, data, link.uplink_receiver)
    assert_equal(update, MODEL)
    assert jax.tree.leaves(receiver)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"round": 3}, "of round 4, not 3: replayed or late"),
        ({"run": 1}, "not 1: replayed or late"),
        ({"node": 7}, "of node 18446744073709551615, not 7"),
        ({"kind": "train"}, "of kind update, not train"),
    ],
)
def test_a_message_of_another_time_or_node_is_refused(change, reason):
    link = link_with()
    data, _ = link.answer(OWN, MODEL, link.uplink_sender)
    sealed = seal(data, OWN)
    assert unseal(sealed, OWN) == data
    with pytest.raises(Refused, match=reason):
        unseal(sealed, OWN._replace(**change))


def test_every_changed_byte_and_every_length_is_refused():
    link = link_with()
    data, _ = link.answer(OWN, MODEL, link.uplink_sender)
    sealed = seal(data, OWN)
    for i in range(len(sealed)):
        broken = sealed[:i] + bytes([sealed[i] ^ 4]) + sealed[i + 1 :]
        with pytest.raises(Refused):
            unseal(broken, OWN)
        with pytest.raises(Refused):
            unseal(sealed[:i], OWN)
    for other in (None, 3, "text", b"", sealed + b"x"):
        with pytest.raises(Refused):
            unseal(other, OWN)


def test_forged_bodies_under_a_right_stamp_are_refused():
    """Whoever can make a digest still has to make a message."""
    link = link_with()
    data, _ = link.answer(OWN, MODEL, link.uplink_sender)
    for body in (b"", b"FJC", data[:-1], data + b"\0", bytes(len(data))):
        message = unseal(seal(body, OWN), OWN)
        with pytest.raises(Refused, match="its payload is malformed"):
            link.read(OWN, message, link.uplink_receiver)


def test_what_is_not_finite_is_refused():
    link = link_with(identity())
    data, _ = link.answer(OWN, MODEL | {"b": jnp.full(5, jnp.nan)}, ())
    with pytest.raises(Refused, match="not finite"):
        link.read(OWN, data, ())


def test_the_stamp_is_documented_bytes():
    sealed = seal(b"body", OWN)
    assert len(sealed) == 33 + 4
    magic, version, kind, run, number, node = struct.unpack("<3sBBQIQ", sealed[:25])
    assert (magic, version, kind) == (b"FJF", 1, 2)
    assert (run, number, node) == OWN[1:]
    assert stamp_of(sealed) == OWN


def test_mistakes():
    with pytest.raises(ValueError, match="uplink"):
        flower_link("top_k", identity(), MODEL)
    with pytest.raises(ValueError, match="history=0"):
        flower_link(coded_low_rank(history=4), identity(), {"w": jnp.ones((8, 8))})
    with pytest.raises(ValueError, match="without memory at the receiver"):
        link_with(identity(), differenced(identity()))
    assert isinstance(UPLINK, Compressor)
