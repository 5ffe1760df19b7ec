"""Count sketches: linearity, exactness without collisions, and heavy coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import flattened
from fedjax_comp.compress.sketch import count_sketch, mean_of_rows, sketch, unsketch
from fedjax_comp.compress.sparsify.selection import largest_indices

KEY = jax.random.key(4)


def test_the_sketch_is_one_signed_column_a_row_for_every_coordinate():
    matrix = jax.vmap(lambda x: sketch(KEY, x, rows=3, columns=7))(jnp.eye(50))
    assert set(np.unique(matrix)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(np.abs(matrix).sum(axis=2), np.ones((50, 3)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32)
    np.testing.assert_allclose(
        sketch(KEY, x, rows=3, columns=7),
        np.tensordot(np.asarray(x, np.float64), np.asarray(matrix), axes=1),
        atol=1e-5,
    )
    # The mean over rows is the transpose of the sketch, by the number of rows.
    table = jnp.asarray(np.random.default_rng(1).standard_normal((3, 7)), jnp.float32)
    np.testing.assert_allclose(
        unsketch(KEY, table, 50, combine=mean_of_rows),
        np.tensordot(np.asarray(matrix), np.asarray(table), axes=2) / 3,
        atol=1e-6,
    )


@pytest.mark.thorough
def test_columns_and_signs_are_used_evenly():
    n, columns = 60_000, 6
    table = sketch(KEY, jnp.ones(n), rows=4, columns=columns)
    # A sum of n / columns signs: 6 standard deviations are missed with 2e-9 each.
    assert float(jnp.max(jnp.abs(table))) <= 6 * np.sqrt(n / columns * 1.1)
    matrix = jax.vmap(lambda x: sketch(KEY, x, rows=1, columns=2))(jnp.eye(4000))
    share = float(jnp.mean(jnp.abs(matrix[:, 0, 0])))
    assert abs(share - 0.5) <= 6 * 0.5 / np.sqrt(4000)


@pytest.mark.thorough
def test_the_median_finds_heavy_coordinates_where_one_row_does_not():
    rng = np.random.default_rng(5)
    x = 0.01 * rng.standard_normal(2000).astype(np.float32)
    heavy = np.sort(rng.choice(2000, 10, replace=False))
    x[heavy] = 5.0
    table = sketch(KEY, jnp.asarray(x), rows=7, columns=100)
    estimate = unsketch(KEY, table, 2000)
    assert largest_indices(estimate, 10).tolist() == heavy.tolist()
    np.testing.assert_allclose(np.asarray(estimate)[heavy], 5.0, atol=0.5)


def test_leaves_no_larger_than_the_sketch_are_exact_unless_flattened():
    context = make_context(jax.random.key(0), 0)
    tree = {"b": jnp.arange(5.0), "w": jnp.ones((5, 6))}
    alone, together = (
        count_sketch(rows=2, columns=10),
        flattened(count_sketch(rows=2, columns=10)),
    )
    sizes = []
    for compressor in (alone, together):
        payload, _ = compressor.encode(context, tree, ())
        sizes.append([leaf.shape for leaf in jax.tree.leaves(payload)])
        assert compressor.decode(context, payload, ())[0]["b"].shape == (5,)
    assert sizes == [[(5,), (2, 10)], [(2, 10)]]


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="Expected rows=0 >= 1"):
        count_sketch(rows=0, columns=3)
    with pytest.raises(ValueError, match="columns=0"):
        count_sketch(rows=1, columns=0)
