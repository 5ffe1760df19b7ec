"""Graphs: their shapes, their weights, and those that are refused."""

import numpy as np
import pytest

from fedjax_comp.algorithms import graphs

GRAPHS = [
    graphs.ring(7),
    graphs.torus(3, 5),
    graphs.expander(16),
    graphs.expander(9, 2, seed=3),
    graphs.complete(4),
    graphs.edges(4, [(0, 1), (1, 2), (1, 3)]),
]


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_average_and_contract(graph):
    weights = graphs.metropolis_weights(graph)
    np.testing.assert_allclose(weights.sum(0), 1)
    np.testing.assert_array_equal(weights, weights.T)
    assert weights.min() >= 0
    assert graphs.is_connected(graph)
    rate = graphs.contraction(graph)
    assert rate < 1
    h = np.random.default_rng(0).normal(size=graph.num_nodes)
    after = np.linalg.matrix_power(weights, 5) @ h
    assert after.mean() == pytest.approx(h.mean())
    bound = rate**5 * np.linalg.norm(h - h.mean())
    assert np.linalg.norm(after - after.mean()) <= bound * (1 + 1e-9)


def test_shapes_of_graphs():
    assert {len(near) for near in graphs.ring(7).neighbours} == {2}
    assert {len(near) for near in graphs.torus(3, 5).neighbours} == {4}
    ring, expander = graphs.ring(64), graphs.expander(64)
    assert graphs.contraction(expander) < graphs.contraction(ring) - 0.05
    # A ring's is known: 1/3 + 2/3 cos(2 pi / N).
    expected = 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 64)
    assert graphs.contraction(ring) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphs.ring(2), "ring"),
        (lambda: graphs.torus(2, 9), "torus"),
        (lambda: graphs.complete(1), "complete"),
        (lambda: graphs.expander(5, 3), "degree=3"),
        (lambda: graphs.expander(5, 6), "degree=6"),
        (lambda: graphs.edges(0, []), "num_nodes=0"),
        (lambda: graphs.edges(3, [(1, 1)]), "edge"),
        (lambda: graphs.edges(3, [(0, 3)]), "edge"),
    ],
)
def test_graphs_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
