"""Words on the device hold what the host writes."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.wire.bitstream import BitWriter
from fedjax_comp.wire.words import pack_words


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_words_are_the_bit_stream(width: int, n: int):
    values = np.random.default_rng(n).integers(2**width, size=n, dtype=np.uint64)
    words = pack_words(jnp.asarray(values.astype(np.uint32)), width)
    writer = BitWriter()
    writer.write(values, width)
    written = writer.to_bytes()
    packed = np.asarray(words).astype("<u4").tobytes()
    assert len(packed) == -(-n * width // 32) * 4
    assert packed[: len(written)] == written
    assert not any(packed[len(written) :])


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="Expected width=3, one of"):
        pack_words(jnp.zeros(3, jnp.uint8), 3)
