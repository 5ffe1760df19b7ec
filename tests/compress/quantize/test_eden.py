"""EDEN and the entropy-coded step against the theory of their errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    chain,
    drive,
    ecsq,
    eden,
    eden_fixed_rate,
    entropy_coded,
    flattened,
    per_client,
    random_k,
    rotate,
)
from fedjax_comp.compress.quantize.codebooks import lloyd_max
from fedjax_comp.compress.quantize.eden import nearest_level
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes

CONTEXT = make_context(jax.random.key(0), 0)
N = 1 << 17
GAUSSIAN = np.random.default_rng(0).standard_normal(N).astype(np.float32)


def send(compressor, x, context=CONTEXT):
    state = compressor.init(jnp.asarray(x))

    @jax.jit
    def both_ends(context, x):
        payload, _ = compressor.encode(context, x, state.sender)
        return payload, compressor.decode(context, payload, state.receiver)[0]

    payload, decoded = both_ends(context, jnp.asarray(x))
    return payload, np.asarray(decoded, np.float64)


def relative_error(x, decoded):
    x = np.asarray(x, np.float64)
    return np.sum((decoded - x) ** 2) / np.sum(x**2)


def expected_error(bits: float) -> float:
    """`D / (1 - D)` of the mean distortion; below one bit of those sent and lost."""
    low = int(bits)
    if low == 0:
        return 1 / (bits * (1 - lloyd_max(1).distortion)) - 1
    share = bits - low
    kept = 1 - (1 - share) * lloyd_max(low).distortion
    if share:
        kept -= share * lloyd_max(low + 1).distortion
    return 1 / kept - 1


@pytest.mark.parametrize(
    "bits, published", [(1, 0.571), (2, 0.133), (3, 0.0358), (4, 0.00959), (0.5, 2.14)]
)
def test_published_errors(bits: float, published: float):
    payload, decoded = send(eden(bits), GAUSSIAN)
    assert abs(relative_error(GAUSSIAN, decoded) / published - 1) < 0.02
    assert num_bits(payload).fixed == bits * N + 32
    assert abs(expected_error(bits) / published - 1) < 0.005


@pytest.mark.parametrize("bits", [0.1, 1.5, 2.25, 5, 8])
def test_errors_between_and_beyond(bits: float):
    payload, decoded = send(eden(bits), GAUSSIAN)
    assert abs(relative_error(GAUSSIAN, decoded) / expected_error(bits) - 1) < 0.03
    assert abs(num_bits(payload).fixed - bits * N - 32) <= 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    "bits, published", [(1, 0.535), (2, 0.0976), (3, 0.0229), (4, 0.00563)]
)
def test_entropy_coded_errors_at_packed_bits(bits: int, published: float):
    payload, decoded = send(chain(ecsq(bits), entropy_coded()), GAUSSIAN)
    packed = 8 * (len(to_bytes(payload)) - HEADER_BYTES)
    assert packed == 8 * math.ceil(message_bits(num_bits(payload)) / 8)
    assert abs(packed / N - bits) < 0.006
    assert relative_error(GAUSSIAN, decoded) < 1.03 * published


@pytest.mark.parametrize(
    "make", [lambda: eden(1), lambda: eden(3), lambda: eden(2.5), lambda: ecsq(2)]
)
def test_the_scale_keeps_the_inner_product(make):
    # Whatever the distribution: here neither rotated nor Gaussian.
    x = np.random.default_rng(1).standard_exponential(1000).astype(np.float32)
    _, decoded = send(make(), x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(decoded @ exact, exact @ exact, rtol=1e-5)


def test_biased_scale_is_least_squares():
    _, decoded = send(eden(1, unbiased=False), GAUSSIAN)
    # Drive without bias correction: 1 - 2 / pi.
    assert abs(relative_error(GAUSSIAN, decoded) / (1 - 2 / math.pi) - 1) < 0.01
    exact = GAUSSIAN.astype(np.float64)
    np.testing.assert_allclose(decoded @ (exact - decoded) / N, 0, atol=1e-5)


def test_below_one_bit_is_random_k_then_one_bit():
    # The same law in two ways of drawing it: means over 200 draws of errors.
    x = jnp.asarray(np.random.default_rng(2).standard_normal(256), jnp.float32)
    pair = (eden(0.25), chain(random_k(0.25), eden(1)))

    def errors(compressor):
        state = compressor.init(x)

        def one(key):
            context = make_context(key, 0)
            payload, _ = compressor.encode(context, x, state.sender)
            decoded, _ = compressor.decode(context, payload, state.receiver)
            return jnp.sum((decoded - x) ** 2) / jnp.sum(x**2)

        keys = jax.random.split(jax.random.key(3), 2000)
        return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)

    a, b = (errors(compressor) for compressor in pair)
    spread = math.sqrt((a.var() + b.var()) / 2000)
    assert abs(a.mean() - b.mean()) < 5.5 * spread


def test_unbiased_under_a_uniform_rotation():
    # A QR factorization of a Gaussian matrix, its signs fixed, is a uniform rotation.
    n, draws = 8, 20_000
    x = jnp.asarray([5.0, 1, 1, 0, 0, 0, 0, -0.5])
    code = eden(1)

    def one(key):
        q, r = jnp.linalg.qr(jax.random.normal(key, (n, n)))
        q = q * jnp.sign(jnp.diag(r))[None, :]
        payload, _ = code.encode(CONTEXT, q @ x, ())
        return q.T @ code.decode(CONTEXT, payload, ())[0]

    keys = jax.random.split(jax.random.key(1), draws)
    off = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64) - np.asarray(x)
    # 5.5 standard errors in each of 8 coordinates: false alarm below 1e-6.
    assert np.all(np.abs(off.mean(0)) < 5.5 * off.std(0) / math.sqrt(draws) + 1e-5)


def test_one_hadamard_rotation_loses_what_one_coordinate_outweighs():
    # As the module says: every rotated sign is the largest coordinate's.
    x = np.ones(16, np.float32)
    x[3] = 15.5
    for seed in range(5):
        context = make_context(jax.random.key(seed), 0)
        _, decoded = send(drive(), x, context)
        expected = np.zeros(16)
        expected[3] = np.sum(x.astype(np.float64) ** 2) / x[3]
        np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-4)


def test_heavy_tails_of_any_length_behind_the_rotation():
    # 2^15 + 4097 coordinates: four windows, not one transform.
    x = np.random.default_rng(4).standard_cauchy(36_865).astype(np.float32)
    errors = [
        relative_error(
            x, send(flattened(chain(rotate(), eden(2))), x, make_context(key, 0))[1]
        )
        for key in jax.random.split(jax.random.key(5), 3)
    ]
    assert abs(np.mean(errors) / expected_error(2) - 1) < 0.1


def means_over_draws(compressor, x, draws: int):
    """Of the decoded vector and of its relative error, and the former's deviation."""
    x = jnp.asarray(x, jnp.float32)
    state = compressor.init(x)

    def one(key):
        context = make_context(key, 0)
        payload, _ = compressor.encode(context, x, state.sender)
        return compressor.decode(context, payload, state.receiver)[0]

    keys = jax.random.split(jax.random.key(7), draws)
    decoded = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
    errors = np.sum((decoded - np.asarray(x)) ** 2, axis=1) / np.sum(np.square(x))
    return decoded.mean(0), errors.mean(), decoded.std(0)


