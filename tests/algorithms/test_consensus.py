"""Consensus on graphs: the weights, the limit cases, and what is counted."""

import jax
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import graphs
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.stream_minibatch import minibatch_sgd
from fedjax_comp.compress import error_feedback, qsgd, top_k
from fedjax_comp.wire.traffic import totals
from tests.algorithms.test_scaffold import (
    CURVES,
    RATE,
    SIZE,
    TARGETS,
    largest,
    weighing,
)
from tests.problems import make_cohort, quadratics, softmax_task, stack_clients


def make(graph, rounds, **options):
    return consensus_sgd(
        softmax_task(), graph, rounds=rounds, optimizer=optax.sgd(0.3), **options
    )


def one_round(algorithm, cohort, nodes=None, key=0):
    server, template = algorithm.init(
        jax.random.key(1), softmax_task().init(jax.random.key(0))
    )
    if nodes is None:
        nodes = stack_clients(template, cohort.clients.client_id.shape[0])
    return jax.jit(algorithm.round)(jax.random.key(key), server, nodes, cohort)


def test_a_complete_graph_is_exact_averaging():
    cohort = make_cohort([4, 4, 4, 4], batch_size=4)
    mean, nodes, info = one_round(make(graphs.complete(4), 1), cohort)
    exact = minibatch_sgd(softmax_task(), optimizer=optax.sgd(0.3))
    server, _, _ = one_round(exact, cohort)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        mean,
        exact.params(server),
    )
    # Everybody has the same model, and nothing is left to agree on.
    for leaf in jax.tree.leaves(nodes.params):
        np.testing.assert_allclose(leaf[0], leaf[3], rtol=1e-5, atol=1e-6)
    assert float(info.observed["disagreement"].value) < 1e-10
    assert totals(info.traffic).uplink_messages == 12
    assert totals(info.traffic).uplink_bytes == 12 * 18 * 4


def test_many_rounds_approach_it_and_the_mean_is_exact_from_the_first():
    cohort = make_cohort([3] * 6, batch_size=3)
    exact = minibatch_sgd(softmax_task(), optimizer=optax.sgd(0.3))
    expected = exact.params(one_round(exact, cohort)[0])
    before = np.inf
    for rounds in (1, 6, 30):
        mean, _, info = one_round(make(graphs.ring(6), rounds), cohort)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            mean,
            expected,
        )
        # Two ways, six edges.
        assert totals(info.traffic).uplink_messages == 12 * rounds
        now = float(info.observed["disagreement"].value)
        assert now < before / 4
        before = now


def test_compressed_messages_keep_the_mean_too():
    cohort = make_cohort([3] * 5, batch_size=3)
    graph = graphs.ring(5)
    plain, _, _ = one_round(make(graph, 3), cohort)
    coarse, _, info = one_round(make(graph, 3, compressor=qsgd(3)), cohort)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        coarse,
        plain,
    )
    assert totals(info.traffic).uplink_messages == 3 * 10
    assert totals(info.traffic).uplink_bytes < 3 * 10 * 18 * 4 / 2


def test_it_is_its_recursion_in_numpy():
    """Lossy messages, nodes that are away, optimizers with momentum."""
    pairs = [(0, 1), (1, 2)]
    algorithm = consensus_sgd(
        quadratics(SIZE),
        graphs.edges(3, pairs),
        rounds=2,
        optimizer=optax.sgd(RATE, momentum=0.5),
        compressor=top_k(k=2),
    )
    server, node = algorithm.init(jax.random.key(0), quadratics(SIZE).init(None))
    nodes, step = stack_clients(node, 3), jax.jit(algorithm.round)
    # Metropolis: one over one more than the larger degree, which is that of node 1.
    weights = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 3
    models, velocity = np.zeros((3, SIZE)), np.zeros((3, SIZE))
    for i, away in enumerate([None, 2, None, 0, None]):
        here = np.arange(3) != away
        server, nodes, _ = step(
            jax.random.key(i), server, nodes, weighing([1, 1, 1], here)
        )
        h = np.where(here[:, None], CURVES[:, None] * (models - TARGETS), 0)
        links = weights * np.outer(here, here)
        for _ in range(2):
            heard = largest(h, 2)
            h = h + links @ heard - links.sum(axis=1)[:, None] * heard
        velocity = np.where(here[:, None], h + 0.5 * velocity, velocity)
        models = models - RATE * velocity * here[:, None]
        got = nodes.params["w"]
        np.testing.assert_allclose(got, models, rtol=1e-4, atol=1e-5)
        mean = models.mean(axis=0)
        np.testing.assert_allclose(server["w"], mean, rtol=1e-4, atol=1e-5)


def test_nodes_are_clients_whatever_the_order_of_their_cohort():
    graph, rounds = graphs.edges(5, [(0, 1), (1, 2), (2, 3), (3, 4), (1, 4)]), 2
    algorithm = make(graph, rounds)
    cohort = make_cohort([3, 4, 2, 5, 3], batch_size=5)
    _, nodes, info = one_round(algorithm, cohort)
    # The second round begins with models that differ, so that who hears whom matters.
    order = np.array([3, 0, 4, 2, 1])
    turned = cohort._replace(clients=jax.tree.map(lambda x: x[order], cohort.clients))
    expected = one_round(algorithm, cohort, nodes)
    got = one_round(algorithm, turned, jax.tree.map(lambda x: x[order], nodes))
    for mine, theirs in zip(
        jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True
    ):
        np.testing.assert_allclose(mine, theirs[order], rtol=1e-5, atol=1e-6)
    paths = {(0, 1), (1, 2), (2, 3), (3, 4), (1, 4)}
    for one in (info, got[2], expected[2]):
        sent = one.traffic["neighbours"]
        ends = np.stack([sent.ends.sender, sent.ends.receiver], axis=1)[sent.spoke]
        assert {tuple(sorted(pair)) for pair in ends.tolist()} == paths
        assert len(ends) == 2 * rounds * len(paths)


def test_a_rate_multiplies_every_step():
    algorithm = make(graphs.ring(3), 1)
    cohort = make_cohort([3] * 3, batch_size=3)
    start = softmax_task().init(jax.random.key(0))
    moved = []
    for rate in (1.0, 0.5, 0.0):
        rates = np.full(3, rate, np.float32)
        own = cohort._replace(clients=cohort.clients._replace(rate=rates))
        mean, _, _ = one_round(algorithm, own)
        moved.append(jax.tree.map(lambda a, b: a - b, mean, start))
    jax.tree.map(
        lambda one, half, none: (
            np.testing.assert_allclose(half, one / 2, rtol=1e-4, atol=1e-7),
            np.testing.assert_allclose(none, 0, atol=1e-7),
        ),
        *moved,
    )


def test_mistakes():
    with pytest.raises(ValueError, match="connected graph: its 4 nodes"):
        make(graphs.edges(4, [(0, 1), (2, 3)]), 1)
    with pytest.raises(ValueError, match="rounds=0"):
        make(graphs.ring(3), 0)
    with pytest.raises(ValueError, match="without memory"):
        one_round(
            make(graphs.ring(3), 1, compressor=error_feedback(top_k(0.5))),
            make_cohort([2, 2, 2], 2),
        )
    with pytest.raises(ValueError, match="got 3 for the 4 nodes"):
        one_round(make(graphs.ring(4), 1), make_cohort([2, 2, 2], 2), nodes=())
