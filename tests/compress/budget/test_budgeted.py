"""Whatever the budget, the whole message keeps it, and more of it never hurts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    budgeted_eden,
    budgeted_low_rank,
    budgeted_quantize,
    budgeted_random_k,
    budgeted_separable,
    budgeted_top_k,
    budgeted_trellis,
    by_rank,
    chain,
    flattened,
    identity,
    partition,
    top_k,
)
from fedjax_comp.compress.budget.budgeted import _count
from fedjax_comp.compress.budget.shares import shares
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes

RNG = np.random.default_rng(0)
TREE = {
    "w": jnp.asarray(RNG.standard_normal((30, 20)), jnp.float32),
    "b": jnp.asarray(RNG.standard_normal(20), jnp.float32),
    "half": jnp.asarray(RNG.standard_normal(50), jnp.bfloat16),
    "steps": jnp.arange(3, dtype=jnp.int32),
}
STEPS = 3 * 32  # of the integers, which are sent whatever the budget
OPEN = 30 * 20 + 20 + 50


def sender(compressor):
    """`budget -> (bits, payload, decoded)`, and how often it was traced."""
    traces = []
    state = compressor.init(TREE)

    @jax.jit
    def send(budget):
        traces.append(1)
        context = make_context(jax.random.key(0), 0)._replace(budget_bits=budget)
        payload, _ = compressor.encode(context, TREE, state.sender)
        decoded, _ = compressor.decode(context, payload, state.receiver)
        return num_bits(payload), payload, decoded

    return send, traces


def error(decoded):
    names = ("w", "b", "half")
    return sum(
        float(jnp.sum((decoded[n] - TREE[n]).astype(jnp.float32) ** 2)) for n in names
    )


CASES = {
    # Headers are paid before the rest is shared: the least budget is all of them.
    "top_k": (lambda: budgeted_top_k(1.0), 2 * (10 + 5 + 6), True),
    "top_k_flattened": (lambda: flattened(budgeted_top_k(0.5)), 2 * 9, True),
    "random_k": (lambda: budgeted_random_k(1.0), 10 + 5 + 6, False),
    "quantize": (lambda: budgeted_quantize(8), 3 * 68, False),
    "quantize_flattened": (lambda: flattened(budgeted_quantize(16)), 69, False),
    "quantize_behind_top_k": (
        lambda: flattened(chain(top_k(k=40), budgeted_quantize(8))),
        40 * 10 + 68,
        False,
    ),
    "eden": (lambda: budgeted_eden((1 / 16, 1 / 2, 1.5, 4)), 80, False),
    "trellis": (lambda: budgeted_trellis((0.5, 1, 2), states=16), 380, False),
    # A scale, a state, and three shapes and 52 sizes of at most six bits.
    "separable": (lambda: budgeted_separable(0.25), 64 + 1 + 55 * 6, False),
    # Two states of 32 bits, a scale, four shapes and 31 sizes of at most six bits.
    "low_rank": (lambda: budgeted_low_rank(0.25), 96 + 1 + 35 * 6, False),
    "partition": (
        lambda: partition(
            {"matrix": budgeted_top_k(1.0), "rest": budgeted_quantize(8)}, by_rank
        ),
        2 * 10 + 2 * 68,
        False,
    ),
    "partition_with_dense_biases": (
        lambda: partition(
            {"matrix": budgeted_eden((1 / 16, 1 / 2, 4)), "rest": identity()}, by_rank
        ),
        2 + 32 + 38 + 20 * 32 + 50 * 16,
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_message_exceeds_its_budget(name: str):
    make, least, monotone = CASES[name]
    send, traces = sender(make())
    budgets = np.exp(np.random.default_rng(1).uniform(np.log(least), 10.5, 25))
    budgets = [STEPS + b + 1 for b in sorted(budgets)]
    errors = []
    for budget in budgets:
        bits, payload, decoded = send(jnp.float32(budget))
        used = message_bits(bits)
        assert used <= budget
        errors.append(error(decoded))
        np.testing.assert_array_equal(decoded["steps"], TREE["steps"])
    assert len(to_bytes(payload)) == HEADER_BYTES + -(-used // 8)
    assert len(traces) == 1
    if monotone:
        assert errors == sorted(errors, reverse=True)
    # Without a budget all is sent, and a budget of nothing costs the headers.
    assert error(send(jnp.float32(jnp.inf))[2]) <= errors[-1] * (1 + 1e-5)
    assert message_bits(send(jnp.float32(0))[0]) <= STEPS + least
    assert len(traces) == 1


@pytest.mark.thorough
def test_a_budget_is_used():
    """Less is left than one more coordinate, or one more bit of each, would cost."""
    budget = STEPS + 9000.0
    bits = message_bits(sender(flattened(budgeted_top_k(1.0)))[0](budget)[0])
    assert budget - (32 + 10) - 1 < bits <= budget
    bits = message_bits(sender(flattened(budgeted_quantize(16)))[0](budget)[0])
    assert budget - OPEN - 1 < bits <= budget
    bits = message_bits(sender(flattened(budgeted_random_k(1.0)))[0](budget)[0])
    assert budget - 32 - 1 < bits <= budget
    # An eighth of an octave of the step is an eighth of a bit of each.
    bits = message_bits(sender(budgeted_separable(0.01))[0](4000.0)[0])
    assert 4000 - 0.2 * OPEN < bits <= 4000


def test_shares_are_proportional_and_never_more_than_the_whole():
    context = make_context(jax.random.key(0), 0)
    for budget in (0.0, 7.0, 1e4, 2.0**33, np.inf):
        own = shares(
            context._replace(budget_bits=jnp.float32(budget)), [3, 1], [jnp.ones(2)]
        )
        parts = [float(c.budget_bits) for c in own]
        assert sum(parts) <= max(budget - 64, 0.0)
        if 64 < budget < np.inf:
            np.testing.assert_allclose(
                parts, [0.75 * (budget - 64), 0.25 * (budget - 64)], rtol=1e-4
            )


def test_identity_has_no_use_for_a_budget():
    assert (
        message_bits(sender(identity())[0](jnp.float32(0))[0]) == STEPS + 620 * 32 + 800
    )


@pytest.mark.parametrize("make", [budgeted_top_k, budgeted_random_k])
def test_refusals_name_the_value(make):
    with pytest.raises(ValueError, match=r"max_fraction=0 in \(0, 1\]"):
        make(0)
    with pytest.raises(ValueError, match=r"Expected max_bits=17 in \[1, 16\]"):
        budgeted_quantize(17)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("compressor", "least"),
    [
        (budgeted_quantize(), 101 * (64 + 4)),
        (budgeted_top_k(1.0), 2 * 14 + 100 * 2 * 2),
        (budgeted_random_k(1.0), 14 + 100 * 2),
    ],
)
def test_headers_of_many_small_leaves_are_within_the_budget(compressor, least):
    rng = np.random.default_rng(0)
    sizes = [10_000, *[2] * 100]
    tree = [jnp.asarray(rng.standard_normal(n), jnp.float32) for n in sizes]

    @jax.jit
    def length(budget):
        context = make_context(jax.random.key(0), 0)._replace(budget_bits=budget)
        return num_bits(compressor.encode(context, tree, ())[0])

    for budget in (least, least + 1, 10_000, 20_500, 30_800):
        if budget >= least:
            assert message_bits(length(jnp.float32(budget))) <= budget
    assert message_bits(length(jnp.float32(0))) == least


@pytest.mark.parametrize(
    "compressor", [budgeted_quantize(), budgeted_top_k(1.0), budgeted_random_k(1.0)]
)
def test_a_leaf_that_the_budget_leaves_out_still_shows_that_it_is_broken(compressor):
    tree = {"w": jnp.ones((100, 100)), "b": jnp.full(8, jnp.nan)}

    @jax.jit
    def send(budget):
        context = make_context(jax.random.key(0), 0)._replace(budget_bits=budget)
        payload, _ = compressor.encode(context, tree, ())
        return compressor.decode(context, payload, ())[0]

    for budget in (0.0, 20_000.0):
        decoded = send(jnp.float32(budget))
        assert not np.all(np.isfinite(decoded["b"]))
        assert np.all(np.isfinite(decoded["w"]))


def test_counts_are_whole_where_float32_is_not():
    capacity = (1 << 24) + 3
    x = jnp.ones(1)
    for fits, expected in ((np.inf, capacity), (2e7, capacity), (12.9, 12), (-1.0, 0)):
        found = jax.jit(_count, static_argnums=1)(jnp.float32(fits), capacity, x)
        assert int(found) == expected
    assert int(_count(jnp.float32(0), capacity, jnp.array([jnp.nan]))) == 1
