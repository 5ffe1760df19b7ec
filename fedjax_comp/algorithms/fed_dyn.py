"""FedDyn: a dynamic penalty makes the clients' optima agree with the server's.

Acar, Zhao, Navarro, Mattina, Whatmough and Saligrama 2021, "Federated learning based on
dynamic regularization", algorithm 1. Local training stands for a client's exact
minimisation, as in the paper's experiments. Compressed messages and weights by numbers
of examples are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
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
from fedjax_comp.client.corrections import shifted
from fedjax_comp.client.sgd import Learner, local_steps, refuse_schedules
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """The model, `h` (the mean of the clients' `g_i`), and the downlink's memory."""

    params: PyTree
    drift: PyTree
    downlink: LinkState


class ClientState(NamedTuple):
    """A client's `g_i`, its gradient where it last ended, and its uplink's memory."""

    gradient: PyTree
    uplink: LinkState


def fed_dyn(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    population: int,
    alpha: float = 0.1,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging with a penalty of every client's own.

        w_i <- local training on L_i(v) - <g_i, v> + alpha / 2 ||v - w||^2, from w
        d_i <- C(w_i - w),   g_i <- g_i - alpha d_i
        h <- h - alpha C / K sum_i p_i d_i,   w <- w + sum_i p_i d_i - h / alpha

    with `p_i` the share of a client in the examples of the `C` that counted. Both ends
    compute with what was decoded, so that `h` stays the mean of all `g_i` where clients
    have equally many examples.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      population: `K`.
      alpha: strength of the penalty, above 0.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`; messages are FedAvg's.

    Raises:
      ValueError: for an `alpha` that is not above 0 and finite, a `population` below
        one and a client optimizer with a schedule; from `init` for a downlink whose
        receiver has memory and a model with running statistics; from a round for a
        cohort larger than the population.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_dyn(task, client_optimizer=optax.sgd(0.1), population=100)
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(server.drift))
    650
    """
    if not (checks.is_finite(alpha) and alpha > 0):
        raise ValueError(f"Expected a finite alpha={alpha!r} > 0.")
    checks.integer("population", population, minimum=1)
    refuse_schedules(client_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        checks.gradients_alone("fed_dyn()", params)
        refuse_schedules(client_optimizer, params)
        del key
        nothing = optax.tree.zeros_like(params)
        server = ServerState(params, nothing, partly_heard(down, params))
        return server, ClientState(nothing, up.init(params))

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        checks.fits_population(cohort.clients.active.shape[0], population)
        down_key, up_key = jax.random.split(key)
        said = broadcast(
            down, make_context(down_key, 0), server.params, server.downlink
        )

        def client_fn(
            shared: tuple[PyTree, jax.Array, Examples],
            client: tuple[ClientBatches, ClientState, jax.Array],
        ) -> tuple[tuple[Summand, jax.Array], tuple[ClientState, Sent]]:
            start, up_key, examples = shared
            batches, state, rank = client
            towards = jax.tree.map(jnp.negative, state.gradient)
            optimizer = optax.chain(shifted(towards), client_optimizer)
            learner, info = local_steps(task, optimizer, proximal=alpha)(
                Learner(start, optimizer.init(start)), examples, batches
            )
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                optax.tree.sub(learner.params, start),
                state.uplink,
                batches=batches,
                info=info,
                keep_message=True,
            )
            assert sent.messages is not None  # as they are kept
            followed = jax.tree.map(
                lambda g, d: g - alpha * d, state.gradient, sent.messages.used
            )
            counted = summand.update.weight > 0
            kept = ClientState(where(counted, followed, state.gradient), link)
            if not keep_messages:
                sent = sent._replace(messages=None)
            return (summand, counted.astype(jnp.float32)), (kept, sent)

        active, ids = cohort.clients.active, cohort.clients.client_id
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        (total, heard), (states, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples), (cohort.clients, clients, ranks)
        )
        mean = weighted_mean(total.update)
        share = alpha * heard / population
        drift = jax.tree.map(
            lambda h, d: h - (share * d).astype(h.dtype), server.drift, mean
        )
        moved = jax.tree.map(
            lambda w, d, h: w + d.astype(w.dtype) - h / alpha,
            server.params,
            mean,
            drift,
        )
        # A round in which nobody counted changes nothing.
        sound = all_finite(moved) & (heard > 0)
        info = round_info(
            total,
            sent,
            said.traffic(active, ids),
            said.messages(active.any()) if keep_messages else None,
            ~sound & (heard > 0),
        )
        states = states._replace(
            gradient=where(sound, states.gradient, clients.gradient)
        )
        after = ServerState(
            where(sound, moved, server.params),
            where(sound, drift, server.drift),
            said.link_after(server.downlink, active),
        )
        return after, states, info

    return Algorithm(init, run_round, params=lambda server: server.params)
