"""Rotations of blocks against the matrices that they are, and by what they spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import noise, rotate
from fedjax_comp.compress.transform.rotate_blocks import (
    rotated_blocks,
    side_of,
    unrotated_blocks,
)
from tests.as_on_tpu import as_on_tpu
from tests.compress.transform.test_hadamard import sylvester

KEY = jax.random.key(0)


def as_matrices(x: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """What the module says, block by block and without any of its code but signs."""
    n, h, size = len(x), sylvester(side.bit_length() - 1), side**2
    whole = n // size * size
    left = n > whole
    signs = np.asarray(noise.signs(KEY, whole + size * left), np.float64)
    x = x.astype(np.float64).copy()
    if left:
        window = (x[n - size :] * signs[whole:]).reshape(side, side)
        x[n - size :] = (h @ window @ h).reshape(-1)
    count = whole // size
    blocks = np.zeros((side, count, side))
    for t in range(count):
        place = np.array(
            [[(j * count + t) * side + k for k in range(side)] for j in range(side)]
        )
        blocks[:, t, :] = h @ (x[place] * signs[place]) @ h
    return blocks, x[whole:]


@pytest.mark.parametrize("side, n", [(2, 4), (2, 23), (4, 16), (4, 95), (8, 300)])
def test_blocks_are_multiplied_by_hadamard_matrices(side: int, n: int):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    blocks, rest = jax.jit(rotated_blocks, static_argnums=2)(KEY, jnp.asarray(x), side)
    expected, left = as_matrices(x, side)
    np.testing.assert_allclose(blocks, expected, atol=1e-5)
    np.testing.assert_allclose(rest, left, atol=1e-5)
    back = jax.jit(unrotated_blocks, static_argnums=3)(KEY, blocks, rest, side)
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("n", [64, 65, 100, 127])
def test_it_is_orthogonal(n: int):
    def sent(x: jax.Array) -> jax.Array:
        return jnp.concatenate([part.reshape(-1) for part in rotated_blocks(KEY, x, 8)])

    matrix = np.asarray(jax.jit(jax.vmap(sent))(jnp.eye(n)), np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-5)


@pytest.mark.parametrize("side, n", [(8, 200), (16, 1000), (64, 3 * 4096 + 5)])
def test_lanes_of_a_tpu_are_the_same_transform(side: int, n: int):
    x = jax.random.normal(jax.random.key(1), (n,))

    def both(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        blocks, rest = rotated_blocks(key, x, side)
        return blocks, rest, unrotated_blocks(key, blocks, rest, side)

    for there, here in zip(as_on_tpu(both)(KEY, x), jax.jit(both)(KEY, x), strict=True):
        np.testing.assert_allclose(there, here, atol=2e-5)


def test_short_leaves_are_rotated_as_one():
    context, x = make_context(KEY, 0), jnp.arange(1.0, 16.0)
    whole, by_blocks = (
        compressor.encode(context, x, ())[0].parts[0]
        for compressor in (rotate(), rotate(block=16))
    )
    np.testing.assert_array_equal(whole, by_blocks)


@pytest.mark.parametrize("block", [-4, 0, 2, 8, 100, 4096.0, 65536])
def test_another_size_is_refused_by_name(block):
    with pytest.raises(ValueError, match=f"block={block}"):
        rotate(block=block)
    assert [side_of(4**p) for p in range(1, 8)] == [2, 4, 8, 16, 32, 64, 128]
