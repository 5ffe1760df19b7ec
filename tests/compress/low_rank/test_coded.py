"""Singular vectors in whole steps: against NumPy, and on updates of few directions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    chain,
    coded_low_rank,
    entropy_coded,
    error_feedback,
    separable,
)
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

CONTEXT = make_context(jax.random.key(0), 0)
RNG = np.random.default_rng(0)


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def product(m, n, rank, decay=1.0):
    """A sum of outer products, each as large as the one before times `decay`."""
    sizes = decay ** np.arange(rank)
    return (RNG.standard_normal((m, rank)) * sizes) @ RNG.standard_normal((rank, n))


def sent(compressor, tree):
    """Bits of the body, and what is decoded from the bytes, float64."""

    @jax.jit
    def encode(tree):
        payload, _ = compressor.encode(CONTEXT, tree, ())
        return payload, num_bits(payload)

    payload, bits = encode(tree)
    data, bits = to_bytes(payload), message_bits(bits)
    assert len(data) == HEADER_BYTES + -(-bits // 8)
    received = from_bytes(data, payload)
    decoded = jax.jit(lambda p: compressor.decode(CONTEXT, p, ())[0])(received)
    return bits, jax.tree.map(lambda x: np.asarray(x, np.float64), decoded)


def error(decoded, tree):
    pairs = list(zip(jax.tree.leaves(decoded), jax.tree.leaves(tree), strict=True))
    lost = sum(np.sum((a - np.asarray(b, np.float64)) ** 2) for a, b in pairs)
    return lost / sum(np.sum(np.asarray(b, np.float64) ** 2) for _, b in pairs)


def reference(tree, step):
    """What is decoded when every level is the nearest, in float64."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    rms = math.sqrt(sum(np.sum(x**2) for x in leaves) / sum(x.size for x in leaves))
    units = []
    for x in leaves:
        t = x / (step * rms)
        if t.ndim < 2 or min(t.reshape(-1, t.shape[-1]).shape) < 4:
            units.append(np.round(t))
            continue
        t = t.reshape(-1, t.shape[-1])
        u, s, vt = np.linalg.svd(t, full_matrices=False)
        decoded = np.zeros_like(t)
        for k in np.flatnonzero(s >= 0.35 * sum(map(math.sqrt, t.shape))):
            a, b = np.round(s[k] * u[:, k]), np.round(s[k] * vt[k])
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            if norms:
                decoded += np.outer(a, b) / math.sqrt(norms)
        units.append(decoded.reshape(x.shape))
    along = sum(np.sum(x * y) for x, y in zip(leaves, units, strict=True))
    scale = along / sum(np.sum(y**2) for y in units)
    return [scale * y for y in units]


@pytest.mark.parametrize("step", [3.0, 0.8])
def test_what_is_decoded_is_the_formula(step):
    tree = {
        "bias": RNG.standard_normal(30),
        "conv": product(3 * 3 * 6, 30, 3, 0.5).reshape(3, 3, 6, 30),
        "narrow": RNG.standard_normal((3, 50)),
        "wide": product(20, 70, 2, 0.6),
    }
    compressor = coded_low_rank(step, rate_weight=0.0, max_rank=8)
    _, decoded = sent(compressor, to_jax(tree))
    for got, expected in zip(
        jax.tree.leaves(decoded), reference(tree, step), strict=True
    ):
        assert got.shape == expected.shape
        # A number halfway between two levels may round to the other in float32.
        off = np.sum((got - expected) ** 2) / max(np.sum(expected**2), 1e-9)
        assert off < 1e-3


@pytest.mark.thorough
def test_a_few_directions_cost_their_factors_and_not_the_matrix():
    m, n, rank = 400, 300, 3
    tree = to_jax({"w": product(m, n, rank)})
    bits, decoded = sent(coded_low_rank(0.5), tree)
    lost = error(decoded, tree)
    assert lost < 0.01
    # Gaussian factors, each of which makes half of the error.
    ideal = rank * (m + n) * 0.5 * math.log2(2 / lost)
    assert bits < 1.25 * ideal
    dense, alike = sent(separable(0.4), tree)
    assert error(alike, tree) > error(decoded, tree)
    assert dense > 10 * bits