@pytest.mark.thorough
@pytest.mark.parametrize("bits", [1, 2, 1.5, 0.5])
def test_an_axis_has_a_scale_for_each_index(bits: float):
    rng = np.random.default_rng(8)
    sizes = np.array([1e-3, 1.0, 1e3], np.float32)[None, :, None]
    x = rng.standard_normal((64, 3, 64)).astype(np.float32) * sizes
    payload, decoded = send(eden(bits, axis=1), x)
    assert num_bits(payload).fixed == bits * x.size + 3 * 32
    for i in range(3):
        # Each is what it would be alone, whatever the size of the others.
        _, alone = send(eden(bits), x[:, i])
        np.testing.assert_allclose(decoded[:, i], alone, rtol=1e-5)
    _, coded = send(chain(ecsq(2, axis=1), entropy_coded()), x)
    for i in range(3):
        _, alone = send(ecsq(2), x[:, i])
        np.testing.assert_allclose(coded[:, i], alone, rtol=1e-5)


def test_blocks_have_the_published_error_each_at_its_own_size():
    # Block t at `[:, t, :]` of size `10**t`: with one scale the small ones were lost.
    sizes = 10.0 ** np.arange(-4, 4)
    x = GAUSSIAN.reshape(32, 128, 32) * np.repeat(sizes, 16)[None, :, None]
    payload, decoded = send(eden_fixed_rate(1, block=1024), x.reshape(-1))
    assert num_bits(payload).fixed == N + 32 * N // 1024
    error = np.square(decoded.reshape(x.shape) - x).sum((0, 2)) / np.square(x).sum(
        (0, 2)
    )
    for own in error.reshape(8, 16).mean(1):
        assert abs(own / 0.571 - 1) < 0.03


