"""Arrays read by rows are the arrays, whatever they are read from."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import by_rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "uint8"])
def test_a_file_has_every_bit(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(by_rows, "BLOCK_BYTES", 64)  # of 11 rows a few at a time
    rng = np.random.default_rng(0)
    x = rng.normal(size=(11, 3, 2)).astype(jnp.dtype(dtype))
    source = by_rows.from_array(x)
    assert len(list(source.blocks())) > 1
    digest = by_rows.write(tmp_path / "x", source)
    assert digest == hashlib.sha256(x.tobytes()).hexdigest()
    assert digest == by_rows.sha256(tmp_path / "x")
    found = by_rows.from_file(tmp_path / "x", x.shape, x.dtype)
    assert found.whole().tobytes() == x.tobytes()
    assert found.read(4, 7).tobytes() == x[4:7].tobytes()
    joined = np.concatenate([block for _, block in found.blocks()])
    assert joined.tobytes() == x.tobytes()


def test_scalars_of_clients_are_rows_too(tmp_path):
    many = by_rows.repeated(np.float32(2), 5)
    by_rows.write(tmp_path / "x", many)
    found = by_rows.from_file(tmp_path / "x", (5,), np.dtype(np.float32))
    assert found.whole().tolist() == [2, 2, 2, 2, 2]


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        by_rows.write(tmp_path / "nowhere" / "x", by_rows.repeated(np.ones(2), 3))
