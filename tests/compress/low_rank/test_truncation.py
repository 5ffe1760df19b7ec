"""The truncation against NumPy's SVD in float64, the wire and its limit cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Messages, make_context
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.compress.low_rank.truncation import (
    from_matrix,
    largest_rank,
    low_rank_start,
    scheme_shape,
    spectrum,
    to_matrix,
    truncation,
)
from fedjax_comp.rank import rank_for_energy
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes
from fedjax_comp.wire.traffic import to_server

CONTEXT = make_context(jax.random.key(0), 0)


def _decaying(m, n, seed=0, base=0.7):
    """A matrix with singular values `base**i`, float64."""
    rng = np.random.default_rng(seed)
    d = min(m, n)
    u, _ = np.linalg.qr(rng.normal(size=(m, d)))
    v, _ = np.linalg.qr(rng.normal(size=(n, d)))
    return u @ np.diag(base ** np.arange(d)) @ v.T


def _rank(x, energy):
    squares = np.linalg.svd(x, compute_uv=False) ** 2
    return next(
        r
        for r in range(1, len(squares) + 1)
        if squares[:r].sum() >= energy * squares.sum()
    )


def _best_approximation(x, rank):
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.95, 0.99])
def test_ranks_are_counted_as_in_numpy(energy):
    x = _decaying(40, 12)
    values, _ = spectrum(jnp.asarray(x, jnp.float32))
    assert int(rank_for_energy(values, energy)) == _rank(x, energy)
    payload, _ = truncation(energy).encode(CONTEXT, jnp.asarray(x, jnp.float32), ())
    assert int(payload.parts[0].count) == _rank(x, energy) * (40 + 12)


def test_tiny_and_huge_matrices_have_the_ranks_of_middling_ones():
    x = jnp.asarray(_decaying(40, 12), jnp.float32)
    for scale in (1e-30, 1e30):
        payload, _ = truncation(0.9).encode(CONTEXT, scale * x, ())
        assert int(payload.parts[0].count) == _rank(np.asarray(x), 0.9) * 52
        decoded, _ = truncation(0.9).decode(CONTEXT, payload, ())
        lost = jnp.linalg.norm(decoded / scale - x) / jnp.linalg.norm(x)
        assert float(lost) ** 2 < 0.1 + 1e-5


def test_the_dense_matrix_travels_exactly_where_factors_are_no_fewer():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(12, 12)), jnp.float32)
    assert largest_rank(12, 12) == 5
    assert _rank(np.asarray(x), 0.99) > 5
    coder = truncation(0.99)
    payload, _ = coder.encode(CONTEXT, x, ())
    assert int(payload.parts[0].count) == 144
    np.testing.assert_array_equal(coder.decode(CONTEXT, payload, ())[0], x)


def test_largest_rank_is_the_last_with_fewer_numbers():
    for m in range(1, 12):
        for n in range(1, 12):
            worth = [r for r in range(1, 12) if r * (m + n) < m * n]
            assert largest_rank(m, n) == max(worth, default=0)


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_schemes_are_rearrangements_that_are_undone(scheme):
    kernel = jnp.arange(3 * 2 * 4 * 5, dtype=jnp.float32).reshape(3, 2, 4, 5)
    matrix = to_matrix(kernel, scheme)
    assert matrix.shape == scheme_shape(kernel.shape, scheme)
    h, w, i, o = 2, 1, 3, 4
    place = (h * 4 + i, w * 5 + o) if scheme == "spatial" else ((h * 2 + w) * 4 + i, o)
    assert matrix[place] == kernel[h, w, i, o]
    like = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    np.testing.assert_array_equal(from_matrix(matrix, like, scheme), kernel)


def test_ranks_change_without_a_new_compilation_and_bits_are_the_bytes():
    coder, traces = truncation(0.9), 0

    def encode(x):
        nonlocal traces
        traces += 1
        payload, _ = coder.encode(CONTEXT, {"b": x[0], "w": x}, ())
        return payload, num_bits(payload)

    step, ranks = jax.jit(encode), []
    audit = make_auditor(coder)
    for base in (0.2, 0.7, 1.0):
        x = jnp.asarray(_decaying(24, 10, base=base), jnp.float32)
        payload, bits = step(x)
        ranks.append(int(payload.parts[1].count) // 34)
        sent = len(to_bytes(payload)) - HEADER_BYTES
        assert sent == -(-message_bits(bits) // 8)
        decoded, _ = coder.decode(CONTEXT, payload, ())
        message = Messages(
            CONTEXT, payload, (), jnp.asarray(True), to_server(0), decoded
        )
        assert audit(jax.tree.map(lambda x: x[None], message)) == (1, ())
        count_bits = (240).bit_length()
        numbers = 10 + int(payload.parts[1].count)
        assert message_bits(bits) == 32 * numbers + count_bits
    assert traces == 1
    assert ranks[0] == 1 < ranks[1] < largest_rank(24, 10)
    assert ranks[2] == 240 // 34  # dense: more than the factors could be


def test_energy_one_loses_nothing_and_a_largest_rank_is_a_fixed_rank():
    x = jnp.asarray(_decaying(24, 10), jnp.float32)
    exact, fixed = truncation(), truncation(max_rank=3)
    payload, _ = exact.encode(CONTEXT, x, ())
    np.testing.assert_array_equal(exact.decode(CONTEXT, payload, ())[0], x)
    payload, _ = fixed.encode(CONTEXT, x, ())
    assert payload.parts[0].values.shape == (3 * 34,)
    assert int(payload.parts[0].count) == 3 * 34
    expected = _best_approximation(np.asarray(x, np.float64), 3)
    decoded, _ = fixed.decode(CONTEXT, payload, ())
    np.testing.assert_allclose(decoded, expected, atol=5e-6)


def test_zeros_cost_nothing_but_their_count_and_what_is_not_finite_shows():
    for coder in (truncation(0.9), truncation(0.9, max_rank=2)):
        payload, _ = coder.encode(CONTEXT, jnp.zeros((24, 10)), ())
        assert int(payload.parts[0].count) == 0
        assert not coder.decode(CONTEXT, payload, ())[0].any()
        broken = jnp.ones((24, 10)).at[3, 3].set(jnp.nan)
        payload, _ = coder.encode(CONTEXT, broken, ())
        assert jnp.isnan(coder.decode(CONTEXT, payload, ())[0]).any()


def test_a_start_of_low_rank_keeps_every_norm():
    rng = np.random.default_rng(0)
    params = {
        "bias": jnp.ones(10),
        "small": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 10)), jnp.float32),
    }
    start = low_rank_start(params, 3)
    np.testing.assert_array_equal(start["bias"], params["bias"])
    np.testing.assert_array_equal(start["small"], params["small"])
    matrix = np.asarray(start["kernel"], np.float64).reshape(36, 10)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert (values > 1e-5 * values[0]).sum() == 3
    norm = np.linalg.norm(params["kernel"])
    np.testing.assert_allclose(np.linalg.norm(matrix), norm, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, "energy=0.0"),
        ({"energy": 1.5}, "energy=1.5"),
        ({"max_rank": 0}, "max_rank=0"),
        ({"scheme": "spectral"}, "scheme='spectral'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        truncation(**options)
