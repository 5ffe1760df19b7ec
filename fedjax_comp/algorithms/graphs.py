"""Graphs of nodes that talk to their neighbours, and weights to average over them.

Weights after Xiao, Boyd 2004, "Fast linear iterations for distributed averaging"
(Metropolis-Hastings); an expander is a union of random cycles through all nodes, which
Friedman 2008 ("A proof of Alon's second eigenvalue conjecture") shows to be nearly the
best there is for its degree, with high probability.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Graph:
    """An undirected graph, as each node's neighbours in ascending order.

    Attributes:
      neighbours: one tuple a node, without the node itself.
    """

    neighbours: tuple[tuple[int, ...], ...]

    @property
    def num_nodes(self) -> int:
        """`N`."""
        return len(self.neighbours)

    @property
    def num_edges(self) -> int:
        """Undirected edges; a message goes each way."""
        return sum(map(len, self.neighbours)) // 2

    @property
    def max_degree(self) -> int:
        """Neighbours of the node that has most."""
        return max(map(len, self.neighbours))


def edges(num_nodes: int, pairs: Iterable[tuple[int, int]]) -> Graph:
    """The graph with these edges.

    Args:
      num_nodes: `N`.
      pairs: ends of the edges; repeated ones count once.

    Returns:
      The graph, connected or not.

    Raises:
      ValueError: for fewer than one node, an edge to nowhere, or one to itself.

    >>> edges(3, [(0, 1), (1, 2)]).neighbours
    ((1,), (0, 2), (1,))
    """
    if num_nodes < 1:
        raise ValueError(f"Expected num_nodes={num_nodes} >= 1.")
    found: list[set[int]] = [set() for _ in range(num_nodes)]
    for a, b in pairs:
        if not (0 <= a < num_nodes and 0 <= b < num_nodes) or a == b:
            raise ValueError(
                f"Expected edge ({a}, {b}) between two of {num_nodes} nodes."
            )
        found[a].add(b)
        found[b].add(a)
    return Graph(tuple(tuple(sorted(near)) for near in found))


def ring(num_nodes: int) -> Graph:
    """Each node between two others.

    Raises:
      ValueError: for fewer than 3 nodes.

    >>> ring(4).neighbours[0]
    (1, 3)
    """
    _check_nodes("ring", num_nodes, 3)
    return edges(num_nodes, [(i, (i + 1) % num_nodes) for i in range(num_nodes)])


def torus(rows: int, columns: int) -> Graph:
    """A grid whose ends meet: four neighbours each.

    Raises:
      ValueError: for fewer than 3 rows or columns.

    >>> torus(3, 4).num_edges
    24
    """
    _check_nodes("torus", min(rows, columns), 3)
    pairs = []
    for i in range(rows):
        for j in range(columns):
            here = i * columns + j
            pairs.append((here, i * columns + (j + 1) % columns))
            pairs.append((here, (i + 1) % rows * columns + j))
    return edges(rows * columns, pairs)


def complete(num_nodes: int) -> Graph:
    """Everybody next to everybody: one round of averaging is exact.

    Raises:
      ValueError: for fewer than 2 nodes.

    >>> complete(4).num_edges
    6
    """
    _check_nodes("complete", num_nodes, 2)
    pairs = [(i, j) for i in range(num_nodes) for j in range(i)]
    return edges(num_nodes, pairs)


def expander(num_nodes: int, degree: int = 4, *, seed: int = 0) -> Graph:
    """Random cycles through all nodes, on top of each other; always connected.

    Args:
      num_nodes: `N`.
      degree: neighbours of a node at most, an even number; where cycles share an edge
        there are fewer.
      seed: of the cycles.

    Returns:
      The graph.

    Raises:
      ValueError: for fewer than 3 nodes, and a degree that is odd or does not fit.

    >>> graph = expander(16)
    >>> graph.num_nodes, graph.max_degree <= 4
    (16, True)
    """
    _check_nodes("expander", num_nodes, 3)
    if degree < 2 or degree % 2 or degree >= num_nodes:
        raise ValueError(f"Expected an even degree={degree} in [2, {num_nodes}).")
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(degree // 2):
        cycle = rng.permutation(num_nodes).tolist()
        pairs += list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    return edges(num_nodes, pairs)


def is_connected(graph: Graph) -> bool:
    """Whether every node can be reached from the first.

    >>> is_connected(ring(5)), is_connected(edges(4, [(0, 1), (2, 3)]))
    (True, False)
    """
    seen, fresh = {0}, [0]
    while fresh:
        fresh = [j for i in fresh for j in graph.neighbours[i] if j not in seen]
        seen.update(fresh)
    return len(seen) == graph.num_nodes


def metropolis_weights(graph: Graph) -> np.ndarray:
    """Symmetric weights that leave the mean as it is, float64 `[N, N]`.

    `a_ij = 1 / (1 + max(deg_i, deg_j))` for neighbours, the rest stays with the node.

    >>> metropolis_weights(ring(3)).round(3).tolist()[0]
    [0.333, 0.333, 0.333]
    """
    degrees = [len(near) for near in graph.neighbours]
    weights = np.zeros((graph.num_nodes, graph.num_nodes))
    for i, near in enumerate(graph.neighbours):
        for j in near:
            weights[i, j] = 1 / (1 + max(degrees[i], degrees[j]))
    return weights + np.diag(1 - weights.sum(1))


def contraction(graph: Graph) -> float:
    """Factor by which a round of averaging shrinks what differs from the mean.

    The second largest absolute eigenvalue of the weights: after `R` rounds
    `||h - mean|| <= contraction^R ||h_0 - mean||`.

    >>> round(contraction(complete(5)), 6), round(contraction(ring(16)), 3)
    (0.0, 0.949)
    """
    values = np.abs(np.linalg.eigvalsh(metropolis_weights(graph)))
    return float(np.sort(values)[-2]) if graph.num_nodes > 1 else 0.0


def _check_nodes(name: str, nodes: int, least: int) -> None:
    if nodes < least:
        raise ValueError(f"Expected {nodes} >= {least} nodes (a side) for {name}.")
