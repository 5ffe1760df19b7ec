"""Limits of models of an update: known cases, and compressors that stay above them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rate_distortion.models import ERRORS, MODELS, bits_of, limit
from fedjax_comp.base import make_context
from fedjax_comp.compress.low_rank.coded import coded_low_rank
from fedjax_comp.compress.quantize.separable import separable
from fedjax_comp.keys import make_key
from fedjax_comp.wire.accounting import message_bits, num_bits


def test_white_vectors_have_the_limit_of_white_vectors():
    vector = np.random.default_rng(0).choice([-3.0, 3.0], 1000)
    for model in MODELS:
        for error, bits in bits_of(model, [[vector]]).items():
            assert bits == pytest.approx(-np.log2(error) / 2, abs=2e-3)


def test_two_variances_against_water_filling_by_hand():
    # Half of the numbers 16 times as large: at level 1 these take 2 bits, the others,
    # of variance 1, none.
    matrix = np.concatenate([np.full((32, 8), 4.0), np.full((32, 8), 1.0)])
    bits, error = limit("row x column energies", [matrix])
    # Levels are in units of the mean energy, 8.5.
    at = np.argmin(np.abs(np.geomspace(1e-5, 1e5, 1001) * 8.5 - 1.0))
    assert bits[at] == pytest.approx(1.0, abs=0.02)
    assert error[at] == pytest.approx(1 / 8.5, rel=0.03)


def test_one_outer_product_costs_its_two_factors():
    rng = np.random.default_rng(1)
    m, n = 300, 200
    matrix = np.outer(rng.standard_normal(m), rng.standard_normal(n))
    bits, error = limit("singular directions", [matrix])
    energy = (matrix**2).sum()
    for level in np.geomspace(1e-5, 1e-4, 4) * energy / (m * n):
        i = np.argmin(np.abs(error * energy - (m + n) * level))
        expected = sum(k * np.log2(energy / (k * level)) / 2 for k in (m, n))
        assert bits[i] * m * n == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_what_knows_no_more_than_its_model_stays_above_its_limit():
    """On updates drawn from the model, bytes of messages and all."""
    rng = np.random.default_rng(2)
    rows, columns = np.exp(rng.standard_normal(400)), np.exp(rng.standard_normal(300))
    by_sizes = rng.standard_normal((400, 300)) * rows[:, None] * columns
    factors = rng.standard_normal((400, 8)), rng.standard_normal((8, 300))
    by_directions = factors[0] @ (factors[1] * 2.0 ** -np.arange(8)[:, None])
    context = make_context(make_key(0), 0)
    for model, matrix, compressor in (
        ("row x column energies", by_sizes, separable(1.0)),
        ("singular directions", by_directions, coded_low_rank(1.0)),
    ):
        x = {"w": jnp.asarray(matrix, jnp.float32)}
        payload, _ = jax.jit(compressor.encode)(context, x, ())
        decoded, _ = compressor.decode(context, payload, ())
        lost = float(jnp.sum((decoded["w"] - x["w"]) ** 2) / jnp.sum(x["w"] ** 2))
        sent = message_bits(num_bits(payload)) / matrix.size
        bits, error = limit(model, [matrix])
        least = np.interp(np.log(lost), np.log(error), bits)
        assert least < sent < 2 * least, (model, least, sent)


def test_every_model_has_a_curve_that_falls():
    update = [np.random.default_rng(3).standard_t(3, (40, 30)), np.zeros((5, 4))]
    for model in MODELS:
        found = bits_of(model, [update])
        assert list(found) == list(ERRORS)
        assert sorted(found.values()) == list(found.values())
