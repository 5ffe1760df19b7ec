"""Selection without sorting, against NumPy's sort; keyed choices against counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress import selection


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
