"""FetchSGD: clients send count sketches, and the server's memory is a sketch, too.

Source: Rothchild et al. 2020, "FetchSGD: Communication-Efficient Federated Learning
with Sketching" (arXiv 2007.07682), Algorithm 1. Momentum and error memory are linear,
so the server keeps both as sketches, and clients, who may take part only once, need no
memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Context,
    Examples,
    Execution,
    LinkState,
    PyTree,
    RoundInfo,
    Task,
    fold_context,
    make_context,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import flattened
from fedjax_comp.compress.sketch import count_sketch, sketch, unsketch
from fedjax_comp.compress.sparsify import selection
from fedjax_comp.keys import make_key
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast


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


def sketch_link(*, rows: int, columns: int) -> Compressor:
    """The uplink of `fetch_sgd`: an update goes in, its sketch comes out.

    The server adds sketches up and never decodes a single one, so that what is
    "decoded" here is the table itself, float32 `[rows, columns]`.

    Args:
      rows: hashes of every coordinate.
      columns: counters of each hash.

    Raises:
      ValueError: as `count_sketch`.
    """
    sketched = flattened(count_sketch(rows=rows, columns=columns))

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[jax.Array, PyTree]:
        del context
        (table,) = jax.tree.leaves(payload)
        return table, receiver

    return Compressor(sketched.init, sketched.encode, decode, linear=True)


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
      `sketch_link(rows=rows, columns=columns)`.

    Raises:
      ValueError: for a number out of its range; from `init` for a sketch that is no
        smaller than the model, for more than `n` coordinates, for a downlink with
        memory, or for a model with running statistics.

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
    checks.integer("k", k, minimum=1)
    up = sketch_link(rows=rows, columns=columns)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train_locally = local_sgd(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        checks.gradients_alone("fetch_sgd()", params)
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
        hash_key = make_key(server.hash_seed)
        key = fold_context(make_context(hash_key, 0), 0).round_key
        velocity = momentum * server.momentum + mean
        owed = server.owed + learning_rate * velocity
        leaves, structure = jax.tree.flatten(server.params)
        n = tree.size(leaves)
        estimate = unsketch(key, owed, n)
        heaviest = selection.largest_indices(estimate, k)
        applied = jnp.zeros(n, jnp.float32).at[heaviest].set(estimate[heaviest])
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
        link = down.init(server.params)
        said = broadcast(down, make_context(key, 0), server.params, link)

        def client_fn(shared: _Shared, batches: ClientBatches) -> tuple[Summand, Sent]:
            local, info = train_locally(shared.received, shared.examples, batches)
            summand, (_, sent) = send(
                up,
                make_context(shared.hash_key, batches.client_id),
                optax.tree.sub(local, shared.received),
                LinkState((), ()),
                batches=batches,
                info=info,
                keep_message=keep_messages,
            )
            return summand, sent

        shared = _Shared(said.received, make_key(server.hash_seed), cohort.examples)
        total, sent = run_cohort(client_fn)(shared, cohort.clients)
        moved = apply_heaviest(server, weighted_mean(total.update))
        sound = tree.all_finite(moved)
        stepped = sound & (total.update.weight > 0)
        kept_state = tree.where(stepped, moved, server)
        active = cohort.clients.active
        info = round_info(
            total,
            sent,
            said.traffic(active, cohort.clients.client_id),
            said.messages(active.any()) if keep_messages else None,
            ~sound,
        )
        return kept_state, clients, info

    return Algorithm(init=init, round=run_round, params=lambda server: server.params)
