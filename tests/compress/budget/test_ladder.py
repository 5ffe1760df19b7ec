"""A ladder takes the highest rung that a budget pays for, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import ladder, scaled_sign, stochastic_quantize
from fedjax_comp.compress.budget.ladder import Choice, _choice_bits, rung_bits
from fedjax_comp.wire.accounting import message_bits

RUNGS = (scaled_sign(), stochastic_quantize(levels=3), stochastic_quantize(levels=16))
X = jnp.linspace(-1, 1, 1000)


def rung_taken(budget):
    compressor = ladder(*RUNGS)
    context = make_context(jax.random.key(0), 0)._replace(budget_bits=budget)
    payload, _ = compressor.encode(context, X, compressor.init(X).sender)
    return int(payload.field.rung)


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_budget_of_just_its_bits_buys_a_rung(rung):
    choice = 2  # bits that say which of three rungs it is
    end = jnp.float32(rung_bits(RUNGS, X)[rung] + choice)
    assert rung_taken(end) == rung
    assert rung_taken(jnp.float32(np.nextafter(end, np.float32(0)))) == rung
    assert rung_taken(end - 1) == max(rung - 1, 0)


def test_sizes_beyond_a_uint32_are_counted_in_parts():
    sizes = (7, 2**31 - 1, 2**31, 2**32 + 1, 9_600_000_000)
    for rung, size in enumerate(sizes):
        field = Choice(jnp.uint32(rung), (), sizes)
        assert message_bits(_choice_bits(field)) == 3 + size
