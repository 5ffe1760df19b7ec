"""Signs and their means against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import one_bit, sign_sgd
from fedjax_comp.server.aggregate import WeightedSum, majority_vote
from fedjax_comp.wire.accounting import num_bits

CONTEXT = make_context(jax.random.key(0), 0)
X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)


def send(compressor, x):
    payload, _ = compressor.encode(CONTEXT, jnp.asarray(x), ())
    return payload, np.asarray(compressor.decode(CONTEXT, payload, ())[0], np.float64)


@pytest.mark.thorough
def test_one_bit_sends_the_means_of_both_signs():
    expected = np.where(X >= 0, X[X >= 0].mean(), X[X < 0].mean())
    np.testing.assert_allclose(send(one_bit(), X)[1], expected, rtol=1e-5)
    payload, decoded = send(one_bit(columns=True), X)
    for column in range(5):
        x = X[:, column]
        expected = np.where(x >= 0, x[x >= 0].mean(), x[x < 0].mean())
        np.testing.assert_allclose(decoded[:, column], expected, rtol=1e-5)
    assert num_bits(payload).fixed == 30 + 2 * 5 * 32


def test_a_vote_is_the_sign_of_most_clients():
    votes = [
        send(sign_sgd(), x)[1] for x in ([3.0, -1, 1], [1e-9, -2, -1], [0.0, 5, 9])
    ]
    total = WeightedSum(jnp.asarray(sum(votes), jnp.float32), jnp.asarray(3.0))
    assert majority_vote(total).tolist() == [1.0, -1.0, 1.0]
    assert np.all(np.isnan(send(sign_sgd(), [1.0, np.nan])[1]))
