"""A table of frequencies is in proportion to the counts, as finely as it can say."""

import numpy as np
import pytest

from fedjax_comp.wire.codes.frequencies import table_frequencies, table_tokens


@pytest.mark.parametrize("m", [1, 2, 4, 7, 10])
def test_frequencies_are_the_rounded_counts_in_proportion(m):
    """One for each that is there, the rest by `(1 + (mantissa + 1/2) / 2**m) 2**e`."""
    counts = np.array([0, 1, 2, 3, 7, 90, 1000, 4097, 30_000, 5, 0], np.uint32)
    starts, frequencies = table_frequencies(*table_tokens(counts, m), m)

    present = counts > 0
    log = np.floor(np.log2(np.maximum(counts, 1)))
    mantissa = np.floor((counts / 2.0**log - 1) * 2**m)
    weight = (1 + (mantissa + 0.5) / 2**m) * 2.0**log * present
    share = (2**14 - present.sum()) * weight / weight.sum()
    # Both ends of an interval are rounded down, and so are weights of 17 bits.
    np.testing.assert_allclose(frequencies, share + present, rtol=1e-3, atol=1)
    np.testing.assert_array_equal(starts, np.cumsum(frequencies) - frequencies)


def test_tokens_are_the_counts_in_binary():
    """The exponent is one more than the logarithm, so that 0 is free for "absent"."""
    counts = np.array([0, 1, 2, 3, 2**31, 2**32 - 1], np.uint32)
    exponents, mantissas = table_tokens(counts, 2)
    assert exponents.tolist() == [0, 1, 2, 2, 32, 32]
    assert mantissas.tolist() == [0, 0, 0, 2, 0, 3]
