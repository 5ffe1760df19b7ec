"""What past messages foretell: the memory against NumPy, and what it saves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import coded_low_rank
from fedjax_comp.compress.low_rank.history import KEPT, basis_of, with_message
from fedjax_comp.keys import make_key
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import from_bytes, to_bytes

CONTEXT = make_context(make_key(0), 0)


@functools.cache
def programs(step, max_rank, history):
    """The compressor, and its two ends, compiled once for all tests."""
    compressor = coded_low_rank(step, max_rank=max_rank, history=history)

    @jax.jit
    def encode(tree, sender):
        payload, sender = compressor.encode(CONTEXT, tree, sender)
        return payload, sender, num_bits(payload)

    decode = jax.jit(lambda payload, state: compressor.decode(CONTEXT, payload, state))
    return compressor, encode, decode


def link(trees, step=1.0, *, max_rank=8, history=8):
    """Sends trees one after another: bits, decoded and both memories of each."""
    compressor, encode, decode = programs(step, max_rank, history)
    state = compressor.init(trees[0])
    sender, receiver = state.sender, state.receiver
    found = []
    for tree in trees:
        payload, sender, bits = encode(tree, sender)
        received = from_bytes(to_bytes(payload), payload)
        decoded, receiver = decode(received, receiver)
        found.append((message_bits(bits), decoded, sender, receiver))
    return found


def error(decoded, tree):
    lost = sum(float(jnp.sum((decoded[k] - tree[k]) ** 2)) for k in tree)
    return lost / sum(float(jnp.sum(x**2)) for x in tree.values())


def spanned(rounds, m=300, n=200, rank=4, seed=0):
    """Updates of one pair of subspaces, other mixtures of them in each."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((m, rank)), rng.standard_normal((rank, n))
    return [
        {"w": jnp.asarray(left @ rng.standard_normal((rank, rank)) @ right, "float32")}
        for _ in range(rounds)
    ]


@pytest.mark.thorough
def test_what_was_sent_before_is_nearly_free():
    trees = spanned(5)
    plain, known = (link(trees, history=history) for history in (0, 8))
    # Nothing is known of the first, which pays for a few sizes more.
    assert plain[0][0] < known[0][0] < 1.1 * plain[0][0]
    for (bits, decoded, *_), (fewer, also, *_), tree in zip(
        plain[1:], known[1:], trees[1:], strict=True
    ):
        # What the first left, some hundredths of it, is in no memory yet.
        assert fewer < 0.5 * bits
        # What is left of a factor is below a step, and its error all of it.
        assert error(also, tree) < 1.5 * error(decoded, tree)
    assert known[-1][0] < 0.3 * plain[-1][0]


def test_what_has_nothing_in_common_costs_no_more_than_its_sizes():
    trees = [spanned(1, seed=seed)[0] for seed in range(4)]
    plain, known = link(trees[-1:])[0], link(trees)[-1]
    assert known[0] < 1.05 * plain[0]
    assert error(known[1], trees[-1]) < 1.1 * error(plain[1], trees[-1])


@pytest.mark.thorough
def test_both_ends_remember_the_same():
    trees = [
        {"w": x["w"], "conv": x["w"].reshape(5, 5, 12, 200), "b": x["w"][0]}
        for x in spanned(3)
    ]
    for *_, sender, receiver in link(trees, 2.0, max_rank=4, history=6):
        assert len(sender) == 2  # nothing of the vector
        for mine, theirs in zip(
            jax.tree.leaves(sender), jax.tree.leaves(receiver), strict=True
        ):
            assert mine.shape[0] == 6
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(mine).max())


def test_a_sign_of_an_eigenvector_is_no_matter_of_rounding():
    rng = np.random.default_rng(3)
    for _ in range(20):
        weighted = jnp.asarray(rng.standard_normal((6, 50)), jnp.float32)
        factor = jnp.asarray(rng.standard_normal((4, 50)), jnp.float32)
        off = factor * (1 + 1e-6 * jnp.asarray(rng.standard_normal((4, 50)), "float32"))
        one, other = with_message(weighted, factor), with_message(weighted, off)
        np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(one).max())


def test_a_message_of_nothing_changes_no_memory():
    (tree,) = spanned(1)
    zeros = {"w": jnp.zeros_like(tree["w"])}
    first, second = link([tree, zeros])
    for before, after in zip(
        jax.tree.leaves(first[2]), jax.tree.leaves(second[2]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert not np.any(second[1]["w"])


def test_the_memory_is_a_running_principal_component_analysis():
    rng = np.random.default_rng(1)
    weighted, expected = np.zeros((5, 40)), np.zeros((40, 40))
    for _ in range(4):
        factor = rng.standard_normal((2, 40)) * [[3.0], [1.0]]
        weighted = np.asarray(with_message(jnp.asarray(weighted), jnp.asarray(factor)))
        expected = KEPT * expected + factor.T @ factor / np.sum(factor**2)
        values, vectors = np.linalg.eigh(expected)
        # Only the five leading directions are kept of it.
        top = vectors[:, :-6:-1] * np.sqrt(np.maximum(values[:-6:-1], 0))
        expected = top @ top.T
        np.testing.assert_allclose(weighted.T @ weighted, expected, atol=1e-5)
    basis = np.asarray(basis_of(jnp.asarray(weighted)), np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-4)


def test_directions_of_no_weight_are_no_basis():
    weighted = jnp.array([[3.0, 0.0], [0.0, 1e-4]])
    assert basis_of(weighted).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_no_more_is_lost_than_was_there():
    rng = np.random.default_rng(0)
    trees = [
        {"w": jnp.asarray(scale * rng.standard_normal((300, 200)), "float32")}
        for scale in (1.0, 1e-3, 1e6, 1.0, 1.0)
    ]
    for step in (1.0, 4.0):
        for (_, decoded, *_), tree in zip(link(trees, step), trees, strict=True):
            assert error(decoded, tree) <= 1 + 1e-6


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="history"):
        coded_low_rank(history=-1)
