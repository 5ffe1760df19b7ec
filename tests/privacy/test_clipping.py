"""Clipping bounds what one client can change; weights and divisors do not undo it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import make_context
from fedjax_comp.compress import error_feedback, identity, qsgd
from fedjax_comp.compress.magnitude import clip_by_l2
from fedjax_comp.privacy.central import equally_weighted, gaussian_noise, mean_over
from fedjax_comp.privacy.clipping import clipped
from fedjax_comp.server.aggregate import share, weighted
from tests.problems import make_cohort, softmax_task, stack_clients

CONTEXT = make_context(jax.random.key(0), 0)
ROOM = 1 + 1e-5


def update_of(size, seed=0):
    key = jax.random.key(seed)
    tree = {
        "b": jax.random.normal(key, (7,)),
        "w": jax.random.normal(jax.random.fold_in(key, 1), (3, 5)),
    }
    return jax.tree.map(lambda x: size * x, tree)


def norm64(tree):
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return float(np.linalg.norm(np.concatenate(leaves)))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1.0, 1e3, 1e25, 1e37])
def test_clipping_against_float64(size):
    tree = update_of(size)
    length = norm64(tree)
    short = clip_by_l2(tree, 2.0)
    scale = min(1.0, 2.0 / max(length, 2.0))
    jax.tree.map(
        lambda ours, x: np.testing.assert_allclose(
            ours, np.asarray(x, np.float64) * scale, rtol=1e-5
        ),
        short,
        tree,
    )
    assert norm64(short) <= 2.0 * ROOM


def test_numbers_whose_norm_is_not_one_are_clipped_in_their_direction():
    tree = update_of(1e38)
    assert norm64(tree) > float(np.finfo(np.float32).max)
    short = clip_by_l2(tree, 2.0)
    jax.tree.map(
        lambda ours, x: np.testing.assert_allclose(
            ours, np.asarray(x, np.float64) * (2.0 / norm64(tree)), rtol=1e-5
        ),
        short,
        tree,
    )


def test_what_is_short_stays_to_the_bit_and_what_is_broken_stays_broken():
    tree = update_of(1e-3)
    jax.tree.map(np.testing.assert_array_equal, clip_by_l2(tree, 1.0), tree)
    for bad in (jnp.inf, jnp.nan):
        assert jnp.isnan(clip_by_l2([jnp.array([1.0, bad])], 1.0)[0]).any()
    assert clip_by_l2({"empty": jnp.zeros(0)}, 1.0)["empty"].shape == (0,)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("size", "norm"), [(100, 1.0), (16_250, 1.0), (1 << 20, 1e-3)])
def test_narrow_numbers_are_no_longer_than_the_clip(dtype, size, norm):
    """The nearest ones would be: bfloat16's to 0.1 is 0.10009765625."""
    clip = jax.jit(clip_by_l2, static_argnums=1)
    for x in (jnp.full(size, 3.0), jax.random.normal(jax.random.key(0), (size,))):
        tree = {"narrow": x.astype(dtype), "b": jnp.array([1.0, -2.0])}
        short = clip(tree, norm)
        assert short["narrow"].dtype == dtype
        assert 0.9 * norm < norm64(short) <= norm * ROOM
        # To the bit what it was where it is short already.
        same = clip(short, 1.01 * norm)
        jax.tree.map(np.testing.assert_array_equal, same, short)
    state = clipped(identity(), norm).encode(CONTEXT, tree, ())[0]
    assert (
        norm64(clipped(identity(), norm).decode(CONTEXT, state, ())[0]) <= norm * ROOM
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "compressor",
    [identity(), error_feedback(qsgd(1))],
)
def test_no_message_decodes_to_more_than_the_clip(compressor):
    """The sensitivity: whatever is sent, a client moves the sum by at most `norm`."""
    uplink = clipped(compressor, 0.5)
    for size in (1e-2, 1e2):
        state = uplink.init(update_of(size))
        sender = state.sender
        for _ in range(2):
            payload, sender = uplink.encode(CONTEXT, update_of(size), sender)
            decoded, _ = uplink.decode(CONTEXT, payload, state.receiver)
            assert norm64(decoded) <= 0.5 * ROOM


def test_a_forged_message_counts_no_more_than_the_clip():
    forged, _ = identity().encode(CONTEXT, update_of(1e6), ())
    assert norm64(clipped(identity(), 0.5).decode(CONTEXT, forged, ())[0]) <= 0.5 * ROOM


def test_clipped_is_not_linear():
    """So that nobody masks messages which cannot be clipped any more."""
    assert not clipped(identity(), 1.0).linear


