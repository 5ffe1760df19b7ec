"""Masks and noise inside jit, against the host's."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.privacy.discrete import gaussian_table
from fedjax_comp.privacy.distributed import bounded_rounding
from fedjax_comp.privacy.traced_masks import left_over, mask_of, modulus_mask
from fedjax_comp.privacy.traced_noise import (
    client_noise,
    discrete_gaussian_in_jit,
    round_bounded_in_jit,
)

KEY = jax.random.key(7)


@pytest.mark.parametrize("bits", [1, 8, 31, 32])
def test_masks_cancel_whoever_agrees_and_sends(bits):
    """All 27 ways in which three clients stay away, leave, or send."""
    mask = jax.jit(lambda i, agreed: mask_of(KEY, i, agreed, 4, bits=bits))
    left = jax.jit(lambda sent, agreed: left_over(KEY, sent, agreed, 4, bits=bits))
    for ways in itertools.product((0, 1, 2), repeat=3):
        agreed, sent = jnp.array(ways) > 0, jnp.array(ways) == 2
        total = jnp.zeros(4, jnp.uint32)
        for i in np.flatnonzero(sent):
            total += mask(jnp.int32(i), agreed)
        rest = (total - left(sent, agreed)) & modulus_mask(bits)
        assert not rest.any(), ways


def test_rounds_have_masks_of_their_own():
    everyone = jnp.ones(3, bool)
    masks = [
        mask_of(jax.random.key(k), jnp.int32(i), everyone, 8, bits=32)
        for k in range(2)
        for i in range(3)
    ]
    assert len(np.unique(np.stack(masks))) == 48


@pytest.mark.parametrize("stddev", [0.6, 3.0, 700.0])
def test_words_invert_the_host_s_table(stddev):
    """The number drawn is that of `searchsorted` on the same 63 bits."""
    drawn = discrete_gaussian_in_jit(KEY, 5000, stddev=stddev)
    high, rest = np.asarray(jax.random.bits(KEY, (2, 5000), jnp.uint32), np.uint64)
    words = (high >> np.uint64(1)) << np.uint64(32) | rest
    low, thresholds = gaussian_table(stddev)
    expected = low + np.searchsorted(thresholds, words, side="right")
    np.testing.assert_array_equal(drawn, expected)


def test_rounding_keeps_its_bound_and_is_unbiased():
    """A vector all of halves, whose rounding is longest, at a tight bound."""
    n, step = 64, 0.25
    rounding = bounded_rounding(clip=1.0, step=step, n=n)
    x = jnp.full(n, 1.0 / math.sqrt(n))  # half a step each
    keys = jax.random.split(KEY, 400)
    drawn = jax.jit(jax.vmap(lambda key: round_bounded_in_jit(key, x, rounding)))(keys)
    norms = np.linalg.norm(np.asarray(drawn, np.float64), axis=1)
    assert norms.max() <= rounding.bound
    assert set(np.unique(drawn)) == {0, 1}
    # Hoeffding over 400 x 64 coins, false alarm below 1e-6, and the bias of drawing
    # again what was too long, which is towards zero.
    mean = float(np.mean(drawn))
    assert 0.5 - 0.06 < mean < 0.5 + math.sqrt(math.log(2e6) / (2 * drawn.size))


def test_what_is_not_finite_is_rounded_to_zeros():
    rounding = bounded_rounding(clip=1.0, step=0.1, n=3)
    x = jnp.array([1.0, jnp.nan, jnp.inf])
    assert not round_bounded_in_jit(KEY, x, rounding).any()


def test_noise_mistakes():
    for own, expected in (
        ({"clip": 0.0}, "clip=0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1"),
        ({"noise_multiplier": 1e9}, "smaller noise_multiplier"),
        ({"fewest": 0}, "fewest=0"),
    ):
        given = {"clip": 1.0, "noise_multiplier": 1.0, "fewest": 3, "n": 9, **own}
        with pytest.raises(ValueError, match=expected):
            client_noise(**given)


def test_rounding_lengthens_the_bound_by_as_little_as_is_said():
    for n in (*range(1, 1000, 5), 4000, 10**5, 10**7):
        noise = client_noise(clip=1.0, noise_multiplier=1.0, fewest=9, n=n)
        longer = noise.rounding(n).bound * noise.step - 1
        assert longer < (1 / 400 if n < 4000 else 1 / 1000)
