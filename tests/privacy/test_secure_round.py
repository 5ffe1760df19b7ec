"""Which compressors qualify, and that a decoded secure sum is the sum in the clear."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    by_rank,
    chain,
    common_range,
    count_sketch,
    differenced,
    entropy_coded,
    error_feedback,
    identity,
    low_rank,
    natural_compression,
    partition,
    power_sgd,
    qsgd,
    random_k,
    rotate,
    scaled_sign,
    stochastic_quantize,
    terngrad,
    threshold,
    to_dtype,
    top_k,
)
from fedjax_comp.compress.linear import decode_sum, sum_payloads
from fedjax_comp.compress.low_rank.power_sgd import power_step
from fedjax_comp.privacy.integers import (
    bits_for_sum,
    integer_grid,
    round_to_grid,
    to_integers,
)
from fedjax_comp.privacy.qualify import qualify
from fedjax_comp.privacy.secure_round import ROUNDING, secure_round
from fedjax_comp.privacy.secure_sum import Step
from fedjax_comp.privacy.summed_power import summed_power_step

ROUND_KEY = jax.random.key(7)
GRID = integer_grid(2**16 - 1, limit=8.0)


def updates_of(clients=4, seed=0):
    """Vectors; most compressors treat one leaf after another, so one will do."""
    return list(jax.random.normal(jax.random.key(seed), (clients, 24)))


def trees_of(clients=4):
    """Two leaves, for what tells leaves apart."""
    return [{"b": x[:4], "w": x[4:].reshape(4, 5)} for x in updates_of(clients)]


LINEAR = {
    "identity": identity(),
    "count sketch": count_sketch(rows=2, columns=6),
    "with feedback": error_feedback(random_k(0.5, shared=True)),
}
ON_A_RANGE = {
    "correlated": common_range(levels=15, limit=3.0, cohort_size=4),
    "rotated range": chain(rotate(), common_range(levels=31, limit=4.0)),
    "range of rotated blocks": chain(
        rotate(block=4), common_range(levels=31, limit=4.0)
    ),
    "random-k range": chain(
        random_k(0.5, shared=True), common_range(levels=15, limit=3.0)
    ),
    "partitioned: range and floats": partition(
        {"matrix": common_range(levels=7, limit=3.0), "rest": identity()}, by_rank
    ),
}
REFUSED = {
    "chooses its own coordinates": top_k(0.5),
    "own coordinates, so": chain(top_k(0.5), common_range(levels=7, limit=3.0)),
    "each client's own scale": stochastic_quantize(levels=4),
    "own scale, which": qsgd(3),
    "scale, which has no sum": scaled_sign(),
    "own scale": terngrad(),
    "nothing left to code": chain(common_range(levels=7, limit=3.0), entropy_coded()),
    "not linear, or needs a client's own key": random_k(0.5),
    "each client's own key": chain(random_k(0.5), common_range(levels=7, limit=3.0)),
    "finished numbers": to_dtype("bfloat16"),
    "the factor of a sum": power_sgd(1),
    "factor of a sum": low_rank(1),
    "remembers each client": differenced(top_k(0.5)),
    "[Ee]xpected messages that add": natural_compression(),
    "messages that add": threshold(0.5),
}


def in_the_clear(compressor, updates):
    """Every client's payload, integers and decoded update, with a leading axis `C`."""

    def client(i, update):
        context = make_context(ROUND_KEY, i)
        state = compressor.init(update)
        payload, _ = compressor.encode(context, update, state.sender)
        key = jax.random.fold_in(context.client_key, ROUNDING)
        decoded, _ = compressor.decode(context, payload, state.receiver)
        return payload, to_integers(key, payload, GRID), decoded

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates)
    return jax.jit(jax.vmap(client))(jnp.arange(len(updates)), stacked)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*LINEAR, *ON_A_RANGE])
