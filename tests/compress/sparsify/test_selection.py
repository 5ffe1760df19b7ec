"""Selection without sorting, against NumPy's sort; keyed choices against counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import compress
from fedjax_comp.base import make_context
from fedjax_comp.compress.sparsify import selection
from tests.as_on_tpu import as_on_tpu


def largest_by_sorting(x: np.ndarray, k: int) -> np.ndarray:
    """Largest magnitudes first, of equal ones the first: a stable sort says it."""
    keys = np.abs(x.astype(np.float32)).view(np.uint32).astype(np.int64)
    return np.sort(np.argsort(-keys, kind="stable")[:k])


def hard_vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 1000
    return {
        "gaussian": rng.standard_normal(n),
        "ties": rng.integers(-2, 3, n),
        "zeros": np.zeros(n),
        "constant": np.full(n, -0.1),
        "one_large": np.eye(1, n, 700)[0],
        "close": 1.0 + np.arange(n)[::-1] * 2.0**-23,
        "denormal": rng.standard_normal(n) * 1e-40,
        "all_scales": 10.0 ** rng.uniform(-38, 38, n),
        "infinite": np.where(rng.random(n) < 0.1, np.inf, rng.standard_normal(n)),
        "nan": np.where(rng.random(n) < 0.1, np.nan, rng.standard_normal(n)),
    }


@pytest.mark.parametrize("k", [1, 31, 32, 500, 999, 1000])
def test_largest_indices_equal_a_stable_sort(k: int):
    vectors = {name: x.astype(np.float32) for name, x in hard_vectors().items()}
    batch = jnp.asarray(np.stack(list(vectors.values())))
    found = jax.jit(jax.vmap(lambda x: selection.largest_indices(x, k)))(batch)
    assert found.dtype == jnp.uint32
    for (name, x), indices in zip(vectors.items(), found, strict=True):
        np.testing.assert_array_equal(indices, largest_by_sorting(x, k), err_msg=name)


def test_kth_largest_for_every_k():
    keys = np.array([7, 0, 7, 2**31 - 1, 5, 0, 1 << 20, 5], np.uint32)
    find = jax.jit(selection.kth_largest)
    for k in range(1, len(keys) + 1):
        assert int(find(jnp.asarray(keys), k)) == np.sort(keys)[::-1][k - 1]


@pytest.mark.parametrize("n", [1, 31, 32, 33, 200])
def test_positions_of_marks_equal_flatnonzero(n: int):
    marks = np.random.default_rng(n).random(n) < 0.4
    marks[-1] = True
    where = np.flatnonzero(marks)
    words = selection.pack_marks(jnp.asarray(marks))
    ranks = jnp.arange(len(where), dtype=jnp.int32)
    np.testing.assert_array_equal(selection.positions_of(words, ranks), where)


@pytest.mark.thorough
def test_random_indices_are_distinct_and_inside():
    for n in (1, 2, 7, 64, 65):
        for k in sorted({(n + 1) // 2, n}):
            indices = np.asarray(selection.random_indices(jax.random.key(n), n, k))
            assert indices.shape == (k,)
            assert len(set(indices.tolist())) == k
            assert indices.max() < n


def test_random_indices_choose_every_position_and_pair_alike():
    n, k, trials = 7, 3, 1 << 15
    keys = jax.random.split(jax.random.key(5), trials)
    draw = jax.jit(jax.vmap(lambda key: selection.random_indices(key, n, k)))
    chosen = np.zeros((trials, n))
    np.put_along_axis(chosen, np.asarray(draw(keys), np.int64), 1.0, axis=1)
    # Hoeffding for 49 frequencies: 49 * 2 exp(-2 T t^2) < 1e-7.
    slack = np.sqrt(np.log(49 * 2 / 1e-7) / (2 * trials))
    frequency = chosen.T @ chosen / trials
    singles = np.full(n, k / n)
    assert np.abs(np.diag(frequency) - singles).max() < slack
    pairs = frequency[~np.eye(n, dtype=bool)]
    # Positions are uniform by construction, pairs as far as the permutation mixes.
    assert np.abs(pairs - k * (k - 1) / (n * (n - 1))).max() < 2 * slack


def long_vectors() -> dict[str, np.ndarray]:
    """Of a length at which a sample is looked at first, some misleading."""
    rng = np.random.default_rng(2)
    n = 40_000
    return {
        "gaussian": rng.standard_normal(n),
        "sparse": np.where(rng.random(n) < 0.001, rng.standard_normal(n), 0.0),
        "ties": rng.integers(-2, 3, n),
        "zeros": np.zeros(n),
        "nan": np.where(np.arange(n) == 39_999, np.nan, rng.standard_normal(n)),
    }


@pytest.mark.parametrize("k", [1, 40, 4000])
def test_what_a_sample_tells_changes_nothing(k: int):
    vectors = {name: x.astype(np.float32) for name, x in long_vectors().items()}
    assert selection.sample_size(40_000) > 0
    find = jax.jit(lambda x: selection.largest_indices(x, k))
    batch = jnp.asarray(np.stack(list(vectors.values())))
    mapped = jax.jit(jax.vmap(lambda x: selection.largest_indices(x, k)))(batch)
    for (name, x), row in zip(vectors.items(), mapped, strict=True):
        expected = largest_by_sorting(x, k)
        np.testing.assert_array_equal(find(jnp.asarray(x)), expected, err_msg=name)
        np.testing.assert_array_equal(row, expected, err_msg=name)


@pytest.mark.parametrize("k", [40, 4000])
def test_a_sampled_threshold_keeps_the_largest_and_counts_them(k: int):
    find = jax.jit(lambda x: selection.indices_above_sampled(x, k))
    for name, vector in long_vectors().items():
        x = vector.astype(np.float32)
        indices, count = find(jnp.asarray(x))
        assert (indices.shape, indices.dtype, count.dtype) == ((k,), "uint32", "uint32")
        kept, count = np.asarray(indices[: int(count)]), int(count)
        assert not np.any(indices[count:])
        np.testing.assert_array_equal(kept, np.unique(kept))
        # No magnitude left out is larger than one that was kept.
        left = np.delete(np.abs(x), kept)
        assert count == 0 or not np.any(left > np.abs(x[kept]).min()), name
        if name == "gaussian":
            assert count >= 0.75 * k
        if name == "nan":
            assert 39_999 in kept


def test_the_largest_of_the_largest_for_every_count():
    x = jnp.asarray([1.0, -3.0, 2.0, 3.0, 0.0, 5.0])
    positions = jnp.asarray([0, 1, 2, 3, 5], jnp.uint32)
    find = jax.jit(lambda count: selection.largest_of(x, positions, count))
    for count in range(6):
        indices, values = find(jnp.uint32(count))
        expected = largest_by_sorting(np.asarray(x), count) if count else []
        np.testing.assert_array_equal(indices[:count], expected)
        np.testing.assert_array_equal(
            values[:count], np.asarray(x)[expected] if count else []
        )
        assert not np.any(indices[count:])
        assert not np.any(values[count:])


@pytest.mark.parametrize("name", ["top_k", "random_k", "threshold"])
def test_places_beyond_int32_are_refused(name):
    compressor = getattr(compress, name)(0.001)
    leaf = jax.ShapeDtypeStruct((2**31,), jnp.float32)
    context = make_context(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="2147483648: split it"):
        jax.eval_shape(lambda x: compressor.encode(context, x, ()), leaf)


@pytest.mark.thorough
def test_counting_on_a_tpu_finds_what_histograms_find():
    short = {name: x.astype(np.float32) for name, x in hard_vectors().items()}
    for k in (1, 500, 999):
        find = as_on_tpu(jax.vmap(lambda x, k=k: selection.largest_indices(x, k)))
        found = find(jnp.asarray(np.stack(list(short.values()))))
        for (name, x), indices in zip(short.items(), found, strict=True):
            expected = largest_by_sorting(x, k)
            np.testing.assert_array_equal(indices, expected, err_msg=name)
    long = jnp.asarray(np.stack(list(long_vectors().values())), jnp.float32)
    for function in (selection.largest_indices, selection.indices_above_sampled):
        found = as_on_tpu(jax.vmap(lambda x, f=function: f(x, 4000)))(long)
        here = jax.jit(jax.vmap(lambda x, f=function: f(x, 4000)))(long)
        jax.tree.map(np.testing.assert_array_equal, found, here)


def test_counting_finds_every_threshold_up_to_the_largest_key():
    keys = np.array([7, 0, 7, 2**31 - 1, 5, 0, 1 << 20, 5, 0x7FFFFFF0], np.uint32)
    find = as_on_tpu(selection.kth_largest)
    for k in range(1, len(keys) + 1):
        assert int(find(jnp.asarray(keys), jnp.int32(k))) == np.sort(keys)[::-1][k - 1]
