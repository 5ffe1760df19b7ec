"""Noise under masks: bounded vectors, exact sums, the variance that was asked for."""

import math
import os

import numpy as np
import pytest

from fedjax_comp.privacy.discrete import discrete_gaussian, skellam
from fedjax_comp.privacy.distributed import (
    bits_for_noise,
    bounded_rounding,
    private_sum,
    round_bounded,
)
from fedjax_comp.privacy.messages import secure_setting
from fedjax_comp.privacy.secure_sum import Step


@pytest.mark.parametrize("step", [0.001, 0.1, 2.0])
@pytest.mark.parametrize("size", [0.0, 0.3, 100.0])
def test_integers_are_never_longer_than_the_bound(step, size):
    """The sensitivity of everything that follows, at any size of step and vector."""
    n = 64
    rounding = bounded_rounding(clip=1.0, step=step, n=n)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=n)
        x *= size / np.linalg.norm(x)
        drawn = round_bounded(os.urandom, x, rounding)
        assert np.linalg.norm(drawn) <= rounding.bound
        clipped = x * min(1.0, 1.0 / max(size, 1.0))
        assert np.max(np.abs(drawn * step - clipped)) <= step


def test_what_is_too_long_is_drawn_again():
    """Without drawing again two in three would be too long."""
    rounding = bounded_rounding(clip=20.0, step=1.0, n=64)._replace(bound=20.2)
    x = np.full(64, 2.5)
    for _ in range(20):
        drawn = round_bounded(os.urandom, x, rounding)
        assert np.linalg.norm(drawn) <= 20.2
        assert set(drawn.tolist()) == {2, 3}  # a draw, and not what is left without


def test_the_bound_is_near_the_clip_for_a_fine_step():
    fine = bounded_rounding(clip=1.0, step=1e-6, n=100)
    assert fine.bound == pytest.approx(1e6, rel=1e-3)
    coarse = bounded_rounding(clip=1.0, step=10.0, n=100)
    assert coarse.bound <= 0.1 + 10


def test_a_coarse_bound_is_kept_even_when_no_draw_will_do():
    rounding = bounded_rounding(clip=1.0, step=1.0, n=4)._replace(bound=0.5)
    drawn = round_bounded(os.urandom, np.full(4, 0.4), rounding)
    assert not drawn.any()


@pytest.mark.parametrize("kind", ["skellam", "discrete_gaussian"])
def test_the_noisy_sum_under_masks_and_drop_outs(kind):
    """Mean: six sigmas of noise and rounding. Variance: of survivors alone."""
    n, clip, step, variance = 4096, 1.0, 1e-3, 900.0
    samplers = {
        "skellam": lambda b, n: skellam(b, n, variance=variance),
        "discrete_gaussian": lambda b, n: discrete_gaussian(
            b, n, stddev=math.sqrt(variance)
        ),
    }
    rounding = bounded_rounding(clip=clip, step=step, n=n)
    bits = bits_for_noise(rounding, 4, math.sqrt(variance))
    setting = secure_setting(parties=4, threshold=3, n=n, bits=bits, tag=b"dp")
    rng = np.random.default_rng(1)
    vectors = [v / np.linalg.norm(v) * 0.9 for v in rng.normal(size=(4, n))]
    total, result = private_sum(
        os.urandom, setting, vectors, rounding, samplers[kind], drops={2: Step.MASK}
    )
    assert result.summed == (0, 1, 3)
    noise = (total - (vectors[0] + vectors[1] + vectors[3])) / step
    expected = 3 * variance
    assert abs(noise.mean()) < 6 * math.sqrt((expected + 1) / n)
    # Rounding adds up to 3/4; the variance of a mean of squares is some 2 v^2 / n.
    assert abs(noise.var() / expected - 1) < 6 * math.sqrt(2.1 / n) + 1 / expected


def test_mistakes():
    for arguments, message in (
        ({"clip": 0.0}, "clip"),
        ({"step": -1.0}, "step"),
        ({"n": 0}, "n=0"),
        ({"bias": 1.0}, "bias"),
    ):
        with pytest.raises(ValueError, match=message):
            bounded_rounding(**{"clip": 1.0, "step": 0.1, "n": 3, **arguments})
    rounding = bounded_rounding(clip=1.0, step=0.1, n=3)
    with pytest.raises(ValueError, match="n=3"):
        round_bounded(os.urandom, np.zeros(2), rounding)
    with pytest.raises(ValueError, match="drop out"):
        round_bounded(os.urandom, np.full(3, np.nan), rounding)
    with pytest.raises(ValueError, match="64 bits"):
        bits_for_noise(bounded_rounding(clip=1e20, step=1e-3, n=1), 10, 1.0)