def test_a_secure_round_is_the_plain_sum(name):
    """Integers to the last bit; decoded, the sum of decoded updates up to the grid."""
    compressor = {**LINEAR, **ON_A_RANGE}[name]
    updates = trees_of() if "partitioned" in name else updates_of()
    done = secure_round(
        os.urandom,
        ROUND_KEY,
        compressor,
        updates,
        tag=b"test",
        grid=GRID,
        drops={1: Step.MASK},
        threshold=3,
    )
    assert done.summed == (0, 2, 3)
    payloads, integers, decoded = in_the_clear(compressor, updates)
    clients = np.array(done.summed)
    expected = np.asarray(integers)[clients].astype(np.int64).sum(0)
    np.testing.assert_array_equal(done.integers, expected)

    total = jax.tree.map(lambda leaf: leaf[clients].sum(0), decoded)
    if name in LINEAR:
        weights = jnp.zeros(len(updates)).at[clients].set(1.0)
        summed = decode_sum(
            compressor,
            make_context(ROUND_KEY, 0),
            sum_payloads(payloads, weights),
            compressor.init(updates[0]).receiver,
        )
        for ours, theirs in zip(
            jax.tree.leaves(summed), jax.tree.leaves(total), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    # 3 clients' rounding, at most one step each in every number of the payload, and at
    # most sqrt(payload's numbers) times rescaling (here 4) of that in any coordinate.
    room = 1e-5 if name in ON_A_RANGE else 4 * 3 * GRID.step * np.sqrt(27)
    if name == "partitioned: range and floats":
        room = 3 * GRID.step + 1e-5
    for ours, theirs in zip(
        jax.tree.leaves(done.total), jax.tree.leaves(total), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=room)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_qualify_is_refused_with_the_reason(reason):
    with pytest.raises(ValueError, match=reason):
        qualify(REFUSED[reason], jax.ShapeDtypeStruct((4, 6), jnp.float32))


def test_memories_of_those_who_left_stay():
    compressor = error_feedback(random_k(0.5, shared=True))
    updates = updates_of(3)
    arguments = (os.urandom, ROUND_KEY, compressor, updates)
    done = secure_round(
        *arguments, tag=b"a", grid=GRID, threshold=2, drops={2: Step.MASK}
    )
    fresh = compressor.init(updates[0]).sender
    assert all(not leaf.any() for leaf in fresh.memory)
    assert all(not leaf.any() for leaf in done.senders[2].memory)
    assert any(leaf.any() for leaf in done.senders[0].memory)
    again = secure_round(*arguments, tag=b"b", grid=GRID, senders=done.senders)
    assert any(
        (x != y).any()
        for x, y in zip(again.senders[0].memory, done.senders[0].memory, strict=True)
    )


def test_no_sum_wraps_and_one_bit_less_would():
    for parties, magnitude in itertools.product((2, 3, 10, 100), (1, 7, 8, 2**23 - 1)):
        bits = bits_for_sum(parties, magnitude)
        largest = parties * magnitude
        assert largest < 2 ** (bits - 1)
        assert largest >= 2 ** (bits - 2)


@pytest.mark.parametrize("uplink", [identity(), common_range(levels=3, limit=1.0)])
def test_a_client_with_a_broken_update_stays_silent(uplink):
    updates = [jnp.ones(2), jnp.array([1.0, jnp.nan]), jnp.ones(2)]
    done = secure_round(
        os.urandom, ROUND_KEY, uplink, updates, tag=b"x", grid=GRID, threshold=2
    )
    assert done.summed == (0, 2)
    np.testing.assert_allclose(done.total, [2.0, 2.0], atol=2 * GRID.step)
    assert done.traffic.uplink_bytes[Step.MASK, 1] == 0


def test_extreme_updates_do_not_wrap():
    grid = integer_grid(15, limit=1.0)
    updates = [jnp.full(5, -9.0)] * 3
    done = secure_round(os.urandom, ROUND_KEY, identity(), updates, tag=b"x", grid=grid)
    np.testing.assert_allclose(done.total, np.full(5, -3.0), rtol=1e-6)


def test_rounding_is_unbiased_with_the_variance_that_is_stated():
    """Hoeffding's bound on the mean of 2^18 steps' fractions: off by 6e-3 never."""
    n = 1 << 18
    grid = integer_grid(5, limit=1.0)
    for x in (0.1, 0.25, -0.37):
        q = round_to_grid(jax.random.key(3), jnp.full(n, x), grid)
        assert abs(q.mean() * grid.step - x) < 6e-3 * grid.step
        assert q.var() <= 0.25 + 6e-3


def test_power_iteration_on_a_sum_that_is_never_shown():
    """With a fine grid it is `power_step` on the sum."""
    keys = jax.random.split(jax.random.key(0), 3)
    matrices = [jax.random.normal(key, (5, 4)) for key in keys]
    right = jax.random.normal(jax.random.key(1), (4, 2))
    fine = integer_grid(2**24 - 1, limit=64.0)
    calls = itertools.count()

    def total(arrays):
        tag = b"pass %d" % next(calls)
        return secure_round(
            os.urandom, ROUND_KEY, identity(), arrays, tag=tag, grid=fine
        ).total

    left, new_right = summed_power_step(total, matrices, right)
    want_left, want_right = power_step(sum(matrices), right)
    np.testing.assert_allclose(left @ new_right.T, want_left @ want_right.T, atol=1e-3)


def test_mistakes():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="at least 2 updates"):
        secure_round(os.urandom, ROUND_KEY, identity(), [x], tag=b"x", grid=GRID)
    with pytest.raises(ValueError, match="integer_grid"):
        secure_round(os.urandom, ROUND_KEY, identity(), [x, x], tag=b"x")
    with pytest.raises(ValueError, match="odd"):
        integer_grid(4, limit=1.0)
    with pytest.raises(ValueError, match="limit"):
        integer_grid(5, limit=0.0)
