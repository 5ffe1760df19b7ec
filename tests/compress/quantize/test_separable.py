"""Classes by rows and columns: against NumPy, ideal bits, and updates of structure."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import chain, entropy_coded, identity, separable
from fedjax_comp.compress.quantize.separable_classes import (
    Matrix,
    classes_of_side,
    from_side,
    matrix_of,
    rounded_log2,
    to_side,
)
from fedjax_comp.compress.quantize.separable_noise import noise_weights
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.codes.weibull import DITHERED, ROUNDED, SHAPES
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

LEAST_SIZE, SIZES = ROUNDED
CONTEXT = make_context(jax.random.key(0), 0)
RNG = np.random.default_rng(0)
SPREAD = RNG.standard_normal((40, 1)), RNG.standard_normal((1, 64))
TREE = {
    "bias": RNG.standard_normal(64) / 7,
    "conv": RNG.standard_normal((3, 3, 4, 32)),
    "dense": RNG.laplace(size=(40, 64)) * np.exp(SPREAD[0] + SPREAD[1]),
    "scalar": np.array(-3.3),
}


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def sent(compressor, tree):
    """`(field of symbols, scale, bytes, decoded)`, decoded from the bytes."""
    payload = jax.jit(lambda tree: compressor.encode(CONTEXT, tree, ())[0])(tree)
    data = to_bytes(payload)
    bits = message_bits(jax.jit(num_bits)(payload))
    assert len(data) == HEADER_BYTES + -(-bits // 8)
    received = from_bytes(data, payload)
    decoded = jax.jit(lambda p: compressor.decode(CONTEXT, p, ())[0])(received)
    inner = payload.payload
    return inner.symbols.field, float(inner.scale.values), 8 * len(data), decoded


def reference(tree, step, share):
    """Symbols, classes without shapes, and what is decoded, all levels the nearest."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    rms = math.sqrt(sum((x**2).sum() for x in leaves) / sum(x.size for x in leaves))
    levels, sizes, units = [], [], []
    for x in leaves:
        t = x.reshape(-1, x.shape[-1] if x.ndim else 1) / (step * rms)
        u = np.where(np.abs(t) > 0.5, t, 0.0)
        mean, (r, c) = (u**2).mean(), t.shape
        row = (u**2).mean(1, keepdims=True) if r > 1 and c >= share else mean
        column = (u**2).mean(0) / max(mean, 1e-30) if c > 1 and r >= share else 1.0
        row = np.clip(np.round(np.log2(row + 1e-30)) - LEAST_SIZE, 0, SIZES - 1)
        column = np.clip(np.round(np.log2(column + 1e-30)), -31, 31)
        size = np.clip(row + column, 0, SIZES - 1)
        sizes.append(np.broadcast_to(size, t.shape).ravel().astype(int))
        levels.append(np.round(t).ravel())
        units.append(t.ravel())
    q, t, sizes = map(np.concatenate, (levels, units, sizes))
    scale = step * rms * (t @ q) / (q @ q)
    return np.where(q < 0, -2 * q - 1, 2 * q).astype(int), sizes, scale * q


def ideal_bits(z, classes, theta):
    """`-log2 P` of every symbol as the tables' docstring has it."""
    k = np.array([float(k) for k in SHAPES])[classes // SIZES]
    sigma = 2.0 ** ((LEAST_SIZE + classes % SIZES) / 2)
    a = sigma / np.sqrt(np.array([math.gamma(1 + 2 / x) for x in k]))
    m = (z + 1) // 2
    beyond = [np.exp(-(((m + i - theta).clip(1e-9) / a) ** k)) for i in (0, 1)]
    share = np.where(m == 0, 1 - beyond[1], (beyond[0] - beyond[1]) / 2)
    return -np.log2(np.maximum(share, 1e-99)).sum()


@pytest.mark.thorough
@pytest.mark.parametrize(("step", "share"), [(2.0, 16), (0.3, 4)])
def test_symbols_classes_and_bits_are_those_of_the_formulas(step, share):
    field, _, bits, decoded = sent(
        separable(step, rate_weight=0.0, share=share), to_jax(TREE)
    )
    z, sizes, x = reference(TREE, step, share)
    np.testing.assert_array_equal(field.symbols.values, z)
    layout = tuple(matrix_of(leaf.shape, share) for leaf in jax.tree.leaves(TREE))
    classes = np.asarray(classes_of_side(field.side.values, layout, ROUNDED))
    np.testing.assert_array_equal(classes % SIZES, sizes)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(decoded)])
    np.testing.assert_allclose(flat, x, rtol=1e-5)
    # Beside the symbols: header, scale, a state, and side values of at most 6 bits.
    beside = 8 * HEADER_BYTES + 32 + 32 + 8 + 6 * field.side.values.size
    assert bits < 1.02 * ideal_bits(z, classes, 0.4) + beside
    others = [
        ideal_bits(z, classes % SIZES + SIZES * shape, 0.4)
        for shape in range(len(SHAPES))
    ]
    # The choice is by the tables, which have no share below one in 2^14.
    assert ideal_bits(z, classes, 0.4) < 1.02 * min(others)