def test_what_rounding_alone_would_make_does_not_travel():
    noise = to_jax({"w": RNG.standard_normal((90, 90)), "b": np.zeros(9)})
    # The largest singular value is near 2 sqrt(90), in units of the rms.
    values = np.linalg.svd(noise["w"], compute_uv=False)
    for step in (0.5, 1.0):
        _, decoded = sent(coded_low_rank(step, max_rank=90), noise)
        gate = 0.35 * step * 2 * math.sqrt(90)
        expected = np.sum(values >= gate)
        assert 0 < expected < 90
        assert np.linalg.matrix_rank(decoded["w"], tol=1e-2) <= expected


@pytest.mark.thorough
def test_something_travels_whatever_the_step():
    for tree in (
        {"w": RNG.standard_normal((60, 60)), "b": np.zeros(9)},
        {"w": 1e-3 * RNG.standard_normal((100, 4)), "b": np.full(9, 1.0)},
        {"b": np.full(9, -3.0)},
    ):
        _, decoded = sent(coded_low_rank(100.0), to_jax(tree))
        assert error(decoded, tree) < 0.995
    _, decoded = sent(coded_low_rank(100.0), to_jax({"w": np.zeros((9, 9))}))
    assert not np.any(decoded["w"])


def test_behind_the_most_directions_nothing_travels():
    tree = to_jax({"w": product(60, 50, 10)})
    _, all_of_it = sent(coded_low_rank(0.1), tree)
    _, half = sent(coded_low_rank(0.1, max_rank=5), tree)
    assert error(all_of_it, tree) < 1e-3
    assert np.linalg.matrix_rank(half["w"], tol=1e-3) == 5


@pytest.mark.parametrize("step", [0.05, 5.0])
def test_no_more_is_lost_than_was_there(step):
    tree = to_jax(
        {
            "b": RNG.standard_cauchy(20),
            "m": RNG.standard_normal((30, 20)),
            "o": product(9, 40, 1),
            "s": np.array(3.0),
        }
    )
    _, decoded = sent(coded_low_rank(step), tree)
    assert error(decoded, tree) <= 1 + 1e-6


@pytest.mark.thorough
def test_levels_are_worth_their_bits():
    tree = to_jax({"w": product(150, 100, 40, 0.9), "b": RNG.laplace(size=200)})
    squares = sum(float(jnp.sum(x * x)) for x in tree.values())
    rms = math.sqrt(squares / (150 * 100 + 200))
    step = 2.0

    def cost(weight):
        bits, decoded = sent(coded_low_rank(step, rate_weight=weight), tree)
        return error(decoded, tree) * squares / (step * rms) ** 2 + 0.15 * bits

    assert cost(0.15) < min(cost(0.0), cost(0.6))


def test_a_broken_leaf_breaks_all_of_the_update():
    tree = to_jax({"w": product(20, 20, 2), "b": np.full(5, np.nan)})
    _, decoded = sent(coded_low_rank(), tree)
    assert not any(np.any(np.isfinite(x)) for x in jax.tree.leaves(decoded))


def test_what_is_lost_is_sent_later_under_error_feedback():
    tree = to_jax({"w": product(40, 30, 8, 0.8)})
    compressor = error_feedback(coded_low_rank(4.0, max_rank=2))
    state = compressor.init(tree)

    @jax.jit
    def send(sender):
        payload, sender = compressor.encode(CONTEXT, tree, sender)
        decoded, _ = compressor.decode(CONTEXT, payload, state.receiver)
        return decoded["w"], sender

    sender, total = state.sender, np.zeros((40, 30))
    for _ in range(60):
        decoded, sender = send(sender)
        total += np.asarray(decoded, np.float64)
    assert error({"w": total / 60}, tree) < 0.01


def test_mistakes_are_told():
    for wrong in ({"step": 0.001}, {"max_rank": 0}, {"rate_weight": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            coded_low_rank(**wrong)
    with pytest.raises(ValueError, match="finds no symbols"):
        chain(coded_low_rank(), entropy_coded()).init(jnp.zeros(9))
