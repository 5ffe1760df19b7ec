"""The algorithm battery fails when an algorithm is broken on purpose."""

import jax
import jax.numpy as jnp
import pytest
from jax.dtypes import TypePromotionError

from fedjax_comp.base import Bits
from tests.conformance.algorithm_checks import (
    check_broken_client,
    check_bytes,
    check_executions_agree,
    check_one_trace_and_stable_state,
    check_silence,
)
from tests.conformance.algorithm_table import ALGORITHMS, Entry

BASE = ALGORITHMS["fed_avg compressed"]


def mutated(change):
    """The base algorithm with `change(execution, arguments, result)` on each round."""

    def make(execution, keep_messages):
        algorithm = BASE.make(execution, keep_messages)

        def broken_round(*arguments):
            return change(execution, arguments, algorithm.round(*arguments))

        return algorithm._replace(round=broken_round)

    return Entry(make, BASE.links)


def depends_on_execution(execution, arguments, result):
    server, clients, info = result
    nudge = float(len(repr(execution)) % 7) if "vmapped" in repr(execution) else 0.0
    server = jax.tree.map(lambda x: x + jnp.asarray(nudge, x.dtype), server)
    return server, clients, info


def one_bit_less(execution, arguments, result):
    server, clients, info = result
    traffic = info.uplink
    bits = Bits(traffic.bits.fixed - 8, traffic.bits.variable)
    return server, clients, info._replace(uplink=traffic._replace(bits=bits))


def everyone_is_counted(execution, arguments, result):
    server, clients, info = result
    loud = info.uplink._replace(spoke=jnp.ones_like(info.uplink.spoke))
    return server, clients, info._replace(uplink=loud)


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
        (depends_on_execution, check_executions_agree),
        (one_bit_less, check_bytes),
        (everyone_is_counted, check_silence),
        (silent_memory_changes, check_silence),
        (dropped_not_counted, check_broken_client),
        (state_changes_dtype, check_one_trace_and_stable_state),
    ],
)
def test_battery_catches(change, check):
    with pytest.raises((AssertionError, TypePromotionError)):
        check(mutated(change))
