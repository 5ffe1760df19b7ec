"""Named sparsifying pipelines against what their papers say of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.fft

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    demo,
    dgc,
    random_mask,
    sketched_update,
    sparse_loco,
    stc,
    top_k,
)
from fedjax_comp.wire.accounting import message_bits, num_bits

CONTEXT = make_context(jax.random.key(0), 0)


@pytest.mark.slow
def test_stc_is_ternary_at_the_published_price():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(40_000), jnp.float32)
    compressor = stc(1 / 400)
    payload, _ = compressor.encode(CONTEXT, x, compressor.init(x).sender)
    decoded, _ = compressor.decode(CONTEXT, payload, compressor.init(x).receiver)
    kept = np.sort(np.abs(np.asarray(x, np.float64)))[-100:]
    np.testing.assert_allclose(
        np.unique(decoded), [-kept.mean(), 0, kept.mean()], rtol=1e-5
    )
    assert int(jnp.sum(decoded != 0)) == 100
    # Sattler et al. code gaps by Golomb: b* bits and a unary part for each position,
    # and a bit for its sign; one float and what names the code come on top.
    p = 1 / 400
    b = 1 + math.floor(math.log2(math.log((math.sqrt(5) - 1) / 2) / math.log(1 - p)))
    position_bits = b + 1 / (1 - (1 - p) ** (2**b))
    bits = message_bits(num_bits(payload))
    assert bits <= 1.02 * 100 * (position_bits + 1) + 32


def test_dgc_without_masking_lag_is_momentum_sgd_and_warms_up():
    x = jnp.asarray([4.0, -3.0])
    whole = dgc(1.0, momentum=0.5)
    sender = whole.init(x).sender
    for _ in range(3):  # everything is sent, so nothing is left to gain momentum
        payload, sender = whole.encode(CONTEXT, x, sender)
        np.testing.assert_array_equal(
            whole.decode(CONTEXT, payload, whole.init(x).receiver)[0], x
        )
    warm = dgc(0.5, warm_up=(1.0,), messages=1)
    sender, counts = warm.init(x).sender, []
    for _ in range(2):
        payload, sender = warm.encode(CONTEXT, x, sender)
        counts.append(int(payload.parts[0].indices.count))
    assert counts == [2, 1]


def test_dgc_sums_the_momentum_of_what_waits():
    # Lin et al., equation 4: u = m u + x, v = v + u, for a coordinate never sent.
    uplink, x = dgc(0.5, momentum=0.5), jnp.asarray([100.0, 1.0])
    sender = uplink.init(x).sender
    for _ in range(3):
        _, sender = uplink.encode(CONTEXT, x, sender)
    assert float(sender.memory[0][1]) == 1 + 1.5 + 1.75


@pytest.mark.thorough
def test_demo_keeps_what_is_weak_and_lets_it_decay():
    chunk, decay = 8, 0.5
    uplink = demo(1, chunk=chunk, decay=decay)
    x = jnp.asarray(np.random.default_rng(1).standard_normal(chunk), jnp.float32)
    state = uplink.init(x)
    payload, sender = uplink.encode(CONTEXT, x, state.sender)
    decoded, _ = uplink.decode(CONTEXT, payload, state.receiver)
    np.testing.assert_allclose(sender.memory[0], x - decoded, atol=1e-6)
    _, later = uplink.encode(CONTEXT, jnp.zeros(chunk), sender)
    weaker = float(jnp.linalg.norm(later.memory[0]))
    assert weaker <= decay * float(jnp.linalg.norm(sender.memory[0]))


@pytest.mark.thorough
def test_sparse_loco_is_its_algorithm_in_numpy():
    # Sarfi et al., algorithm 1; what is kept has four values, so four levels are exact.
    k, chunk, decay = 2, 8, 0.75
    uplink = sparse_loco(k, chunk=chunk, decay=decay)
    rng, owed = np.random.default_rng(2), np.zeros(16)
    sender, receiver = uplink.init(jnp.zeros(16))
    for _ in range(4):
        x = np.sign(rng.standard_normal(16)) * 3.0 * (rng.random(16) < 0.3)
        owed = decay * owed + x
        kept = np.argsort(-np.abs(owed.reshape(2, chunk)), axis=1, kind="stable")[:, :k]
        rows = np.arange(2)[:, None]
        values = owed.reshape(2, chunk)[rows, kept]
        low, step = values.min(), max(np.ptp(values) / 3, 1e-30)
        sent = np.zeros((2, chunk))
        sent[rows, kept] = low + step * np.round((values - low) / step)
        owed -= sent.reshape(-1)
        payload, sender = uplink.encode(CONTEXT, jnp.asarray(x, jnp.float32), sender)
        np.testing.assert_allclose(
            uplink.decode(CONTEXT, payload, receiver)[0], sent.reshape(-1), atol=1e-5
        )
        np.testing.assert_allclose(sender.memory[0], owed, atol=1e-5)


@pytest.mark.thorough
def test_demo_and_the_sign_of_the_sum_are_decoupled_momentum_in_numpy():
    # Peng et al., algorithm 1, two workers: `demo` is the link, `sign_sgd` the step.
    chunk, k, decay, rate = 4, 1, 0.5, 0.1
    uplink, outer = demo(k, chunk=chunk, decay=decay), optax.sign_sgd(rate)
    waves = scipy.fft.dct(np.eye(chunk), axis=0, norm="ortho")
    rng = np.random.default_rng(3)
    theirs, momenta = np.zeros(8), np.zeros((2, 8))
    ours, link = jnp.zeros(8), uplink.init(jnp.zeros(8))
    senders = [link.sender] * 2
    for _ in range(4):
        gradients = rng.standard_normal((2, 8))
        total, mean = np.zeros(8), jnp.zeros(8)
        for i, gradient in enumerate(gradients):
            momenta[i] = decay * momenta[i] + gradient
            seen = momenta[i].reshape(-1, chunk) @ waves.T
            strongest = np.abs(seen) == np.abs(seen).max(axis=1, keepdims=True)
            fast = ((seen * strongest) @ waves).reshape(-1)
            momenta[i] -= fast
            total += fast
            payload, senders[i] = uplink.encode(
                CONTEXT, jnp.asarray(gradient, jnp.float32), senders[i]
            )
            mean += uplink.decode(CONTEXT, payload, link.receiver)[0] / 2
        theirs -= rate * np.sign(total)
        updates, _ = outer.update(mean, outer.init(ours))
        ours = ours + updates
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.thorough
def test_random_masks_cost_no_index_and_sketched_updates_one_symbol_each():
    x = jnp.ones(64)
    payload, _ = random_mask(0.25).encode(CONTEXT, x, ())
    assert num_bits(payload).fixed == 16 * 32
    uplink = sketched_update(0.25, levels=2)
    payload, _ = uplink.encode(CONTEXT, x, uplink.init(x).sender)
    assert num_bits(payload).fixed == 16 * 1 + 2 * 32


@pytest.mark.parametrize("make", [stc, dgc, random_mask, sketched_update, top_k])
def test_refusals_name_the_value(make):
    with pytest.raises(ValueError, match=r"Expected fraction=2 in \(0, 1\]"):
        make(2)