def test_one_client_moves_the_mean_by_at_most_clip_over_cohort():
    """Any client in place of any other, weights and drop-outs included."""
    clip, cohort_size = 0.5, 3
    uplink = clipped(qsgd(1), clip)
    cohort = equally_weighted(lambda key, index, data: data)(
        None, None, make_cohort([1, 50, 3], 4)
    )

    def mean(updates, counts):
        total = None
        for i, (update, counted) in enumerate(zip(updates, counts, strict=True)):
            context = make_context(jax.random.key(3), i)
            payload, _ = uplink.encode(context, update, ())
            decoded, _ = uplink.decode(context, payload, ())
            weight = share(cohort.clients.num_examples[i])
            part = weighted(decoded, weight, jnp.asarray(counted))
            total = part if total is None else optax.tree.add(total, part)
        return mean_over(cohort_size)(total)

    updates = [update_of(10.0, seed) for seed in range(3)]
    everybody = mean(updates, [True] * 3)
    gone = mean(updates, [True, False, True])
    other = mean([updates[0], update_of(1e5, 9), *updates[2:]], [True] * 3)
    assert norm64(optax.tree.sub(everybody, gone)) <= clip / cohort_size * ROOM
    assert norm64(optax.tree.sub(everybody, other)) <= 2 * clip / cohort_size * ROOM


@pytest.mark.parametrize("broken", [False, True])
def test_noise_does_not_tell_whether_anyone_answered(broken):
    """Else the model would stay as it was where the only one to answer was replaced."""
    noise = gaussian_noise(jax.random.key(1), stddev=0.5)
    algorithm = fed_avg(
        softmax_task(),
        client_optimizer=optax.sgd(float("inf") if broken else 0.1),
        server_optimizer=optax.chain(noise, optax.sgd(1.0)),
        aggregation=mean_over(2),
    )
    params = softmax_task().init(jax.random.key(0))
    server, client = algorithm.init(jax.random.key(2), params)
    cohort = make_cohort([3, 3], 4)
    active = jnp.full(2, broken)
    cohort = cohort._replace(clients=cohort.clients._replace(active=active))
    links = stack_clients(client, 2)
    keys = [jax.random.key(round) for round in (3, 4)]
    models, step = [params], jax.jit(algorithm.round)
    for key in keys:
        server, links, info = step(key, server, links, cohort)
        models.append(algorithm.params(server))
        assert int(info.dropped) == 2 * broken
    moves = [optax.tree.sub(b, a) for a, b in itertools.pairwise(models)]
    size = sum(x.size for x in jax.tree.leaves(params))
    for move in moves:  # nothing but noise, other noise in each round
        assert 0.5 < norm64(move) / (0.5 * np.sqrt(size)) < 1.5
    assert norm64(optax.tree.sub(*moves)) > 0.5 * np.sqrt(size) / 2


STDDEV = 0.25
DRAWS = 1 << 20


def two_draws(stddev):
    """What two steps add to two leaves, in units of `STDDEV`: four arrays `[DRAWS]`."""
    noise = gaussian_noise(jax.random.key(1), stddev=stddev)
    params = {
        "a": jnp.ones(DRAWS),
        "b": jnp.zeros((DRAWS // 64, 64), jnp.bfloat16),
    }
    state, drawn = noise.init(params), []
    for _ in range(2):
        noisy, state = noise.update(params, state)
        assert noisy["b"].dtype == jnp.bfloat16
        drawn.append((np.asarray(noisy["a"], np.float64) - 1) / STDDEV)
        drawn.append(np.asarray(noisy["b"], np.float64).ravel() / STDDEV)
    return drawn


def has_variance_one(z):
    """Of n normals it is within 6 sqrt(2 / n), 0.8 %, with a chance of 2e-9 not to be.

    Rounding to bfloat16 changes each square by at most `2**-8` of it.
    """
    return abs(np.mean(z**2) - 1) < 6 * np.sqrt(2 / z.size) + 2**-8


def test_noise_has_its_deviation_is_fresh_and_is_independent():
    drawn = two_draws(STDDEV)
    for z in drawn:
        assert abs(z.mean()) < 6 / np.sqrt(z.size)
        assert has_variance_one(z)
    for i, one in enumerate(drawn):
        for two in drawn[:i]:
            assert abs(np.mean(one * two)) < 6 / np.sqrt(one.size)


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_noise_that_is_off_by_one_percent_is_caught(factor):
    assert not any(has_variance_one(z) for z in two_draws(factor * STDDEV))


def test_mistakes():
    for norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="norm"):
            clipped(identity(), norm)
    with pytest.raises(ValueError, match="stddev"):
        gaussian_noise(jax.random.key(0), stddev=-1.0)
    with pytest.raises(ValueError, match="cohort_size"):
        mean_over(0)


def test_clipping_is_in_float32_where_a_program_has_float64_on():
    with jax.enable_x64(True):
        tree = {
            "a": jnp.array([30.0, 40.0], jnp.float32),
            "b": jnp.ones(3, jnp.float64),
        }
        short = clip_by_l2(tree, 5.0)
        np.testing.assert_allclose(norm64(short), 5.0, rtol=1e-6)
        assert (short["a"].dtype, short["b"].dtype) == (jnp.float32, jnp.float64)


def test_statistics_would_be_published_without_noise():
    noise = gaussian_noise(jax.random.key(0), stddev=1.0)
    with pytest.raises(ValueError, match="without running statistics for gaussian_no"):
        noise.init({"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.ones(2)}})
