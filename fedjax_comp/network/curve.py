"""The curve of a compressor that heeds a budget: what it sends, loses and costs.

A controller chooses from a ladder of messages. Any compressor that heeds
`Context.budget_bits` has one: it encodes one update within budgets that grow by a
factor of the square root of two, and every size that results is a rung. Budgets are
traced, so that one compiled program serves them all.

The update is a real one, from a round whose result is not kept: compressors that
exploit the structure of updates lose several times as much of white noise.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.keys import make_key
from fedjax_comp.network.codec_cost import compiled_cost, relative_error
from fedjax_comp.network.control import Ladder
from fedjax_comp.network.devices import Cost, Device
from fedjax_comp.network.setting import Codec
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bits, num_bits

RATES = tuple(2.0 ** (k / 2) for k in range(-20, 11))
"""Bits a coordinate that are tried, of the whole tree."""

_REPEATS = 5


def measure_curve(link: Compressor, update: PyTree, host: Device) -> list[Json]:
    """What a compressor sends of an update within each of `RATES`.

    Args:
      link: heeds `Context.budget_bits`.
      update: a tree of arrays; not all zeros.
      host: what this machine reaches.

    Returns:
      A rung for every size that occurs, ascending, JSON-able: `bits` of the message,
      `error`, `||C(x) - x||^2 / ||x||^2`, `encode` and `decode`, the fields of `Cost`.
    """
    state = link.init(update)
    context = make_context(make_key(1), 0)
    encode = jax.jit(link.encode).lower(context, update, state.sender).compile()
    shapes = jax.eval_shape(link.encode, context, update, state.sender)[0]
    decode = jax.jit(link.decode).lower(context, shapes, state.receiver).compile()
    count_bits = jax.jit(num_bits)
    n = sum(x.size for x in jax.tree.leaves(update))
    rungs: dict[int, Json] = {}
    for rate in RATES:
        own = context._replace(budget_bits=jnp.float32(rate * n))
        payload, _ = encode(own, update, state.sender)
        bits = message_bits(count_bits(payload))
        if bits in rungs:
            continue
        decoded, _ = decode(own, payload, state.receiver)
        rungs[bits] = {
            "bits": bits,
            "error": relative_error(update, decoded),
            "encode": dataclasses.asdict(
                compiled_cost(encode, (own, update, state.sender), host, _REPEATS)
            ),
            "decode": dataclasses.asdict(
                compiled_cost(decode, (own, payload, state.receiver), host, _REPEATS)
            ),
        }
    return [rungs[bits] for bits in sorted(rungs)]


def curve_of(rungs: Sequence[Json], num_parameters: int) -> tuple[Ladder, Codec]:
    """The ladder that a controller chooses from, and the costs of its rungs.

    Args:
      rungs: of `measure_curve`.
      num_parameters: `n`.
    """
    ladder = Ladder(
        bits=np.array([rung["bits"] for rung in rungs], np.float64),
        errors=np.array([rung["error"] for rung in rungs]),
        num_parameters=num_parameters,
    )
    codec = Codec(
        tuple(Cost(**rung["encode"]) for rung in rungs),
        tuple(Cost(**rung["decode"]) for rung in rungs),
    )
    return ladder, codec
