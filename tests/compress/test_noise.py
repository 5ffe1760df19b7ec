"""The counter hash looks random: counts, pairs, avalanche, streams; bias of rounding.

Every bound holds for truly random words with probability above `1 - 1e-8`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress import noise
from tests.as_on_tpu import as_on_tpu

N = 1 << 20


def words(seed: int, n: int = N) -> np.ndarray:
    return np.asarray(noise.counter_bits(jax.random.key(seed), (n,)))


def check_uniform(symbols: np.ndarray, cells: int) -> None:
    """Chi-square; by Laurent and Massart (2000), lemma 1, eq. 4.3, for d degrees

    P(chi2 - d >= 2 sqrt(d t) + 2 t) <= exp(-t).
    """
    counts = np.bincount(symbols, minlength=cells)
    expected = symbols.size / cells
    chi2, d, t = np.sum((counts - expected) ** 2) / expected, cells - 1, np.log(1e9)
    assert abs(chi2 - d) <= 2 * np.sqrt(d * t) + 2 * t, (chi2, d)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_every_byte_and_neighbouring_bytes_are_uniform(seed: int):
    h = words(seed)
    for shift in (0, 8, 16, 24):
        byte = (h >> shift & 0xFF).astype(np.int64)
        check_uniform(byte, 256)
        for lag in (1, 2, 16, 1024):  # a serial test of pairs
            pairs = (byte[:-lag] >> 3) * 32 + (byte[lag:] >> 3)
            check_uniform(pairs[:: lag + 1], 1024)


def check_fair(bits: np.ndarray, trials: int) -> None:
    """Shares of ones, by Hoeffding and over all of `bits.size` of them."""
    slack = np.sqrt(np.log(2 * bits.size / 1e-9) / (2 * trials))
    assert np.abs(bits - 0.5).max() <= slack, (np.abs(bits - 0.5).max(), slack)


def test_one_bit_of_the_counter_changes_every_bit_half_of_the_time():
    """Avalanche over random counters and words of the key."""
    trials = 1 << 14
    rng = np.random.default_rng(0)
    i, k0, k1 = (
        jnp.asarray(rng.integers(2**32, size=trials), jnp.uint32) for _ in "abc"
    )

    def stream(i: jax.Array, k0: jax.Array, k1: jax.Array) -> jax.Array:
        return noise.mix(noise.mix(i + k0) ^ k1)

    for argument in range(3):
        shares = []
        for bit in range(32):
            flipped = [i, k0, k1]
            flipped[argument] = flipped[argument] ^ jnp.uint32(1 << bit)
            changed = np.asarray(stream(i, k0, k1) ^ stream(*flipped))
            shares.append([(changed >> b & 1).mean() for b in range(32)])
        check_fair(np.array(shares), trials)


def test_streams_of_nearby_keys_agree_in_half_of_their_bits():
    streams = [words(seed, 1 << 16) for seed in range(6)]
    for a in range(6):
        for b in range(a):
            for lag in (0, 1):
                apart = streams[a][lag:] ^ streams[b][: streams[b].size - lag]
                shares = np.array([(apart >> bit & 1).mean() for bit in range(32)])
                check_fair(shares, apart.size)


def test_rounding_is_unbiased_to_a_multiple_of_two_to_the_minus_24():
    key = jax.random.key(3)
    for fraction in (2.0**-20, 1e-3, 0.3, 0.999):
        t = jnp.full(N, 5 + fraction, jnp.float32)
        exact = float(t[0]) - 5
        up = np.asarray(noise.bernoulli_round(key, t), np.float64) - 5
        assert set(np.unique(up)) <= {0.0, 1.0}
        # Bernstein for N draws of variance v below `exact`.
        log = np.log(2e9)
        slack = np.sqrt(2 * exact * (1 - exact) * log / N) + 2 * log / (3 * N)
        assert abs(up.mean() - exact) <= slack + 2.0**-24
    # The dither itself has the 24 bits that the bias is bounded by.
    u = np.asarray(noise.uniform(key, (N,)), np.float64) * 2**24
    np.testing.assert_array_equal(u, np.round(u))
    assert u.max() < 2**24
    assert len(np.unique(u)) > 0.9 * N  # N**2 / 2**25 collisions are expected


@pytest.mark.parametrize("n", [1, 31, 32, 33, 128, 4097])
def test_signs_on_a_tpu_are_the_same(n: int):
    key = jax.random.key(n)
    there = as_on_tpu(lambda key: noise.signs(key, n))(key)
    np.testing.assert_array_equal(there, noise.signs(key, n))
