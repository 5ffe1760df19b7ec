"""Compressors in optax chains: against the message itself, over devices, and in jit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from fedjax_comp.as_optax import _all_variable, as_optax
from fedjax_comp.base import Bits, make_context
from fedjax_comp.compress import (
    entropy_coded,
    error_feedback,
    identity,
    qsgd,
    top_k,
)
from fedjax_comp.compress.combine.chain import chain
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes
from tests.traced_once import traced_once

KEY = jax.random.key(7)
PARAMS = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}


def gradient(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMS
    )


CODED = chain(qsgd(4), entropy_coded())


def test_what_arrives_is_what_the_bytes_say_and_costs_as_many():
    send = as_optax(CODED, KEY)
    state = send.init(PARAMS)
    assert message_bits(state.bits) >= 0
    update = traced_once(send.update)
    for step in range(3):
        heard, state = update(gradient(step), state)
        context = make_context(jax.random.fold_in(KEY, step), 0)
        link = CODED.init(PARAMS)
        payload, _ = jax.jit(CODED.encode)(context, gradient(step), link.sender)
        decoded, _ = jax.jit(CODED.decode)(context, payload, link.receiver)
        jax.tree.map(np.testing.assert_array_equal, heard, decoded)
        written = len(to_bytes(payload)) - HEADER_BYTES
        assert -(-message_bits(state.bits) // 8) == written
    assert int(state.sent) == 3


def test_a_chain_with_adam_learns_with_what_was_lost_fed_back():
    target = jax.tree.map(lambda x: x + 1, PARAMS)

    def loss(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True)

    compressor = error_feedback(top_k(0.1))
    optimizer = optax.chain(as_optax(compressor, KEY), optax.sgd(0.05))

    @jax.jit
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), ()

    start = (PARAMS, optimizer.init(PARAMS))
    (params, _), _ = jax.lax.scan(step, start, length=400)
    assert loss(params) < 1e-3 * loss(PARAMS)


@pytest.mark.thorough
def test_over_devices_it_is_the_mean_of_their_messages():
    workers = len(jax.devices())
    assert workers > 1
    mesh = Mesh(np.asarray(jax.devices()), ("workers",))
    send = as_optax(qsgd(2), KEY, axis_name="workers")
    each = [gradient(i) for i in range(workers)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *each)
    spec = PartitionSpec("workers")

    def step(updates):
        own = jax.tree.map(lambda x: x[0], updates)
        heard, state = send.update(own, send.init(own))
        return jax.tree.map(lambda x: x[None], (heard, state.dropped))

    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec)
    heard, dropped = jax.jit(mapped)(stacked)
    decoded = []
    for i, one in enumerate(each):
        context = make_context(jax.random.fold_in(KEY, 0), i)
        payload, _ = qsgd(2).encode(context, one, ())
        decoded.append(qsgd(2).decode(context, payload, ())[0])
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *decoded)
    for name, expected in mean.items():
        for device in range(workers):
            np.testing.assert_allclose(
                heard[name][device], expected, rtol=1e-5, atol=1e-6
            )
    assert dropped.sum() == 0


def test_what_is_not_finite_is_not_followed_and_is_counted():
    send = as_optax(error_feedback(top_k(0.5)), KEY)
    _, state = send.update(gradient(0), send.init(PARAMS))
    broken = jax.tree.map(lambda x: x * jnp.nan, PARAMS)
    heard, after = send.update(broken, state)
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(heard))
    assert int(after.dropped) == 1
    jax.tree.map(np.testing.assert_array_equal, after.link, state.link)


def test_a_raw_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        as_optax(qsgd(2), jax.random.PRNGKey(0))


def test_its_state_may_be_given_away():
    optimizer = optax.chain(as_optax(error_feedback(top_k(0.5)), KEY), optax.sgd(0.1))
    update = jax.jit(optimizer.update, donate_argnums=1)
    state = optimizer.init(PARAMS)
    for step in range(2):
        _, state = update(gradient(step), state)
    assert int(state[0].sent) == 2


@pytest.mark.parametrize(
    "compressor",
    [
        identity(),
        pytest.param(CODED, marks=pytest.mark.thorough),
        pytest.param(error_feedback(top_k(0.5)), marks=pytest.mark.thorough),
    ],
    ids=["identity", "coded", "error_feedback"],
)
def test_its_state_is_of_one_type_whatever_the_dtype_of_the_updates(compressor):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    send, link = as_optax(compressor, KEY), compressor.init(params)

    @jax.jit
    def run(updates):
        def step(state, _):
            heard, state = send.update(updates, state)
            return state, heard

        start = send.init(params)
        state, heard = jax.lax.scan(step, start, length=1)
        context = make_context(jax.random.fold_in(KEY, 0), 0)
        payload, _ = compressor.encode(context, updates, link.sender)
        return state, heard, num_bits(payload)

    state, heard, bits = run(gradient(0))
    assert heard["w"].dtype == jnp.float32
    assert message_bits(state.bits) == message_bits(bits) > 0


def test_lengths_beyond_32_bits_are_exact():
    for fixed in (0, 2**32 - 1, 2**32, 10 * 2**32 + 5):
        made = _all_variable(Bits(fixed, (jnp.uint32(7),)), 13)
        assert len(made.variable) == 13
        assert message_bits(made) == fixed + 7
    state = jax.eval_shape(
        as_optax(identity(), KEY).init, jax.ShapeDtypeStruct((2**28,), jnp.bfloat16)
    )
    assert len(state.bits.variable) * (2**32 - 1) >= 8 * 16 * 2**28
    with pytest.raises(ValueError, match="at most 4294967295 bits"):
        _all_variable(Bits(2**32), 1)


def test_a_factory_in_place_of_its_compressor_is_refused():
    with pytest.raises(ValueError, match=r"write it as a call: top_k\("):
        as_optax(top_k, KEY)
