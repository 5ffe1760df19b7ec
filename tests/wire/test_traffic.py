"""Traffic: no bit is lost, only messages that were sent cost, and ends are data."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import EVERYONE, SERVER, Bits, Ends, Traffic
from fedjax_comp.wire.traffic import (
    broadcast_traffic,
    bytes_by_client,
    sent,
    to_client,
    to_server,
    totals,
)


def test_sums_beyond_32_bits_are_exact():
    most = jnp.uint32(2**32 - 1)
    stacked = Bits(2**40 + 1, (jnp.full((5, 3), most), jnp.full((5, 3), most)))
    ends = to_server(jnp.zeros((5, 3), jnp.int32))
    each = 2**40 + 1 + 2 * (2**32 - 1)
    found = totals({"uplink": Traffic(stacked, jnp.ones((5, 3), bool), ends)})
    assert found == (15 * each, 15 * -(-each // 8), 15, 0, 0, 0)
    assert all(isinstance(x, int) for x in found)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_only_spoken_messages_cost_and_each_is_rounded_up(shape):
    rng = np.random.default_rng(0)
    spoke = rng.random(shape) < 0.5
    first, second = rng.integers(0, 50, (2, *shape)).astype(np.uint32)
    ends = to_client(jnp.zeros(shape, jnp.int32))
    bits = Bits(3, (jnp.asarray(first), jnp.asarray(second)))
    expected = [
        3 + int(a) + int(b)
        for a, b, s in zip(first.flat, second.flat, spoke.flat, strict=True)
        if s
    ]
    found = totals({"downlink": Traffic(bits, spoke, ends)})
    assert found.downlink_bits == sum(expected)
    assert found.downlink_bytes == sum(-(-bits // 8) for bits in expected)
    assert found.downlink_messages == len(expected)
    assert found[:3] == (0, 0, 0)
    static = totals({"downlink": Traffic(Bits(9), spoke, ends)})
    assert static.downlink_bytes == 2 * len(expected)


def test_the_direction_is_in_the_ends_and_not_in_the_name():
    ids, spoke = jnp.array([4, 9]), jnp.ones(2, bool)
    up = Traffic(Bits(16), spoke, to_server(ids))
    down = Traffic(Bits(24), spoke, to_client(ids))
    peers = Traffic(Bits(8), spoke, Ends(ids, ids[::-1]))
    # Whatever the kinds are called, and in whatever order.
    for kinds in ({"downlink": up, "x": down}, {"uplink": down, "b": up}):
        assert totals(kinds)[1::3] == (4, 6)
    assert totals({"downlink": peers})[1::3] == (2, 2)
    messages = sent({"a": up, "b": peers})
    assert messages.sender.tolist() == [4, 9, 4, 9]
    assert messages.receiver.tolist() == [SERVER, SERVER, 9, 4]
    assert totals({}) == (0, 0, 0, 0, 0, 0)


def test_ends_of_one_message():
    assert to_server(3) == (3, SERVER)
    assert to_client(EVERYONE) == (SERVER, EVERYONE)


def test_a_broadcast_is_heard_by_those_who_are_named():
    heard = jnp.array([True, False, True])
    cohort = broadcast_traffic(jnp.zeros(3), heard, jnp.array([7, 5, 6]))
    assert sent({"": cohort}).receiver.tolist() == [7, 6]
    assert sent({"": broadcast_traffic(jnp.zeros(3), heard)}).receiver.tolist() == [
        0,
        2,
    ]


def test_bytes_by_client():
    ids = np.array([2, 0])
    spoke = np.array([[True, False]])
    up = Traffic(Bits(4, (np.array([[5, 6]], np.uint32),)), spoke, to_server(ids[None]))
    found = bytes_by_client({"uplink": up}, 3)
    assert found == ([None, None, 2], [None] * 3)
    everyone = np.array([[True, False, True]])
    down = Traffic(Bits(16), everyone, to_client(np.arange(3)[None]))
    notice = down._replace(bits=Bits(8))
    assert bytes_by_client({"downlink": down}, 3).received == [2, None, 2]
    # A client may hear several things in a round.
    both = bytes_by_client({"downlink": down, "polls": notice}, 3)
    assert both.received == [3, None, 3]
    with pytest.raises(ValueError, match="--network"):
        bytes_by_client({"uplink": up, "more": up}, 3)
    peers = Traffic(Bits(8), np.ones(1, bool), Ends(np.array([0]), np.array([1])))
    with pytest.raises(ValueError, match="--network"):
        bytes_by_client({"updates": peers}, 3)
