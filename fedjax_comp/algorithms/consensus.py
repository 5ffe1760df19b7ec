"""Minibatch SGD without a server: nodes average gradients with their neighbours.

Every node computes the gradient h_i of its part of the minibatch. `R` rounds of
consensus,

    h_i <- h_i + sum_j a_ij (C(h_j) - C(h_i)),

move every h_i towards the mean of all; then each node takes a step along its own h_i.
The weights a_ij are symmetric, so the mean is preserved whatever the compressor C does.

Source: Nokleby, Raja, Bajwa 2020, "Scaling-up distributed processing of data streams
for machine learning" (arXiv 2005.08854), section V (consensus averaging of gradients).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.graphs import Graph, is_connected, metropolis_weights
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    EVERYONE,
    Algorithm,
    Bits,
    ClientBatches,
    Cohort,
    Compressor,
    Ends,
    Examples,
    Execution,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import Learner, LocalInfo, at_rate, mean_loss
from fedjax_comp.wire.accounting import num_bits


class _Gradient(NamedTuple):
    """A node's own gradient, and whether it takes part in this round."""

    value: PyTree
    able: jax.Array


class _Said(NamedTuple):
    """One round of consensus: what every node told its neighbours, `[N, ...]`."""

    bits: Bits
    messages: Messages | None


