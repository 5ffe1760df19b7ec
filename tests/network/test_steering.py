"""Orders to the compiled round: budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context as context_of
from fedjax_comp.compress import budgeted_quantize, budgeted_top_k, error_feedback
from fedjax_comp.network.steering import heard_energies, steer, steered
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import from_bytes, to_bytes


def test_budgets_are_kept_without_compiling_anew():
    up = steered(error_feedback(budgeted_top_k(1.0)))
    tree = {"w": jnp.arange(40.0), "b": jnp.ones(3)}
    traces = []

    @jax.jit
    def send(state, key):
        traces.append(1)
        payload, sender = up.encode(context_of(key, 0), tree, state.sender)
        _, receiver = up.decode(context_of(key, 0), payload, state.receiver)
        return payload, state._replace(sender=sender, receiver=receiver)

    state = up.init(tree)
    for budget in (100.0, 500.0, np.inf):
        state = steer(state, np.float32(budget))
        payload, state = send(state, jax.random.key(0))
        assert message_bits(num_bits(payload)) <= budget
    # All of it passed in the end, but for what error feedback had kept.
    assert len(traces) == 1
    assert message_bits(num_bits(payload)) > 500


@pytest.mark.thorough
def test_every_leaf_has_its_own_budget():
    up = steered(budgeted_quantize(), per_leaf=True)
    tree = [jnp.linspace(-1, 1, 50), jnp.linspace(-3, 3, 20)]
    state = steer(up.init(tree), np.array([69 + 50 * 3, 69 + 20 * 7.0]))
    context = context_of(jax.random.key(1), 0)
    payload, _ = up.encode(context, tree, state.sender)
    widths = [int(part.parts[0].symbols.width) for part in payload.parts]
    assert widths == [3, 7]
    data = to_bytes(payload)
    decoded, heard = up.decode(context, from_bytes(data, payload), state.receiver)
    for x, y in zip(tree, decoded, strict=True):
        assert y.shape == x.shape
    expected = [float(jnp.sum(y**2)) for y in decoded]
    assert heard.energies.tolist() == pytest.approx(expected)
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state._replace(receiver=heard))
    assert heard_energies(states).shape == (2, 2)
    assert heard_energies((jnp.ones(2),)) is None
    with pytest.raises(ValueError, match="compressor"):
        steered(lambda: None)
