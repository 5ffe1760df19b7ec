"""MimeLite: clients step along the server's momentum, which they do not change.

Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich and Suresh 2021, "Breaking the centralized
barrier for cross-device federated learning" (arXiv 2008.03606), algorithm 1 without the
control variates of Mime, with SGD and momentum as its base algorithm. Clients remember
nothing, so it suits populations in which a client takes part only once. Ours: the
gradient at the server's model is the mean over a client's batches of the round;
messages may be compressed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import (
    given,
    given_execution,
    given_server_optimizer,
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
from fedjax_comp.checks import number
from fedjax_comp.client.corrections import mean_gradient, shifted, summed
from fedjax_comp.client.sgd import Learner, local_sgd, local_steps
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import where


class Moving(NamedTuple):
    """The server's model and momentum, or a client's change and gradient."""

    params: PyTree
    momentum: PyTree


class ServerState(NamedTuple):
    """The server's model, its momentum, and the memory of its downlink."""

    model: Model
    momentum: PyTree
    downlink: LinkState


def mime_lite(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    momentum: float = 0.9,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging whose clients step along the server's momentum.

        y_i <- optimizer(y_i, (1 - b) g_i(y_i) + b m),   S_i times from w
        w <- w + sum_i p_i (y_i - w),   m <- b m + (1 - b) sum_i p_i g_i(w)

    with `g_i(w)` the mean gradient over a client's batches at the model it heard and
    `p_i` its share of the examples. A client without a step has no gradient and is
    silent.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, `optax.sgd` in the paper, started afresh
        each round.
      momentum: `b`, in [0, 1).
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of change and gradient together; `identity()` when None.
      downlink: compressor of model and momentum together.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and the uplink's `LinkState`. Every message is
      twice as long as FedAvg's, and a client passes over its batches twice.

    Raises:
      ValueError: for a momentum out of its range; from `init` for a downlink whose
        receiver has memory.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = mime_lite(task, client_optimizer=optax.sgd(0.1))
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(server.momentum))
    650
    """
    kept = number("momentum", momentum, minimum=0.0, below=1.0)
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    watch = optax.chain(summed(), optax.set_to_zero())
    # What stands still sees its running statistics move on when it trains.
    look = local_steps(task._replace(observe=None), watch)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        del key
        nothing = optax.tree.zeros_like(params)
        both = Moving(params, nothing)
        model = Model(params, update_server.init(params))
        return ServerState(model, nothing, partly_heard(down, both)), up.init(both)

    def run_round(
        key: jax.Array, server: ServerState, clients: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        own = Moving(server.model.params, server.momentum)
        said = broadcast(down, make_context(down_key, 0), own, server.downlink)

        def client_fn(
            shared: tuple[Moving, jax.Array, Examples],
            client: tuple[ClientBatches, LinkState, jax.Array],
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            (start, moving), up_key, examples = shared
            batches, link, rank = client
            seen, passed = look(Learner(start, watch.init(start)), examples, batches)
            optimizer = optax.chain(
                optax.scale(1 - kept),
                shifted(jax.tree.map(lambda m: kept * m, moving)),
                client_optimizer,
            )
            local, info = local_sgd(task, optimizer)(start, examples, batches)
            found = Moving(
                optax.tree.sub(local, start),
                mean_gradient(seen.optimizer_state[0], passed.steps, start),
            )
            return send(
                up,
                make_context(up_key, batches.client_id, rank),
                found,
                link,
                batches=batches._replace(active=batches.active & (info.steps > 0)),
                info=info,
                keep_message=keep_messages,
            )

        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        total, (links, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples), (cohort.clients, clients, ranks)
        )
        mean: Moving = weighted_mean(total.update)
        anyone = total.update.weight > 0
        model, refused = step_towards(update_server, server.model, mean.params, anyone)
        moved = jax.tree.map(
            lambda m, g: kept * m + (1 - kept) * g.astype(m.dtype),
            server.momentum,
            mean.momentum,
        )
        info = round_info(
            total,
            sent,
            said.traffic(cohort.clients.active, ids),
            said.messages(cohort.clients.active.any()) if keep_messages else None,
            refused,
        )
        # Once to look and once to train.
        info = info._replace(client_steps=2 * info.client_steps)
        momentum = where(anyone & ~refused, moved, server.momentum)
        link = said.link_after(server.downlink, cohort.clients.active)
        return ServerState(model, momentum, link), links, info

    return Algorithm(init, run_round, params=lambda server: server.model.params)
