"""The trellis quantizer: the nearest path, from its bits alone, near the limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Compressor, fold_context, make_context
from fedjax_comp.compress import chain, noise, rotate, trellis
from fedjax_comp.compress.trellis.codebook import gaussian_codebook, spread_codebook
from fedjax_comp.compress.trellis.fixed_rate import guarded_scale, windows_of
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import from_bytes, to_bytes

CONTEXT = make_context(jax.random.key(0), 0)


def gaussian(n: int, seed: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (n,))


def sent(compressor: Compressor, x: jax.Array) -> jax.Array:
    """`x` as it arrives, from the bytes of the message."""
    payload, _ = jax.jit(compressor.encode)(CONTEXT, x, ())
    received = from_bytes(to_bytes(payload), jax.tree.map(jnp.zeros_like, payload))
    return jax.jit(compressor.decode)(CONTEXT, received, ())[0]


def relative_error(decoded: jax.Array, x: jax.Array) -> float:
    x64 = np.asarray(x, np.float64)
    return float(np.sum((np.asarray(decoded, np.float64) - x64) ** 2) / np.sum(x64**2))


@pytest.mark.parametrize("windows, branches", [(256, 2), (64, 4), (16, 8)])
def test_windows_are_the_shift_registers(windows: int, branches: int):
    u = np.random.default_rng(0).integers(0, branches, (1, 20, 2))
    window, expected = np.zeros((1, 2), int), []
    for t in range(20):
        window = (window * branches + u[:, t]) % windows
        expected.append(window)
    found = windows_of(jnp.asarray(u, jnp.uint8), windows=windows, branches=branches)
    np.testing.assert_array_equal(found, np.stack(expected, axis=1))


@pytest.mark.thorough
@pytest.mark.parametrize("width, v, n", [(1, 1, 7), (2, 1, 4), (1, 2, 13)])
def test_no_message_is_nearer(width: int, v: int, n: int):
    """Every message there is, decoded by ten lines of NumPy."""
    states, steps = 16, -(-n // v)
    x = np.asarray(gaussian(n, seed=2), np.float64)
    codebook = gaussian_codebook(states, width, v).astype(np.float64)
    unit = np.zeros(steps * v)
    signs = noise.signs(fold_context(CONTEXT, 0).round_key, n)
    unit[:n] = signs * x / np.sqrt(np.mean(x**2))
    least = np.inf
    for symbols in itertools.product(range(1 << width), repeat=steps):
        window, levels = 0, []
        for u in symbols:
            window = ((window << width) + u) % states
            levels.append(codebook[window])
        distance = np.sum((np.concatenate(levels) - unit) ** 2)
        if distance < least:
            least, best = distance, symbols
    payload, _ = trellis(width / v, states=states).encode(
        CONTEXT, jnp.asarray(x, jnp.float32), ()
    )
    assert payload.parts[0].symbols.values.tolist() == list(best)


@pytest.mark.parametrize("bits, most", [(0.5, 1.18), (1, 0.41), (2, 0.087)])
def test_errors_lie_between_the_limit_and_the_target(bits: float, most: float):
    """The least squares error of `n` Gaussian coordinates varies by `sqrt(2 / n)`."""
    n = 1 << 14
    x = gaussian(n)
    decoded = sent(trellis(bits), x)
    assert relative_error(decoded, x) < most
    inner = float(jnp.vdot(decoded, x) / jnp.vdot(x, x))
    assert inner == pytest.approx(1, abs=1e-5)
    least = relative_error(sent(trellis(bits, unbiased=False), x), x)
    assert 4.0**-bits * (1 - 6 * np.sqrt(2 / n)) < least
    # Of the same path: sine and tangent of one angle.
    assert relative_error(decoded, x) == pytest.approx(least / (1 - least), rel=1e-3)


def test_trained_levels_are_better_than_spread_ones():
    for name in ((256, 1, 1), (256, 2, 1), (4096, 1, 1)):
        levels = gaussian_codebook(*name)
        assert levels.shape == spread_codebook(*name).shape
        assert not np.array_equal(levels, spread_codebook(*name))
    assert np.array_equal(gaussian_codebook(64, 1, 1), spread_codebook(64, 1, 1))


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 5000])
@pytest.mark.parametrize("bits", [0.1, 1.5, 3])
def test_every_length_costs_its_bits(n: int, bits: float):
    x = gaussian(n)
    payload, _ = jax.eval_shape(trellis(bits, block=700).encode, CONTEXT, x, ())
    width, v = {0.1: (1, 10), 1.5: (3, 2), 3: (3, 1)}[bits]
    assert message_bits(num_bits(payload)) == width * -(-n // v) + 32


def test_blocks_are_apart_and_their_number_costs_nothing_but_precision():
    x = gaussian(1 << 13)
    blocks = [
        sent(trellis(1, block=b, lanes=lanes), x)
        for b, lanes in ((512, None), (512, 2), (8192, None))
    ]
    np.testing.assert_array_equal(blocks[0], blocks[1])
    assert relative_error(blocks[2], x) < relative_error(blocks[0], x) < 0.43


@pytest.mark.thorough
def test_the_mean_over_rotations_is_the_vector():
    """Heavy tails and one coordinate above all, so that it takes two rotations.

    The squared error of a mean of `T` unbiased draws is `1 / T` of one draw's on
    average and, as a sum over 1,024 coordinates, within a few per cent of it.
    """
    draws = 256
    x = jax.random.t(jax.random.key(5), 2.5, (1024,)).at[7].set(30.0)
    compressor = chain(rotate(), rotate(), trellis(1, states=16))
    state = compressor.init(x)

    def one(key: jax.Array) -> jax.Array:
        context = make_context(key, 0)
        payload, _ = compressor.encode(context, x, state.sender)
        return compressor.decode(context, payload, state.receiver)[0]

    decoded = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(6), draws))
    each = np.mean([relative_error(d, x) for d in decoded])
    assert each < 0.6
    assert relative_error(jnp.mean(decoded, axis=0), x) < 1.5 * each / draws


def test_the_scale_never_explodes_and_never_hides_what_is_not_a_number():
    x, across = jnp.array([1.0, 0.0]), jnp.array([0.1, 1.0])
    bound = 4 / (1 - 4.0**-1) - 1
    for q in (across, -across, jnp.array([-1.0, 0.5]), jnp.zeros(2), x):
        scale = guarded_scale(x, q, bits=1.0, unbiased=True)
        assert float(jnp.sum((scale * q - x) ** 2)) <= bound
    assert float(guarded_scale(jnp.zeros(2), x, bits=1.0, unbiased=True)) == 0.0
    for unbiased in (True, False):
        broken = guarded_scale(x * jnp.nan, across, bits=1.0, unbiased=unbiased)
        assert bool(jnp.isnan(broken))
    assert bool(jnp.all(jnp.isnan(sent(trellis(), x.at[0].set(jnp.inf)))))


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 0},
        {"bits": 0.123456},
        {"bits": 7},
        {"bits": 1, "states": 100},
        {"bits": 4, "states": 32},
        {"bits": 1, "block": 0},
        {"bits": 1, "lanes": 0},
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, float]):
    with pytest.raises(ValueError, match="Expected"):
        trellis(**arguments)
