"""FetchSGD: clients send count sketches, the server remembers in the sketch.

Source: Rothchild et al. 2020, "FetchSGD: Communication-Efficient Federated Learning
with Sketching" (arXiv 2007.07682), Algorithm 1. Momentum and error memory are linear,
so both live in the sketch at the server, and clients that speak once need no memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree
from fedjax_comp.algorithms.client_update import one_message
from fedjax_comp.base import (
    Algorithm,
    Bits,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    Messages,
    PyTree,
    RoundInfo,
    Task,
    Traffic,
    fold_context,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo, local_sgd
from fedjax_comp.compress import flattened, identity
from fedjax_comp.compress.sketch import count_sketch, sketch, unsketch
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.execution import scanned
from fedjax_comp.server.aggregate import WeightedSum, weighted, weighted_mean
from fedjax_comp.wire.accounting import broadcast_traffic, num_bits


class ServerState(NamedTuple):
    """The server's model and its memory.

    Attributes:
      params: the model.
      hash_seed: how all rounds hash, uint32 scalar: sums over rounds need one hash.
      momentum: sketch of the momentum, float32 `[rows, columns]`.
      owed: sketch of what was not applied yet, float32 `[rows, columns]`.
    """

    params: PyTree
    hash_seed: jax.Array
    momentum: jax.Array
    owed: jax.Array


class _Shared(NamedTuple):
    received: PyTree
    hash_key: jax.Array
    examples: Examples


class _Summand(NamedTuple):
    sketch: WeightedSum
    info: LocalInfo
    dropped: jax.Array


class _Sent(NamedTuple):
    bits: Bits
    spoke: jax.Array
    messages: Messages | None


def fetch_sgd(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    rows: int,
    columns: int,
    k: int,
    momentum: float = 0.9,
    learning_rate: float = 1.0,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """FetchSGD: add sketches, apply the heaviest coordinates, keep the rest.

    With S the sketch, U its inverse estimate and d_i what client i's model moved by,

        s_u <- momentum s_u + sum_i n_i S(d_i) / sum_i n_i,
        s_e <- s_e + learning_rate s_u,
        D = top-k of U(s_e),   s_e <- s_e - S(D),   w <- w + D.

    A client whose update is not finite stays silent and is in `RoundInfo.dropped`.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round; one step of
        `optax.sgd` makes d_i a gradient, as in the paper.
      rows: of the sketch, at least 1.
      columns: of the sketch; `rows * columns` must be below the model's size `n`.
      k: coordinates of the model that move in a round, in `[1, n]`.
      momentum: rho, in [0, 1).
      learning_rate: eta, above 0.
      downlink: compressor of the model that is broadcast; `identity()` when None. It
        must have no memory. (The paper counts only the coordinates that changed since
        a client last listened.)
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState`; clients remember nothing. Its uplink is
      `flattened(count_sketch(rows=rows, columns=columns))`.

    Raises:
      ValueError: for a number out of its range; from `init` for a sketch that is no
        smaller than the model, for more than `n` coordinates, or for a downlink with
        memory.

    >>> import jax, optax
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fetch_sgd(
    ...     task, client_optimizer=optax.sgd(0.1), rows=3, columns=50, k=20
    ... )
    >>> params = task.init(jax.random.key(1))
    >>> algorithm.init(jax.random.key(0), params)[0].owed.shape
    (3, 50)
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"Expected momentum={momentum} in [0, 1).")
    if not 0.0 < learning_rate < float("inf"):
        raise ValueError(f"Expected a finite learning_rate={learning_rate} > 0.")
    if k < 1:
        raise ValueError(f"Expected k={k} >= 1.")
    up = flattened(count_sketch(rows=rows, columns=columns))
    down = identity() if downlink is None else downlink
    run_cohort = scanned() if execution is None else execution
    train_locally = local_sgd(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        n = tree.size(params)
        if rows * columns >= n:
            raise ValueError(
                f"Expected rows * columns = {rows * columns} below the model's size "
                f"n={n}: a larger sketch saves nothing."
            )
        if k > n:
            raise ValueError(f"Expected k={k} of the model's n={n} coordinates.")
        if jax.tree.leaves(down.init(params)):
            raise ValueError("Expected a downlink without memory.")
        zeros = jnp.zeros((rows, columns), jnp.float32)
        server = ServerState(
            params, jax.random.bits(key, (), jnp.uint32), zeros, zeros.copy()
        )
        return server, LinkState(sender=(), receiver=())

    def apply_heaviest(server: ServerState, mean: jax.Array) -> ServerState:
        # Leaf 0 of the one vector that `flattened` hands to the sketch.
        hash_key = jax.random.key(server.hash_seed)
        key = fold_context(make_context(hash_key, 0), 0).round_key
        velocity = momentum * server.momentum + mean
        owed = server.owed + learning_rate * velocity
        leaves, structure = jax.tree.flatten(server.params)
        n = tree.size(leaves)
        estimate = unsketch(key, owed, n)
        heaviest = selection.largest_indices(estimate, k)
        applied = jnp.zeros(n).at[heaviest].set(estimate[heaviest])
        owed = owed - sketch(key, applied, rows=rows, columns=columns)
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        step = jax.tree.unflatten(structure, tree.unravel(applied, shapes))
        params = jax.tree.map(jnp.add, server.params, step)
        return ServerState(params, server.hash_seed, velocity, owed)

    def run_round(
        key: jax.Array,
        server: ServerState,
        clients: LinkState,
        cohort: Cohort,
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_context = make_context(key, 0)
        down_state = down.init(server.params)
        broadcast, _ = down.encode(down_context, server.params, down_state.sender)
        received, _ = down.decode(down_context, broadcast, down_state.receiver)

        def client_fn(
            shared: _Shared, batches: ClientBatches
        ) -> tuple[_Summand, _Sent]:
            local, info = train_locally(shared.received, shared.examples, batches)
            delta = optax.tree.sub(local, shared.received)
            healthy = tree.all_finite(delta)
            context = make_context(shared.hash_key, batches.client_id)
            payload, _ = up.encode(context, delta, ())
            speaks = batches.active & healthy
            # Finite coordinates may still add up to infinity in a sketch.
            counts = speaks & tree.all_finite(payload)
            (table,) = jax.tree.leaves(payload)
            weight = batches.num_examples.astype(jnp.float32)
            summand = _Summand(
                sketch=weighted(table, weight, counts),
                info=tree.where(speaks, info, optax.tree.zeros_like(info)),
                dropped=(batches.active & ~counts).astype(jnp.int32),
            )
            kept = Messages(context, payload, (), speaks) if keep_messages else None
            return summand, _Sent(num_bits(payload), speaks, kept)

        shared = _Shared(received, jax.random.key(server.hash_seed), cohort.examples)
        total, sent = run_cohort(client_fn)(shared, cohort.clients)
        moved = apply_heaviest(server, weighted_mean(total.sketch))
        anyone = total.sketch.weight > 0
        kept_state = jax.tree.map(
            lambda new, old: jnp.where(anyone, new, old), moved, server
        )
        active = cohort.clients.active
        info = RoundInfo(
            train_loss=total.info.loss_sum / jnp.maximum(total.info.examples_used, 1),
            client_steps=total.info.steps,
            dropped=total.dropped,
            uplink=Traffic(sent.bits, sent.spoke),
            downlink=broadcast_traffic(broadcast, active),
            observed={},
            messages={},
        )
        if keep_messages:
            spoken = one_message(
                down_context, broadcast, down_state.receiver, active.any()
            )
            info = info._replace(messages={"uplink": sent.messages, "downlink": spoken})
        return kept_state, clients, info

    return Algorithm(init=init, round=run_round, params=lambda server: server.params)
