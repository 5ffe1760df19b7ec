"""SCAFFOLD: control variates remove the client drift of local training.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh 2020, "SCAFFOLD: stochastic controlled
averaging for federated learning", algorithm 1 with option II. When local training is
SGD, its `(x - y_i) / (K eta) + c_i - c` is the mean of the gradients on the way. That
mean is computed directly here, so that any local optimizer will do. Compressed messages
and weights by numbers of examples are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
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
from fedjax_comp.client.corrections import mean_gradient, shifted, summed
from fedjax_comp.client.sgd import Learner, local_steps, refuse_schedules
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import all_finite, where


class Controlled(NamedTuple):
    """The server's model and `c`, or what changed of both at a client."""

    params: PyTree
    control: PyTree


class ServerState(NamedTuple):
    """The server's model, its control variate, and the memory of its downlink."""

    model: Model
    control: PyTree
    downlink: LinkState


class ClientState(NamedTuple):
    """A client's control variate `c_i` and the memory of its uplink."""

    control: PyTree
    uplink: LinkState


def scaffold(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    population: int,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging whose clients correct every gradient by `c - c_i`.

        y_i <- optimizer(y_i, g_i(y_i) - c_i + c),   S_i times from w
        (dy_i, dc_i) <- C(y_i - w, mean over steps of g_i - c_i)
        w <- w + sum_i p_i dy_i,   c <- c + C / K sum_i p_i dc_i,   c_i <- c_i + dc_i

    with `p_i` the share of a client in the examples of the `C` that counted. A client
    adds to `c_i` what the server decodes, so that `c` stays the mean of all `c_i` where
    clients have equally many examples, even when a compressor is lossy. A client
    without a step has no gradient: it is silent and keeps its `c_i`.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      population: `K`.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of both differences together; `identity()` when None.
      downlink: compressor of model and control variate together.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. Every message is twice as long
      as FedAvg's.

    Raises:
      ValueError: for a `population` below one and a client optimizer with a schedule;
        from `init` for a downlink whose receiver has memory; from a round for a cohort
        larger than the population.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = scaffold(task, client_optimizer=optax.sgd(0.1), population=100)
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(server.control))
    650
    """
    checks.integer("population", population, minimum=1)
    refuse_schedules(client_optimizer)
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        refuse_schedules(client_optimizer, params)
        nothing = optax.tree.zeros_like(params)
        both = Controlled(params, nothing)
        model = Model(params, update_server.init(params))
        server = ServerState(model, nothing, partly_heard(down, both))
        return server, ClientState(nothing, up.init(both))

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        checks.fits_population(cohort.clients.active.shape[0], population)
        down_key, up_key = jax.random.split(key)
        own = Controlled(server.model.params, server.control)
        said = broadcast(down, make_context(down_key, 0), own, server.downlink)

        def client_fn(
            shared: tuple[Controlled, jax.Array, Examples],
            client: tuple[ClientBatches, ClientState, jax.Array],
        ) -> tuple[tuple[Summand, jax.Array], tuple[ClientState, Sent]]:
            (start, control), up_key, examples = shared
            batches, state, rank = client
            correction = optax.tree.sub(control, state.control)
            optimizer = optax.chain(summed(), shifted(correction), client_optimizer)
            learner, info = local_steps(task, optimizer)(
                Learner(start, optimizer.init(start)), examples, batches
            )
            mean = mean_gradient(learner.optimizer_state[0], info.steps, start)
            change = Controlled(
                optax.tree.sub(learner.params, start),
                optax.tree.sub(mean, state.control),
            )
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                change,
                state.uplink,
                batches=batches._replace(active=batches.active & (info.steps > 0)),
                info=info,
                keep_message=True,
            )
            assert sent.messages is not None  # as they are kept
            followed = optax.tree.add(state.control, sent.messages.used.control)
            counted = summand.update.weight > 0
            follows = counted & all_finite(followed)
            kept = ClientState(where(follows, followed, state.control), link)
            if not keep_messages:
                sent = sent._replace(messages=None)
            return (summand, counted.astype(jnp.float32)), (kept, sent)

        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        (total, heard), (states, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples), (cohort.clients, clients, ranks)
        )
        mean: Controlled = weighted_mean(total.update)
        stepped, beyond = step_towards(
            update_server, server.model, mean.params, total.update.weight > 0
        )
        moved = jax.tree.map(
            lambda c, d: c + (heard / population).astype(c.dtype) * d.astype(c.dtype),
            server.control,
            mean.control,
        )
        refused = beyond | ~all_finite(moved)
        info = round_info(
            total,
            sent,
            said.traffic(cohort.clients.active, ids),
            said.messages(cohort.clients.active.any()) if keep_messages else None,
            refused,
        )
        before = server.model, server.control
        model, control = where(refused, before, (stepped, moved))
        states = states._replace(
            control=where(refused, clients.control, states.control)
        )
        link = said.link_after(server.downlink, cohort.clients.active)
        return ServerState(model, control, link), states, info

    return Algorithm(init, run_round, params=lambda server: server.model.params)
