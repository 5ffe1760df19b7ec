"""The algorithm battery fails when an algorithm is broken on purpose."""

import jax
import jax.numpy as jnp
import pytest
from jax.dtypes import TypePromotionError

from fedjax_comp.algorithms import client_update
from fedjax_comp.base import Bits, Compressor, Ends
from fedjax_comp.wire.traffic import to_server
from tests.conformance.algorithm_checks import (
    Entry,
    check_broken_client,
    check_bytes,
    check_executions_agree,
    check_one_trace_and_stable_state,
    check_silence,
)
from tests.conformance.algorithm_table import ALGORITHMS

pytestmark = pytest.mark.slow

# With a memory, losses either way, and no entropy coder, which is slow to compile.
BASE = ALGORITHMS["fed_nova"]


def mutated(change, base=BASE):
    """An algorithm with `change(execution, arguments, result)` on each round."""

    def make(execution, keep_messages):
        algorithm = base.make(execution, keep_messages)

        def broken_round(*arguments):
            return change(execution, arguments, algorithm.round(*arguments))

        return algorithm._replace(round=broken_round)

    return Entry(make, base.links)


def with_uplink(info, **changes):
    uplink = info.traffic["uplink"]._replace(**changes)
    return info._replace(traffic={**info.traffic, "uplink": uplink})


def depends_on_execution(execution, arguments, result):
    server, clients, info = result
    nudge = float(len(repr(execution)) % 7) if "vmapped" in repr(execution) else 0.0
    server = jax.tree.map(lambda x: x + jnp.asarray(nudge, x.dtype), server)
    return server, clients, info


def one_bit_less(execution, arguments, result):
    server, clients, info = result
    uplink = info.traffic["uplink"]
    bits = Bits(uplink.bits.fixed - 8, uplink.bits.variable)
    return server, clients, with_uplink(info, bits=bits)


def everyone_is_counted(execution, arguments, result):
    server, clients, info = result
    loud = jnp.ones_like(info.traffic["uplink"].spoke)
    return server, clients, with_uplink(info, spoke=loud)


def sent_the_other_way(execution, arguments, result):
    server, clients, info = result
    ends = info.traffic["uplink"].ends
    return server, clients, with_uplink(info, ends=Ends(ends.receiver, ends.sender))


def logged_the_other_way(execution, arguments, result):
    server, clients, info = result
    if not info.messages:
        return result
    uplink = info.messages["uplink"]
    turned = uplink._replace(ends=Ends(uplink.ends.receiver, uplink.ends.sender))
    return server, clients, info._replace(messages={**info.messages, "uplink": turned})


def place_for_client(execution, arguments, result):
    server, clients, info = result
    ends = to_server(jnp.arange(3))
    return server, clients, with_uplink(info, ends=ends)


def a_kind_is_not_kept(execution, arguments, result):
    server, clients, info = result
    kept = {kind: x for kind, x in info.messages.items() if kind == "uplink"}
    return server, clients, info._replace(messages=kept)


def silent_memory_changes(execution, arguments, result):
    server, clients, info = result
    return server, jax.tree.map(lambda x: x + jnp.ones_like(x), clients), info


def dropped_not_counted(execution, arguments, result):
    server, clients, info = result
    return server, clients, info._replace(dropped=jnp.zeros_like(info.dropped))


def state_changes_dtype(execution, arguments, result):
    server, clients, info = result
    half = jax.tree.map(
        lambda x: x.astype(jnp.float16) if x.dtype == jnp.float32 else x, clients
    )
    return server, half, info


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (one_bit_less, check_bytes),
        (sent_the_other_way, check_bytes),
        (logged_the_other_way, check_bytes),
        (place_for_client, check_bytes),
        (a_kind_is_not_kept, check_bytes),
        (everyone_is_counted, check_silence),
        (silent_memory_changes, check_silence),
        (dropped_not_counted, check_broken_client),
        (state_changes_dtype, check_one_trace_and_stable_state),
    ],
)
def test_battery_catches(change, check):
    with pytest.raises((AssertionError, TypePromotionError)):
        check(mutated(change))


def test_battery_catches_what_depends_on_the_execution():
    # Every strategy is compiled for this one: the simplest algorithm is enough.
    dense = ALGORITHMS["fed_avg dense"]
    with pytest.raises(AssertionError):
        check_executions_agree(mutated(depends_on_execution, dense))


def adds_up_what_was_not_sent(uplink, context, value, link, *, keep_message, **options):
    """`send`, but for one line: the update goes on as it was before it was encoded."""
    lossy = Compressor(uplink.init, uplink.encode, lambda c, p, s: (value, s))
    return real_send(lossy, context, value, link, keep_message=keep_message, **options)


real_send = client_update.send


def test_battery_catches_an_algorithm_that_adds_up_something_else(monkeypatch):
    monkeypatch.setattr(client_update, "send", adds_up_what_was_not_sent)

    def make(execution, keep_messages):
        return BASE.make(execution, keep_messages)

    with pytest.raises(AssertionError, match="went on with something else"):
        check_bytes(Entry(make, BASE.links))
