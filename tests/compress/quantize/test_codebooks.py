"""Gaussian codebooks against published distortions and their own fixed point."""

import math

import numpy as np
import pytest

from fedjax_comp.compress.quantize.codebooks import (
    gaussian_cells,
    lloyd_max,
    step_of_entropy,
    uniform_entropy,
)


@pytest.mark.parametrize(
    "bits, published", [(1, 0.36338), (2, 0.11748), (3, 0.034548), (4, 0.009501)]
)
def test_distortions_are_those_of_max(bits: int, published: float):
    # Max (1960), table 1, to the digits printed.
    assert abs(lloyd_max(bits).distortion / published - 1) < 2e-4


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_means_of_their_cells(bits: int):
    book = lloyd_max(bits)
    half = len(book.levels) // 2
    edges = np.concatenate([[0.0], book.boundaries[half:], [np.inf]])
    np.testing.assert_allclose(book.levels[half:], gaussian_cells(edges).mean, 1e-10)
    np.testing.assert_array_equal(book.levels, -book.levels[::-1])
    assert np.all(np.diff(book.levels) > 0)
    # Panter and Dite: sqrt(3) pi / 2 levels^-2 for many levels, never more than that.
    limit = math.sqrt(3) * math.pi / 2 / 4**bits
    assert book.distortion <= limit
    assert bits < 8 or book.distortion > 0.98 * limit


@pytest.mark.parametrize("bits", [0.1, 1.0, 4.0, 8.0])
def test_step_has_the_entropy_asked_for(bits: float):
    assert abs(uniform_entropy(step_of_entropy(bits)) - bits) < 1e-8


def test_fine_steps_have_the_differential_entropy():
    # H = h - log2(step) + step^2 / (24 ln 2), h = log2(2 pi e) / 2: the density of a
    # sum with uniform noise of one step has that variance more.
    step = 2.0**-5
    expected = math.log2(2 * math.pi * math.e) / 2 + 5 + step**2 / (24 * math.log(2))
    assert abs(uniform_entropy(step) - expected) < 1e-6