def test_what_is_left_behind_the_blocks_has_the_published_error():
    x = GAUSSIAN[: 5 * 1024 - 1]
    compressor = eden_fixed_rate(1, block=1024)
    payload, _ = send(compressor, x)
    assert num_bits(payload).fixed == x.size + 5 * 32
    _, error, deviation = means_over_draws(compressor, x, 200)
    assert abs(error / 0.571 - 1) < 0.01
    # Nor is it worse off than the others: variances of a coordinate, 200 draws each.
    left, others = (
        np.square(deviation[4096:]).mean(),
        np.square(deviation[:3000]).mean(),
    )
    assert abs(left / others - 1) < 0.1


@pytest.mark.parametrize(
    "places",
    [(3, 5), (3, 24), (3, 70), (3, 5, 9), (3, 4, 24), (1, 2, 3, 4, 24), (198, 199)],
)
def test_few_equal_coordinates_are_unbiased_in_blocks(places: tuple[int, ...]):
    # 3 blocks of 64 and 8 coordinates behind them. Two equal ones are the worst case:
    # half of what they are rotated to is zero, `m_2 / m_1^2 - 1 = 1` (Szarek 1976).
    x, draws = np.zeros(200), 20_000
    x[list(places)] = 1.0
    mean, error, deviation = means_over_draws(eden_fixed_rate(1, block=64), x, draws)
    # 6 standard errors in each of 200 coordinates: false alarm below 1e-6.
    assert np.all(np.abs(mean - x) < 6 * deviation / math.sqrt(draws) + 1e-5)
    assert error < 1.0 + 1e-3


def test_a_scale_that_shrinks_is_caught_by_the_same_bound():
    x, draws = np.zeros(200), 20_000
    x[[3, 5]] = 1.0
    biased = eden_fixed_rate(1, block=64, unbiased=False)
    mean, _, deviation = means_over_draws(biased, x, draws)
    assert np.any(np.abs(mean - x) > 6 * deviation / math.sqrt(draws) + 1e-5)


def test_two_rotations_mend_what_one_makes_of_few_unequal_coordinates():
    # Of (3, 2, 1.5) every sign is that of two of them, whichever: all the same weight.
    x, places = np.zeros(1024), [10, 200, 1000]
    x[places] = 3.0, 2.0, 1.5
    kept = np.sum(x**2) / np.sum(x)
    once = eden_fixed_rate(1, block=1024)
    twice = flattened(
        chain(
            per_client(chain(rotate(block=1024), rotate(block=1024))), eden(1, axis=1)
        )
    )
    mean, _, _ = means_over_draws(once, x, 500)
    np.testing.assert_allclose(mean[places], kept, rtol=1e-3)
    mean, error, _ = means_over_draws(twice, x, 500)
    np.testing.assert_allclose(mean[places], x[places], rtol=0.05)
    assert abs(error / (math.pi / 2 - 1) - 1) < 0.1


def test_nearest_level_by_search_and_by_comparison():
    x = jnp.asarray(np.random.default_rng(6).standard_normal(999), jnp.float32) * 3
    for bits in (3, 6):
        book = lloyd_max(bits)
        index = np.abs(np.asarray(x, np.float64)[:, None] - book.levels).argmin(1)
        np.testing.assert_array_equal(nearest_level(x, book), index)


def test_what_is_not_a_number_shows():
    x = jnp.asarray([1.0, jnp.nan, 2.0])
    for code in (eden(1), eden(2.5), ecsq(2)):
        assert not np.all(np.isfinite(send(code, x)[1]))
    code = eden(1 / 3)

    @jax.jit
    def sent(client):
        context = make_context(jax.random.key(0), client)
        payload, _ = code.encode(context, x, ())
        return code.decode(context, payload, ())[0]

    # One place of three is sent: some client's is a sound one.
    for client in range(8):
        assert not np.all(np.isfinite(sent(client))), client


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected bits=9 in \(0, 8\]"):
        eden(9)
    with pytest.raises(ValueError, match=r"Expected bits=0 in \(0, 8\]"):
        ecsq(0)
    with pytest.raises(ValueError, match="either bits or step"):
        ecsq()
    with pytest.raises(ValueError, match="either bits or step"):
        ecsq(1, step=1.0)
