"""The path found is the best of all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.trellis.viterbi import (
    cheapest_path,
    from_lanes,
    layout,
    to_lanes,
)


@pytest.mark.parametrize("windows, branches", [(8, 2), (16, 4), (4, 2)])
def test_no_path_is_cheaper(windows: int, branches: int):
    steps, lanes = 5, 3
    costs = np.random.default_rng(0).standard_normal((steps, windows, lanes))
    found = cheapest_path(
        lambda at: at,
        jnp.asarray(costs, jnp.float32),
        windows=windows,
        branches=branches,
    )
    best = np.full(lanes, np.inf)
    paths = np.zeros((steps, lanes), int)
    for symbols in itertools.product(range(branches), repeat=steps):
        path, window = [], 0
        for u in symbols:
            window = (window * branches + u) % windows
            path.append(window)
        total = costs[np.arange(steps), path].sum(axis=0)
        paths = np.where(total < best, np.array(path)[:, None], paths)
        best = np.minimum(best, total)
    np.testing.assert_array_equal(found, paths)


@pytest.mark.parametrize("lanes", [None, 1, 3])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
def test_blocks_hold_everything_once_and_little_else(n: int, lanes: int | None):
    form = layout(n, windows=512, block=40, lanes=lanes)
    assert form.steps <= 40
    assert lanes is None or form.lanes <= lanes
    padded = form.groups * form.lanes * form.steps
    assert n <= padded < n + form.groups * form.lanes
    x = jnp.arange(2.0 * n).reshape(n, 2)
    blocks = to_lanes(x, form)
    assert blocks.shape == (form.groups, form.steps, 2, form.lanes)
    np.testing.assert_array_equal(from_lanes(blocks, n), x)
    np.testing.assert_array_equal(blocks[0, :, 0, 0], x[: form.steps, 0])


def test_lanes_do_not_touch_each_other():
    costs = jax.random.normal(jax.random.key(0), (6, 8, 4))

    def path(costs: jax.Array) -> jax.Array:
        return cheapest_path(lambda at: at, costs, windows=8, branches=2)

    alone = [path(costs[:, :, i : i + 1]) for i in range(4)]
    np.testing.assert_array_equal(path(costs), jnp.concatenate(alone, axis=1))
