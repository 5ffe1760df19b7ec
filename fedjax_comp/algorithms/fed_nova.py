"""FedNova: updates are divided by the steps that made them, and scaled back together.

Clients with many examples take many steps and pull the model towards themselves twice,
by their weight and by their steps. Divided by its steps an update is a direction, and
the mean direction is followed as far as the mean number of steps says.

Source: Wang, Liu, Liang, Joshi and Poor 2020, "Tackling the objective inconsistency
problem in heterogeneous federated optimization" (arXiv 2007.07481), equation 6 with
local SGD (a_i a vector of ones).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.client_update import (
    Sent,
    Start,
    Summand,
    round_info,
    update_and_send,
)
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    PyTree,
    RoundInfo,
    Task,
    make_context,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import identity
from fedjax_comp.execution import scanned
from fedjax_comp.server.aggregate import WeightedSum, weighted, weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink."""

    params: PyTree
    downlink: LinkState


def fed_nova(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Normalised averaging.

    With p_i = n_i / sum_j n_j over the cohort and tau_i the steps of client i,

        w <- w + (sum_i p_i tau_i) sum_i p_i C(w_i - w') / tau_i.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round; the steps are a
        fair measure of what it does for plain SGD.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and, per client, the uplink's `LinkState`.

    Raises:
      ValueError: from `init` for a downlink whose receiver has memory.

    >>> from fedjax_comp.keys import make_key
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_nova(task, client_optimizer=optax.sgd(0.1))
    >>> server, _ = algorithm.init(make_key(0), task.init(make_key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    up = identity() if uplink is None else uplink
    down = identity() if downlink is None else downlink
    run_cohort = scanned() if execution is None else execution
    update = update_and_send(
        local_sgd(task, client_optimizer), up, keep_messages=keep_messages
    )

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        del key
        link = partly_heard(down, params)
        return ServerState(params, link), up.init(params)

    def run_round(
        key: jax.Array, server: ServerState, links: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        said = broadcast(
            down, make_context(down_key, 0), server.params, server.downlink
        )

        def client_fn(
            shared: tuple[Start, Examples],
            client: tuple[ClientBatches, LinkState, jax.Array],
        ) -> tuple[tuple[Summand, WeightedSum], tuple[LinkState, Sent]]:
            start, examples = shared
            batches, link, rank = client
            steps = jnp.sum(batches.mask.any(axis=1), dtype=jnp.float32)
            done, (link, sent) = update(
                start, examples, batches, link, rank, scale=1 / jnp.maximum(steps, 1)
            )
            weight = done.update.weight  # 0 for a client that does not count
            return (done, weighted(steps, weight, weight > 0)), (link, sent)

        clients = cohort.clients
        ranks = jnp.arange(clients.active.shape[0], dtype=jnp.int32)
        (total, tau), (links, sent) = run_cohort(client_fn)(
            (Start(said.received, up_key), cohort.examples), (clients, links, ranks)
        )
        direction, steps = weighted_mean(total.update), weighted_mean(tau)
        moved = jax.tree.map(
            lambda w, d: w + (steps * d).astype(w.dtype), server.params, direction
        )
        sound = all_finite(moved)
        info = round_info(
            total,
            sent,
            said.traffic(clients.active, clients.client_id),
            said.messages(clients.active.any()) if keep_messages else None,
            ~sound,
        )
        moved = where(sound, moved, server.params)
        return ServerState(moved, said.link), links, info

    return Algorithm(init, run_round, params=lambda server: server.params)