def consensus_sgd(
    task: Task,
    graph: Graph,
    *,
    rounds: int,
    optimizer: optax.GradientTransformation,
    compressor: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Minibatch SGD on a graph: `R` messages a minibatch each way along every edge.

    All batches of a node in a round form one minibatch. A node that is not active, or
    whose gradient is not finite, is not part of the graph in that round: its neighbours
    add its weight to their own, and its model stays. A node whose step would not be
    finite keeps its model, too. A gradient or step that is not finite counts the node
    as dropped.

    Args:
      task: the model and its loss.
      graph: who talks to whom; node `i` is the client with the `i`-th smallest id of
        the cohort, whatever its order: where all clients take part, client `i`.
      rounds: `R`, rounds of consensus for one minibatch.
      optimizer: of every node.
      compressor: of what a node tells its neighbours, the same to each of them, without
        memory; `identity()` when None.
      execution: how the nodes' gradients are run; `scanned()` when None.
      keep_messages: return every node's messages in `RoundInfo.messages`.

    Returns:
      An `Algorithm` whose server state, the mean of the nodes' models, is known to none
      of them and only evaluated; a client's state is its `Learner`. `neighbours`
      counts a message for every edge, way and round, sent by one client and received by
      another. `observed` has
      `disagreement`, the mean squared distance of a node's gradient estimate to the
      mean of all able nodes.

    Raises:
      ValueError: for a disconnected graph, fewer than one round, and, from `init`, a
        compressor with memory; in a round, for a cohort that is not one client a node.

    >>> import optax
    >>> from fedjax_comp.algorithms.graphs import edges, ring
    >>> task = Task(None, lambda w, e, mask, key: jnp.mean((w - e.y) ** 2), None)
    >>> algorithm = consensus_sgd(task, ring(3), rounds=1, optimizer=optax.sgd(0.5))
    >>> algorithm.init(jax.random.key(0), jnp.array(2.0))[0].item()
    2.0
    >>> consensus_sgd(task, edges(3, [(0, 1)]), rounds=1, optimizer=optax.sgd(0.5))
    Traceback (most recent call last):
    ...
    ValueError: Expected a connected graph: its 3 nodes cannot all hear of each other.
    """
    if not is_connected(graph):
        raise ValueError(
            f"Expected a connected graph: its {graph.num_nodes} nodes cannot all hear "
            "of each other."
        )
    if rounds < 1:
        raise ValueError(f"Expected rounds={rounds} >= 1.")
    link = given("compressor", compressor)
    run_nodes = given_execution(execution)
    weights = metropolis_weights(graph)
    num_nodes = graph.num_nodes

    def init(key: jax.Array, params: PyTree) -> tuple[PyTree, Learner]:
        checks.gradients_alone("consensus_sgd()", params)
        del key
        why = "among neighbours: a node hears them only while it is able."
        checks.memoryless(link, params, why)
        return params, Learner(params, optimizer.init(params))

    def gradient_of(
        examples: Examples, node: tuple[ClientBatches, Learner]
    ) -> tuple[tuple[LocalInfo, jax.Array], _Gradient]:
        batches, learner = node
        rows, mask = batches.rows.reshape(-1), batches.mask.reshape(-1)
        batch: Examples = jax.tree.map(lambda x: x[rows], examples)
        loss, gradient = jax.value_and_grad(task.loss)(
            learner.params, batch, mask, batches.key
        )
        able = batches.active & tree.all_finite(gradient) & jnp.isfinite(loss)
        clean = tree.where(able, gradient, optax.tree.zeros_like(gradient))
        used = jnp.where(able, mask.sum(dtype=jnp.float32), 0)
        info = LocalInfo(
            loss_sum=jnp.where(able, loss.astype(jnp.float32), 0) * used,
            examples_used=used,
            steps=able.astype(jnp.int32),
        )
        return (info, (batches.active & ~able).astype(jnp.int32)), _Gradient(
            clean, able
        )

    def tell(
        key: jax.Array, ids: jax.Array, h: PyTree, able: jax.Array
    ) -> tuple[PyTree, _Said]:
        """What all hear of `h`, leaves `[N, ...]`, and the messages that say it."""
        state = link.init(jax.tree.map(lambda x: x[0], h))
        contexts = jax.vmap(make_context, in_axes=(None, 0))(key, ids)

        def one_node(context: PyTree, own: PyTree) -> tuple[PyTree, PyTree, Bits]:
            payload, _ = link.encode(context, own, state.sender)
            heard, _ = link.decode(context, payload, state.receiver)
            return heard, payload, num_bits(payload)

        heard, payload, bits = jax.vmap(one_node)(contexts, h)
        to_neighbours = Ends(ids, jnp.full_like(ids, EVERYONE))
        messages = Messages(
            contexts, payload, state.receiver, able, to_neighbours, heard
        )
        return heard, _Said(bits, messages if keep_messages else None)

    def run_round(
        key: jax.Array, mean: PyTree, nodes: Learner, cohort: Cohort
    ) -> tuple[PyTree, Learner, RoundInfo]:
        ids = cohort.clients.client_id
        if ids.shape[0] != num_nodes:
            raise ValueError(
                f"Expected a cohort of one client a node, got {ids.shape[0]} for the "
                f"{num_nodes} nodes of the graph."
            )
        (info, dropped), (h, able) = run_nodes(gradient_of)(
            cohort.examples, (cohort.clients, nodes)
        )
        place = jnp.argsort(ids).astype(jnp.int32)
        node = jnp.argsort(place).astype(jnp.int32)
        both = able[:, None] & able[None, :] & ~jnp.eye(num_nodes, dtype=bool)
        across = jnp.asarray(weights, jnp.float32)[node][:, node]
        links = jnp.where(both, across, 0)

        def talk(h: PyTree, round_key: jax.Array) -> tuple[PyTree, _Said]:
            heard, said = tell(round_key, ids, h, able)
            return jax.tree.map(_exchange(links), h, heard), said

        h, said = jax.lax.scan(talk, h, jax.random.split(key, rounds))
        updates, states = jax.vmap(optimizer.update)(
            h, nodes.optimizer_state, nodes.params
        )
        if cohort.clients.rate is not None:
            updates = jax.vmap(at_rate)(updates, cohort.clients.rate)
        stepped = Learner(optax.apply_updates(nodes.params, updates), states)
        sound = able & jax.vmap(tree.all_finite)(stepped)
        nodes = jax.tree.map(
            lambda new, old: jnp.where(tree.along(sound, new), new, old), stepped, nodes
        )
        mean = tree.mean_row(nodes.params)
        spoke, neighbour = _spoken(graph, able, place, node)
        ends = Ends(jnp.broadcast_to(ids, spoke.shape), ids[neighbour])
        round_info = RoundInfo(
            train_loss=mean_loss(info),
            client_steps=info.steps,
            dropped=dropped + jnp.sum(able & ~sound, dtype=jnp.int32),
            traffic={
                "neighbours": Traffic(
                    _every_edge(said.bits, graph.max_degree),
                    jnp.tile(spoke.reshape(-1), rounds),
                    jax.tree.map(lambda x: jnp.tile(x.reshape(-1), rounds), ends),
                )
            },
            observed={"disagreement": Observed(_disagreement(h, able), "mean")},
            messages={},
        )
        if said.messages is not None:
            together: Messages = jax.tree.map(
                lambda x: x.reshape(-1, *x.shape[2:]), said.messages
            )
            told = jnp.tile(spoke.any(0), rounds)
            round_info = round_info._replace(
                messages={"neighbours": together._replace(spoke=told)}
            )
        return mean, nodes, round_info

    return Algorithm(init=init, round=run_round, params=lambda mean: mean)


def _exchange(links: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`h + sum_j a_ij (heard_j - heard_i)` with weights `[N, N]`, leaf by leaf."""

    def exchange(h: jax.Array, heard: jax.Array) -> jax.Array:
        flat = tree.widened(heard.reshape(heard.shape[0], -1))
        across = links.astype(flat.dtype)
        moved = across @ flat - across.sum(1, keepdims=True) * flat
        return (tree.widened(h) + moved.reshape(h.shape)).astype(h.dtype)

    return exchange


def _spoken(
    graph: Graph, able: jax.Array, place: jax.Array, node: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which clients send to their first, second, ... neighbour, and who that is.

    Args:
      graph: of the nodes.
      able: bool `[N]`, of the clients in the cohort's order.
      place: int32 `[N]`, where in the cohort each node's client is.
      node: int32 `[N]`, which node each client is.

    Returns:
      Bool and int32 `[degree, N]`, in the cohort's order and of places in it.
    """
    slots, neighbours = [], []
    for slot in range(graph.max_degree):
        has = [len(near) > slot for near in graph.neighbours]
        to = [near[slot] if len(near) > slot else 0 for near in graph.neighbours]
        neighbours.append(place[jnp.asarray(to, jnp.int32)[node]])
        slots.append(jnp.asarray(has)[node] & able & able[neighbours[-1]])
    return jnp.stack(slots), jnp.stack(neighbours)


def _every_edge(bits: Bits, degree: int) -> Bits:
    """The bits `[R, N]` of all messages, once for each place where they are sent."""

    def spread(array: jax.Array) -> jax.Array:
        rounds, nodes = array.shape
        across = jnp.broadcast_to(array[:, None], (rounds, degree, nodes))
        return across.reshape(-1)

    return Bits(bits.fixed, tuple(map(spread, bits.variable)))


def _disagreement(h: PyTree, able: jax.Array) -> jax.Array:
    count = jnp.maximum(able.sum(dtype=jnp.float32), 1)

    def of_leaf(x: jax.Array) -> jax.Array:
        here = tree.along(able, x)
        mean = jnp.where(here, x, 0).sum(0) / count.astype(x.dtype)
        return jnp.sum(jnp.where(here, x - mean[None], 0).astype(jnp.float32) ** 2)

    leaves = map(of_leaf, jax.tree.leaves(tree.widened(h)))
    return sum(leaves, jnp.zeros((), jnp.float32)) / count
