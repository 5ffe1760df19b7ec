"""Means over devices: equal to `pmean`, equal everywhere, unbiased, remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.collectives import (
    collective_mean,
    compressed_mean,
    power_sgd_mean,
    sharded_mean,
    summed_mean,
)
from fedjax_comp.compress import (
    chain,
    count_sketch,
    differenced,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    per_client,
    power_sgd,
    qsgd,
    random_k,
    random_projection,
    rotate,
    scaled_sign,
    stochastic_quantize,
    to_dtype,
    top_k,
)
from fedjax_comp.keys import make_key
from tests.collectives.over_devices import (
    AXIS,
    gradients,
    mapped,
    on_devices,
    one_mean,
)

QUANTIZER = chain(rotate(), stochastic_quantize(levels=16))
COLLECTIVES = {
    "identity, sharded": sharded_mean(identity(), axis_name=AXIS),
    "identity, summed": collective_mean(identity(), axis_name=AXIS),
    "rotated quantizer": collective_mean(QUANTIZER, axis_name=AXIS),
    "signs, then bytes": sharded_mean(
        error_feedback(scaled_sign()), back=to_dtype("bfloat16"), axis_name=AXIS
    ),
    "top_k": collective_mean(error_feedback(top_k(0.2)), axis_name=AXIS),
    "own rotation": collective_mean(
        chain(per_client(rotate()), to_dtype("bfloat16")), axis_name=AXIS
    ),
    "random_k": collective_mean(
        error_feedback(random_k(0.5, shared=True)), axis_name=AXIS
    ),
    "sketch": summed_mean(flattened(count_sketch(rows=2, columns=20)), axis_name=AXIS),
    "power_sgd": power_sgd_mean(1, axis_name=AXIS),
}


def assert_means(found, expected, **tolerance):
    for got, exact in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(got, np.float64),
            np.broadcast_to(np.asarray(exact, np.float64), got.shape),
            **tolerance,
        )


def mean_of(trees):
    return jax.tree.map(lambda x: np.mean(np.asarray(x, np.float64), axis=0), trees)


@pytest.mark.parametrize("name", ["identity, sharded", "identity, summed"])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_identity_is_pmean(name, width):
    trees = gradients(width)
    found, _, exchanged = one_mean(COLLECTIVES[name], trees)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), found)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), trees)
    exact = mean_of(trees)
    assert_means(found["matrix"], exact["matrix"], rtol=1e-5, atol=1e-6)
    assert_means(found["scalar"], exact["scalar"], rtol=1e-5, atol=1e-6)
    assert_means(found["half"], exact["half"], rtol=2**-8)
    assert np.all(exchanged.finite)


@pytest.mark.thorough
@pytest.mark.parametrize("name", COLLECTIVES)
def test_every_device_has_the_same_bits_and_what_mapped_ones_have(name):
    trees = gradients(2)
    collective = COLLECTIVES[name]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), trees)
    state = start = collective.init(like, 2)
    step = on_devices(collective)
    for seed in range(2):
        found, state, _ = step(make_key(seed), trees, state)
        for leaf in jax.tree.leaves(found):
            one, other = np.asarray(leaf)
            assert one.tobytes() == other.tobytes()
    again = mapped(collective, 2)
    for seed in range(2):
        expected, start, _ = again(make_key(seed), trees, start)
    exact = jax.tree.map(lambda x: np.asarray(x[0], np.float64), expected)
    assert_means(found, exact, rtol=2**-7, atol=1e-5)


def test_messages_are_decoded_with_the_keys_of_their_senders():
    # Under another device's rotation a shard would be noise.
    trees = gradients(3)
    found, *_ = one_mean(COLLECTIVES["own rotation"], trees)
    assert_means(found, mean_of(trees), atol=0.03)


def test_noise_is_the_devices_own_and_the_rotation_is_shared():
    # Equal trees: with common noise the mean would be one quantized tree again.
    x = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 64), (4, 64))
    coarse = stochastic_quantize(levels=2)
    collective = sharded_mean(coarse, back=identity(), axis_name=AXIS)
    found = np.unique(np.asarray(one_mean(collective, x)[0][0]).round(5))
    # Between the ends of a shard there are three more averages of four draws.
    assert found.size > 2 * 4
    rounds = [one_mean(collective, x, seed=seed)[0][0] for seed in range(2)]
    assert np.any(rounds[0] != rounds[1])


def test_the_mean_is_unbiased():
    width, n, draws, levels = 3, 10, 4000, 3
    x = jax.random.normal(jax.random.key(1), (width, n))
    collective = collective_mean(stochastic_quantize(levels=levels), axis_name=AXIS)
    step = mapped(collective, width)
    state = collective.init(x[0], width)

    @jax.jit
    def average(keys):
        return jnp.mean(
            jax.lax.map(lambda key: step(key, x, state)[0][0], keys, batch_size=500),
            axis=0,
        )

    found = average(jax.random.split(make_key(5), draws))
    # Azuma and Hoeffding: in each draw one error of each device, of range `d / w` for
    # a step `d` of its shard's levels, and one of the owner's. No step is larger than
    # one of the whole range, and means are not further apart than what they are of.
    step_size = float(jnp.max(x) - jnp.min(x)) / (levels - 1)
    squares = draws * (width * (step_size / width) ** 2 + step_size**2)
    radius = np.sqrt(np.log(2 * n / 1e-7) * squares / 2) / draws
    exact = np.mean(np.asarray(x, np.float64), axis=0)
    assert np.max(np.abs(found - exact)) < radius + 1e-5
    # It is no vacuous bound: shrinking by a tenth would be seen.
    assert np.max(np.abs(0.9 * exact - exact)) > radius


def distance(collective, width, steps):
    """From the minimum of `1/2w sum_d ||x - b_d||^2`, after steps of size `1 / t`."""
    targets = 3 * jax.random.normal(jax.random.key(2), (width, 12)) + 1
    step = mapped(collective, width)

    @jax.jit
    def train(state):
        def one(carry, t):
            x, state = carry
            key = jax.random.fold_in(make_key(0), t)
            mean, state, _ = step(key, x[None] - targets, state)
            return (x - mean[0] / (t + 5.0), state), None

        start = (jnp.zeros(12), state)
        return jax.lax.scan(one, start, jnp.arange(steps, dtype=jnp.float32))[0][0]

    x = train(collective.init(targets[0], width))
    return float(jnp.linalg.norm(x - jnp.mean(targets, axis=0)))


@pytest.mark.parametrize(
    "compressor", [scaled_sign(), pytest.param(top_k(0.25), marks=pytest.mark.slow)]
)
def test_feedback_converges_where_there_is_none_without_it(compressor):
    without = distance(collective_mean(compressor, axis_name=AXIS), 3, 1000)
    with_it = distance(
        collective_mean(error_feedback(compressor), axis_name=AXIS), 3, 1000
    )
    assert with_it < 0.05
    assert without > 10 * with_it


LINEAR = {
    "sketch": count_sketch(rows=3, columns=8),
    "random_k": random_k(0.4, shared=True),
    "projection": random_projection(3),
    "rotate": flattened(rotate()),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_mean_is_the_compressed_mean(name):
    trees = {"w": gradients(4)["matrix"]}
    compressor = LINEAR[name]
    found, *_ = one_mean(summed_mean(compressor, axis_name=AXIS), trees)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), trees)
    context = make_context(make_key(0), 3)
    expected = compressor.decode(context, compressor.encode(context, mean, ())[0], ())
    assert_means(found, expected[0], rtol=1e-4, atol=1e-5)


def test_power_sgd_is_power_sgd_of_the_mean():
    width, rank = 3, 2
    trees = {"w": gradients(width)["matrix"], "b": gradients(width)["half"]}
    collective = power_sgd_mean(rank, axis_name=AXIS, feedback=False)
    state = collective.init(jax.tree.map(lambda x: x[0], trees), width)
    compressor = power_sgd(rank)
    mean = jax.tree.map(lambda x: jnp.mean(x.astype(jnp.float32), axis=0), trees)
    sender = compressor.init(mean).sender
    step = mapped(collective, width)
    for _ in range(3):
        found, state, _ = step(make_key(0), trees, state)
        payload, sender = compressor.encode(make_context(make_key(0), 0), mean, sender)
    expected = compressor.decode(make_context(make_key(0), 0), payload, ())[0]
    assert_means(found["w"], expected["w"], rtol=1e-3, atol=1e-4)
    assert_means(found["b"], expected["b"], rtol=2**-7, atol=1e-6)
    # No directions of its own: equal factors on all devices.
    (right,) = state.right
    assert np.all(right == right[:1])


def test_power_sgd_loses_nothing_for_good():
    width = 2
    x = jnp.stack([jnp.eye(6), 3 * jnp.eye(6)[::-1]])
    collective = power_sgd_mean(1, axis_name=AXIS)
    state, step, total = collective.init(x[0], width), mapped(collective, width), 0.0
    for _ in range(5):
        mean, state, _ = step(make_key(0), x, state)
        total = total + np.asarray(mean[0], np.float64)
    owed = np.mean(np.asarray(state.memory[0], np.float64), axis=0)
    exact = 5 * np.mean(np.asarray(x, np.float64), axis=0)
    np.testing.assert_allclose(total + owed, exact, atol=1e-4)


FEW = ("identity, sharded", "identity, summed", "top_k", "power_sgd")


@pytest.mark.parametrize(
    "value", [jnp.nan, pytest.param(jnp.inf, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough] * (name not in FEW))
        for name in COLLECTIVES
    ],
)
def test_what_is_not_finite_is_seen_and_not_remembered(name, value):
    collective, width = COLLECTIVES[name], 3
    trees = gradients(width)
    step = mapped(collective, width)
    state = collective.init(jax.tree.map(lambda x: x[0], trees), width)
    _, state, exchanged = step(make_key(0), trees, state)
    assert np.all(exchanged.finite)
    for place in ((0, 0), (4, 3), (8, 6)):
        broken = {**trees, "matrix": trees["matrix"].at[(1, *place)].set(value)}
        found, after, exchanged = step(make_key(1), broken, state)
        for device in range(width):
            leaves = [np.asarray(x[device], np.float32) for x in jax.tree.leaves(found)]
            assert not all(np.all(np.isfinite(leaf)) for leaf in leaves)
        assert not np.any(exchanged.finite)
        for old, new in zip(
            jax.tree.leaves(state), jax.tree.leaves(after), strict=True
        ):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "collective",
    [
        sharded_mean(error_feedback(top_k(0.5)), axis_name=AXIS),
        summed_mean(random_k(0.5, shared=True), axis_name=AXIS),  # twice as large
    ],
)
def test_a_mean_beyond_its_dtype_is_not_finite(collective):
    width = 2
    row = jnp.array([60000.0, 50000.0, 60000.0, 50000.0], jnp.float16)
    trees, step = {"w": jnp.tile(row, (width, 1))}, mapped(collective, width)
    state = collective.init({"w": row}, width)
    for key in jax.random.split(make_key(0), 3):
        found, after, exchanged = step(key, trees, state)
        is_finite = bool(np.all(np.isfinite(np.asarray(found["w"], np.float32))))
        assert np.all(exchanged.finite == is_finite)
        if not is_finite:
            jax.tree.map(np.testing.assert_array_equal, after, state)
            return
        state = after
    pytest.fail("what feedback owes has to leave float16")


def test_large_numbers_have_their_mean():
    x = jnp.array([[3e38, 1.0], [3e38, 3.0], [3e38, 2.0]])
    for name in ("identity, sharded", "identity, summed"):
        found, *_ = one_mean(COLLECTIVES[name], x)
        np.testing.assert_allclose(found[0], [3e38, 2.0], rtol=1e-6)


@pytest.mark.thorough
def test_references_at_both_ends_follow_what_does_not_change():
    x = jax.random.normal(jax.random.key(3), (2, 8))
    collective = collective_mean(differenced(top_k(0.5)), axis_name=AXIS)
    state, step = collective.init(x[0], 2), on_devices(collective)
    for seed in range(4):
        found, state, _ = step(make_key(seed), x, state)
    assert_means(found, jnp.mean(x, axis=0), atol=1e-5)


def test_a_tree_of_nothing_is_its_mean():
    empty = {"a": jnp.zeros((2, 0))}
    for collective in (COLLECTIVES["rotated quantizer"], COLLECTIVES["power_sgd"]):
        found, _, exchanged = one_mean(collective, empty)
        assert found["a"].shape == (2, 0)
        assert np.all(exchanged.finite)


def call(collective, tree, **specs):
    mesh = jax.sharding.Mesh(jax.devices()[:2], (AXIS,))
    run = jax.shard_map(
        lambda key, x: collective.mean(key, x, ())[0], mesh=mesh, **specs
    )
    return run(jax.random.split(make_key(0), 2), tree)


def test_mistakes_are_told_in_one_line():
    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    x = jnp.ones(8)
    coded = collective_mean(chain(qsgd(3), entropy_coded()), axis_name=AXIS)
    power = COLLECTIVES["power_sgd"]
    cases = [
        (lambda: summed_mean(qsgd(3), axis_name=AXIS), "use sharded_mean"),
        (lambda: sharded_mean(qsgd, axis_name=AXIS), r"write it as a call: qsgd"),
        (lambda: power_sgd_mean(0, axis_name=AXIS), "rank=0"),
        (lambda: coded.init({"n": jnp.arange(3)}, 2), r"int32 at tree\['n'\]"),
        (lambda: coded.init(x, 0), "num_devices=0"),
        (lambda: one_mean(coded, x.reshape(2, 4)), "leave the lossless code out"),
        (
            lambda: call(power, x, in_specs=(split, whole), out_specs=whole),
            "Expected one key for all devices of axis 'data'",
        ),
        (
            lambda: compressed_mean(
                make_key(0), x, error_feedback(qsgd(3)), axis_name=AXIS
            ),
            "use collective_mean and carry its state",
        ),
    ]
    for run, told in cases:
        with pytest.raises(ValueError, match=told) as raised:
            run()
        assert "\n" not in str(raised.value)
