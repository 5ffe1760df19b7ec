"""Zeroth-order steps: against NumPy, the estimate's moments, and their replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import ClientBatches, Examples, Task
from fedjax_comp.client.zeroth_order import (
    coordinates,
    evaluations,
    gaussian,
    replay,
    signs,
    zeroth_order_steps,
)
from tests.concentration import mean_radius

ALARM = 1e-9
"""Of one mean; no test has more than 100 of them."""
DRAWS = {"coordinates": coordinates, "gaussian": gaussian, "signs": signs}
LIKE = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
RNG = np.random.default_rng(3)
ROOT = RNG.normal(size=(10, 10))
CURVES = (ROOT @ ROOT.T / 10).astype(np.float32)
SLOPE = RNG.normal(size=10).astype(np.float32)


def flat(params):
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(params)])


def warped():
    """`mean_i y_i (w - x_i)^2 / 2 + w^4 / 4`, of whatever is not masked."""

    def loss(params, examples, mask, key):
        del key
        w = flat(params)
        square = jnp.sum((w[None] - examples.x) ** 2, axis=1) * examples.y / 2
        count = jnp.maximum(jnp.sum(mask, dtype=w.dtype), 1)
        return jnp.sum(jnp.where(mask, square, 0)) / count + jnp.sum(w**4) / 4

    return Task(None, loss, None)


def quadratic():
    """`w' A w / 2 + v' w`, whatever the examples are."""

    def loss(params, examples, mask, key):
        del examples, mask, key
        w = flat(params)
        return w @ jnp.asarray(CURVES) @ w / 2 + jnp.asarray(SLOPE) @ w

    return Task(None, loss, None)


def slope():
    """`sum_j w_j / sqrt(n)`, whose gradient has the length 1."""

    def loss(params, examples, mask, key):
        del examples, mask, key
        return jnp.sum(params["w"]) / np.float32(params["w"].size ** 0.5)

    return Task(None, loss, None)


def drawn(draw, key, steps, count, like=LIKE):
    """The directions of so many steps, `[S, P, n]`."""

    def one(k, p):
        return flat(draw(jax.random.fold_in(key, k), p, like))

    each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return np.asarray(jax.jit(each)(jnp.arange(steps), jnp.arange(count)))


def batches(steps, size=1, rate=None):
    rows = jnp.arange(steps * size, dtype=jnp.int32).reshape(steps, size)
    mask = jnp.ones((steps, size), bool)
    return ClientBatches(
        jnp.int32(0), rows, mask, jnp.int32(1), jnp.array(True), jax.random.key(4), rate
    )


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_it_is_its_equation_step_by_step(name, central):
    steps, count, mu, eta = 4, 3, 0.05, 0.02
    draw, key = DRAWS[name](), jax.random.key(7)
    x = RNG.normal(size=(2 * steps, 10))
    y = RNG.uniform(0.5, 2, size=2 * steps)
    start = {"a": RNG.normal(size=(2, 3)), "b": RNG.normal(size=4)}
    own = batches(steps, 2, jnp.float32(0.5))
    own = own._replace(mask=own.mask.at[2].set(False).at[1, 0].set(False))
    with jax.enable_x64(True):
        walk = zeroth_order_steps(
            warped(),
            rate=eta,
            draw=draw,
            directions=count,
            smoothing=mu,
            central=central,
        )
        params = jax.tree.map(jnp.asarray, start)
        there = jax.jit(walk)(
            params, key, Examples(jnp.asarray(x), jnp.asarray(y)), own
        )

    def f(w, k):
        use = np.flatnonzero(own.mask[k]) + 2 * k
        square = [y[i] / 2 * ((w - x[i]) ** 2).sum() for i in use]
        return np.mean(square) + (w**4).sum() / 4

    along = drawn(draw, key, steps, count).astype(float)
    scalars, losses = np.zeros((steps, count)), 0.0
    w = np.concatenate([start["a"].reshape(-1), start["b"]])
    for k in (0, 1, 3):
        step, used = np.zeros(10), int(own.mask[k].sum())
        for p in range(count):
            z = along[k, p]
            ahead, here, behind = f(w + mu * z, k), f(w, k), f(w - mu * z, k)
            g = (ahead - behind) / (2 * mu) if central else (ahead - here) / mu
            scalars[k, p] = 0.5 * g
            step += 0.5 * g * z / count
            losses += used * ((ahead + behind) / 2 if central else here) / count
        w = w - eta * step
    np.testing.assert_allclose(there.scalars, scalars, rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([np.ravel(there.params["a"]), there.params["b"]]), w, rtol=1e-7
    )
    np.testing.assert_allclose(there.info.loss_sum, losses, rtol=1e-5)
    assert (int(there.info.steps), float(there.info.examples_used)) == (3, 5.0)
    assert np.abs(scalars[[0, 1, 3]]).min() > 0


def estimates(draw, trials, *, central, mu, task=None, like=LIKE, at=0.3):
    """So many `g z`, each of one direction, float64 `[T, n]`."""
    walk = zeroth_order_steps(
        quadratic() if task is None else task,
        rate=1.0,
        draw=draw,
        directions=1,
        smoothing=mu,
        central=central,
    )
    params = jax.tree.map(lambda x: jnp.full(x.shape, at), like)
    data = Examples(jnp.zeros(1), jnp.zeros(1))

    def one(key):
        return flat(params) - flat(walk(params, key, data, batches(1)).params)

    keys = jax.random.split(jax.random.key(11), trials)
    return np.asarray(jax.jit(jax.vmap(one))(keys), float)


def one_key_for_all_leaves(key, p, params):
    """A fault: numbers of one leaf are those of another."""
    own = jax.random.fold_in(key, p)
    return jax.tree.map(
        lambda x: jax.random.rademacher(own, (x.size,), jnp.float32).reshape(x.shape),
        params,
    )


def test_the_mean_estimate_is_the_gradient_of_the_smoothed_loss():
    # Of a quadratic f_mu is f and a constant. Of signs |g z_j| is at most
    # |grad|_1 + mu |A|_1 / 2.
    mu, trials = 0.2, 40_000
    gradient = CURVES @ np.full(10, 0.3) + SLOPE
    width = 2 * (np.abs(gradient).sum() + mu * np.abs(CURVES).sum() / 2)
    found = estimates(signs(), trials, central=False, mu=mu)
    off = np.abs(found.mean(axis=0) - gradient)
    radius = mean_radius(found, width, alarm=ALARM)
    assert (off < radius).all()
    assert radius.max() < 0.2 < np.abs(gradient).max() / 5
    # The bound sees a difference that was divided by twice mu, and keys used twice.
    assert (np.abs(found.mean(axis=0) / 2 - gradient) > radius).any()
    faulty = estimates(one_key_for_all_leaves, trials, central=False, mu=mu)
    assert (
        np.abs(faulty.mean(axis=0) - gradient) > mean_radius(faulty, width, alarm=ALARM)
    ).any()


def test_the_mean_gaussian_estimate_is_the_gradient():
    # Central differences of a quadratic: g z_j = z' B z with B of rank 2, eigenvalues
    # (v_j +- |v|) / 2 and trace v_j. Laurent and Massart 2000, lemma 1, for both signs
    # of T of them: off by 2 |l|_2 sqrt(t / T) + 2 |l|_inf t / T but for 4 exp(-t).
    trials, t = 40_000, np.log(4 / ALARM)
    v = CURVES @ np.full(10, 0.3) + SLOPE
    norm = np.linalg.norm(v)
    lengths, largest = np.sqrt((v**2 + norm**2) / 2), (np.abs(v) + norm) / 2
    radius = 2 * lengths * np.sqrt(t / trials) + 2 * largest * t / trials
    found = estimates(gaussian(), trials, central=True, mu=0.2)
    off = np.abs(found.mean(axis=0) - v)
    assert (off < radius).all()
    # Directions of a third of the variance, as of uniform numbers, are seen.
    assert (np.abs(found.mean(axis=0) / 3 - v) > radius).any()


@pytest.mark.parametrize(("n", "each"), [(4, 512), (64, 256)])
def test_the_second_moment_grows_with_the_number_of_parameters(n, each):
    # Y = |g z|^2 of a unit slope: E Y = n + 2, and by Isserlis
    # E Y^2 = 105 + 30 (n - 1) + 3 (n - 1) (n + 1). A median of 128 means is off by two
    # standard deviations of one with a chance below 1e-7: Chebyshev's 1/4 for each, and
    # exp(-128 KL(1/2, 1/4)) for half of them (Chernoff).
    groups = 128
    options = {"central": True, "mu": 0.5, "at": 0.0}
    options |= {"task": slope(), "like": {"w": jnp.zeros(n)}}
    found = estimates(gaussian(), groups * each, **options)
    moments = (found**2).sum(axis=1)
    middle = np.median(moments.reshape(groups, each).mean(axis=1))
    spread = np.sqrt(105 + 30 * (n - 1) + 3 * (n - 1) * (n + 1) - (n + 2) ** 2)
    radius = 2 * spread / np.sqrt(each)
    assert abs(middle - (n + 2)) < radius < (n + 2) / 4
    # Signs have n: g^2 <= |v|_1^2 = n.
    found = estimates(signs(), 8_000, **options)
    moments = (found**2).sum(axis=1)
    assert abs(moments.mean() - n) < mean_radius(moments, n * n, alarm=ALARM)


def test_coordinates_of_a_step_meet_every_parameter_once():
    steps = drawn(coordinates(), jax.random.key(1), 8, 10)
    for z in steps:
        np.testing.assert_allclose(z.T @ z, 10 * np.eye(10), rtol=1e-6)
    # They begin at one place or another.
    assert len(np.unique(steps.argmax(axis=2)[:, 0])) > 2


@pytest.mark.parametrize("name", ["gaussian", "signs"])
def test_directions_follow_from_their_keys_and_differ(name):
    draw, shape = DRAWS[name](), {"a": jnp.zeros(64), "b": jnp.zeros(64)}
    found = drawn(draw, jax.random.key(1), 2, 2, shape)
    np.testing.assert_array_equal(drawn(draw, jax.random.key(1), 2, 2, shape), found)
    other = drawn(draw, jax.random.key(2), 2, 2, shape)
    rows = np.concatenate([found, other]).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == 16


def rounds_of(draw, dtype=jnp.float32):
    key, eta = jax.random.key(5), 0.037
    scalars = jnp.asarray(RNG.normal(size=(3, 7)), jnp.float32)
    start = jax.tree.map(
        lambda x: jnp.asarray(RNG.normal(size=x.shape), dtype), {"w": jnp.zeros(301)}
    )
    there = jax.jit(lambda x, s: replay(x, key, s, rate=eta, draw=draw))(start, scalars)
    x = np.asarray(start["w"]).astype(np.float32)
    along = drawn(draw, key, 3, 7, start)
    for k in range(3):
        for p in range(7):
            x = x + np.float32(-eta / 7) * np.asarray(scalars)[k, p] * along[k, p]
    assert x.dtype == np.float32
    assert not bool(there.refused)
    return there.params["w"], x


def test_steps_along_signs_are_replayed_to_the_bit_by_numpy():
    ours, theirs = rounds_of(signs())
    np.testing.assert_array_equal(ours, theirs)


def test_steps_along_gaussians_are_replayed_up_to_roundings():
    ours, theirs = rounds_of(gaussian())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=21 * 4 * 6e-8)


def test_half_precision_is_rounded_once_a_round():
    ours, theirs = rounds_of(signs(), jnp.bfloat16)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, jnp.asarray(theirs).astype(jnp.bfloat16))


@pytest.mark.parametrize("name", DRAWS)
def test_a_replay_is_the_walk(name):
    draw, key, eta = DRAWS[name](), jax.random.key(9), 0.01
    walk = zeroth_order_steps(
        warped(), rate=eta, draw=draw, directions=5, smoothing=0.01
    )
    params = jax.tree.map(lambda x: x + 0.5, LIKE)
    data = Examples(jnp.asarray(RNG.normal(size=(3, 10)), jnp.float32), jnp.ones(3))
    walked = jax.jit(walk)(params, key, data, batches(3))
    again = jax.jit(lambda x, s: replay(x, key, s, rate=eta, draw=draw).params)(
        params, walked.scalars
    )
    for a, b in zip(*map(jax.tree.leaves, (walked.params, again)), strict=True):
        if name == "signs":
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.abs(flat(again) - flat(params)).min() > 1e-4 or name == "coordinates"


def test_a_step_to_what_is_not_finite_is_refused():
    scalars = jnp.full((1, 1), 3e38, jnp.float32)
    params = jnp.full(2, 3e38, jnp.float32)
    key = jax.random.key(0)
    there = replay(params, key, scalars, rate=1.0, draw=gaussian())
    again = replay(params, key, 0 * scalars, rate=1.0, draw=gaussian())
    assert (bool(there.refused), bool(again.refused)) == (True, False)
    np.testing.assert_array_equal(there.params, params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate=0"),
        ({"smoothing": float("nan")}, "smoothing=nan"),
        ({"smoothing": -1.0}, "smoothing=-1.0"),
        ({"directions": 0}, "directions=0 >= 1"),
        ({"directions": 2.5}, "directions=2.5, an integer"),
    ],
)
def test_numbers_out_of_their_range_are_named(options, message):
    sound = {"rate": 1.0, "smoothing": 1.0, "directions": 1, "draw": signs()}
    with pytest.raises(ValueError, match=message):
        zeroth_order_steps(warped(), **{**sound, **options})


def test_what_a_step_evaluates_is_counted():
    calls = []

    def loss(params, examples, mask, key):
        del examples, mask, key
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(params**2)

    for central in (False, True):
        calls.clear()
        walk = zeroth_order_steps(
            Task(None, loss, None),
            rate=0.1,
            draw=signs(),
            directions=3,
            smoothing=0.1,
            central=central,
        )
        data = Examples(jnp.zeros(2), jnp.zeros(2))
        jax.jit(walk)(jnp.ones(2), jax.random.key(0), data, batches(2))
        jax.effects_barrier()
        assert len(calls) == 2 * evaluations(3, central=central)