def test_structure_is_what_saves_bits():
    rng = np.random.default_rng(1)
    rows, columns = (np.exp(1.5 * rng.standard_normal(300)) for _ in range(2))
    x = rng.standard_normal((300, 300)) * rows[:, None] * columns[None, :]
    shuffled = rng.permutation(x.ravel()).reshape(x.shape)
    ordered, mixed = (
        sent(separable(1.0, rate_weight=0.0), jnp.asarray(leaf, jnp.float32))
        for leaf in (x, shuffled)
    )
    errors = [
        float(np.sum((np.asarray(d[3]) - leaf) ** 2) / np.sum(leaf**2))
        for d, leaf in ((ordered, x), (mixed, shuffled))
    ]
    assert abs(errors[0] - errors[1]) < 1e-4  # the same numbers, the same step
    assert ordered[2] < 0.6 * mixed[2]


def test_an_outer_product_costs_little_more_than_its_signs():
    rng = np.random.default_rng(2)
    x = np.outer(*(2.0 ** rng.integers(-1, 2, 256) * rng.choice([-1, 1], 256)
                   for _ in range(2)))  # fmt: skip
    field, _, bits, _ = sent(separable(0.5), jnp.asarray(x, jnp.float32))
    assert int(field.side.values[0]) == len(SHAPES) - 1
    assert bits < 2.2 * x.size


def test_a_dead_update_is_nearly_free():
    x = np.zeros((512, 512), np.float32)
    x[3] = RNG.standard_normal(512)
    *_, bits, decoded = sent(separable(1.0), jnp.asarray(x))
    # Some 6 bits for each number that is not 0, and a size for its column.
    assert bits < 12.5 * 512
    assert not np.any(np.delete(np.asarray(decoded), 3, axis=0))


@pytest.mark.thorough
def test_least_squares_leaves_no_more_than_was_there():
    for step in (0.01, 1.0, 100.0):
        *_, decoded = sent(separable(step), to_jax(TREE))
        off = sum(
            np.sum((np.asarray(d) - x) ** 2)
            for d, x in zip(
                jax.tree.leaves(decoded), jax.tree.leaves(TREE), strict=True
            )
        )
        assert off <= (1 + 1e-6) * sum(np.sum(x**2) for x in jax.tree.leaves(TREE))


def test_without_a_bias_the_error_is_that_of_the_weighted_dither():
    step, draws = 1.5, 200
    compressor = separable(step, unbiased=True)
    tree = to_jax(TREE)
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    x = np.concatenate(leaves)
    width = step * math.sqrt(np.mean(x**2))

    @jax.jit
    def draw(key):
        context = make_context(key, 0)
        payload, _ = compressor.encode(context, tree, ())
        decoded, _ = compressor.decode(context, payload, ())
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(decoded)])
        return flat, payload.payload.symbols.field.side.values

    keys = jax.random.split(jax.random.key(3), draws)
    drawn = [draw(key) for key in keys]
    off = np.stack([np.asarray(flat, np.float64) for flat, _ in drawn]) - x
    layout = tuple(matrix_of(leaf.shape, 16) for leaf in jax.tree.leaves(TREE))
    sizes = np.asarray(classes_of_side(drawn[0][1], layout, DITHERED))
    w = noise_weights()[sizes % DITHERED.number].astype(np.float64)
    f = x / width - np.floor(x / width)
    variance = width**2 * (f * (1 - f) * (1 - w) + w**2 / 12)
    # A sum of independent terms: within five standard errors, of at most the square of
    # the largest error.
    error, expected = np.sum(off**2) / draws, np.sum(variance)
    assert abs(error - expected) < 5 * math.sqrt(2.25 * width**2 * expected / draws)
    score = np.sum(np.mean(off, axis=0) ** 2 * draws / variance.clip(1e-12)) / x.size
    assert abs(score - 1) < 0.15  # of 3,777 squares of mean 1
    # Both ends of the weight are worse: stochastic rounding, and all of the noise.
    assert expected < 0.95 * width**2 * np.sum(f * (1 - f))
    assert expected < 0.95 * width**2 * x.size / 12


def test_a_broken_leaf_breaks_all_of_the_update():
    tree = to_jax(TREE) | {"bias": jnp.full(64, jnp.nan)}
    *_, decoded = sent(separable(1.0), tree)
    assert not any(bool(jnp.any(jnp.isfinite(x))) for x in jax.tree.leaves(decoded))


def test_logs_round_to_the_nearest():
    x = np.exp2(RNG.uniform(-100, 100, 5000)).astype(np.float32)
    np.testing.assert_array_equal(
        rounded_log2(jnp.asarray(x)), np.round(np.log2(x.astype(np.float64)))
    )


@pytest.mark.thorough
def test_every_side_value_tells_a_class():
    sizes = RNG.integers(0, 64, 500)
    side = to_side(jnp.asarray([7, 0]), jnp.asarray(sizes, jnp.int32))
    shapes, back = from_side(side.values, 2)
    assert shapes.tolist() == [7, 0]
    np.testing.assert_array_equal(back, sizes)
    layout = (Matrix(20, 30, True, True), Matrix(1, 5, False, False))
    hostile = jnp.asarray(RNG.integers(0, 64, 2 + 50 + 1), jnp.uint8)
    classes = np.asarray(classes_of_side(hostile, layout, DITHERED))
    assert classes.shape == (605,)
    assert classes.min() >= 0
    assert classes.max() < DITHERED.number * len(SHAPES)


def test_mistakes_are_told():
    for wrong in ({"step": 0.001}, {"rate_weight": 1.1}, {"share": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            separable(**wrong)
    with pytest.raises(ValueError, match="finds no symbols"):
        chain(separable(), entropy_coded()).init(jnp.zeros(9))
    with pytest.raises(ValueError, match="separable to act on"):
        chain(separable(), separable()).init(jnp.zeros(9))
    chain(identity(), separable()).init(jnp.zeros(9))
