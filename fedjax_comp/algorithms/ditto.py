"""Ditto: every client also trains a model of its own, kept near the common one.

Li, Hu, Beirami and Smith 2021, "Ditto: fair and robust federated learning through
personalization" (arXiv 2012.04221), algorithm 1 with FedAvg as its global part. The
client's own model is never sent, so a round costs what FedAvg's does. Compressed
messages are ours: a client's own model is pulled towards the common model as the client
decoded it.
"""

import math
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
from fedjax_comp.client.corrections import pulled
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """The common model and the memory of its downlink."""

    model: Model
    downlink: LinkState


class ClientState(NamedTuple):
    """A client's own model and the memory of its uplink."""

    own: PyTree
    uplink: LinkState


def ditto(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    pull: float,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging, and a model `v_i` of its own for every client.

        w_i <- optimizer steps on client i's loss from w,   w <- mean as in `fed_avg`
        v_i <- optimizer(v_i, gradient of the loss at v_i + pull * (v_i - w))

    Both lines use the same batches, so that a round trains twice. With a pull of 0
    `v_i` depends on the client alone; a large pull makes it the common model.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer of both models, started afresh each round.
      pull: the paper's lambda, at least 0.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the common model; its receiver has no memory.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. `params` is the common model,
      `personal` that of a client.

    Raises:
      ValueError: for a pull that is negative or not finite; from `init` for a downlink
        whose receiver has memory.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = ditto(task, client_optimizer=optax.sgd(0.1), pull=0.1)
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.personal(server, client)))
    650
    """
    if not (math.isfinite(pull) and pull >= 0):
        raise ValueError(f"Expected a finite pull={pull} >= 0.")
    update_server = given_server_optimizer(server_optimizer)
    down = given("downlink", downlink)
    up = given("uplink", uplink)
    run_cohort = given_execution(execution)
    common = update_and_send(
        local_sgd(task, client_optimizer), up, keep_messages=keep_messages
    )

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        model = Model(params, update_server.init(params))
        server = ServerState(model, partly_heard(down, params))
        return server, ClientState(params, up.init(params))

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        params = server.model.params
        said = broadcast(down, make_context(down_key, 0), params, server.downlink)

        def client_fn(
            shared: tuple[Start, Examples],
            client: tuple[ClientBatches, ClientState, jax.Array],
        ) -> tuple[Summand, tuple[ClientState, Sent]]:
            start, examples = shared
            batches, state, rank = client
            summand, (link, sent) = common(start, examples, batches, state.uplink, rank)
            optimizer = optax.chain(pulled(start.received, pull), client_optimizer)
            own, _ = local_sgd(task, optimizer)(state.own, examples, batches)
            counted = (summand.update.weight > 0) & all_finite(own)
            return summand, (ClientState(where(counted, own, state.own), link), sent)

        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            (Start(said.received, up_key), cohort.examples),
            (cohort.clients, clients, ranks),
        )
        model, refused = step_towards(
            update_server,
            server.model,
            weighted_mean(total.update),
            total.update.weight > 0,
        )
        info = round_info(
            total,
            sent,
            said.traffic(cohort.clients.active, ids),
            said.messages(cohort.clients.active.any()) if keep_messages else None,
            refused,
        )
        # Every client trains twice, the common model and its own.
        info = info._replace(client_steps=2 * info.client_steps)
        link = said.link_after(server.downlink, cohort.clients.active)
        return ServerState(model, link), states, info

    return Algorithm(
        init,
        run_round,
        params=lambda server: server.model.params,
        personal=lambda server, client: client.own,
    )
