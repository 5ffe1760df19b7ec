"""Federated averaging with a compressor on each link.

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data" (arXiv 1602.05629), Algorithm 1; server optimizers after Reddi et
al. 2021, "Adaptive Federated Optimization", Algorithm 2. FedSGD is the limit case of
one epoch and one batch. `fed_avg_naive` is the same in plain loops, to read.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
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
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.privacy.central import MeanOver
from fedjax_comp.server.aggregate import (
    WeightedSum,
    majority_vote,
    weighted,
    weighted_mean,
)
from fedjax_comp.server.broadcast import broadcast, heard_by_all
from fedjax_comp.server.robust import Aggregator, require_clients
from fedjax_comp.server.unicast import Listener, new_listener, tell
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import where, widened


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink; none with `unicast`."""

    model: Model
    downlink: LinkState


class Client(NamedTuple):
    """What is remembered of a client with `unicast`."""

    uplink: LinkState
    listener: Listener


class _Heard(NamedTuple):
    """What an `Aggregator` looks at of each client; `()` where it looks at the sum.

    Attributes:
      update: in float32, zeros for a client that did not count.
      weight: float32, 0 for such a client.
    """

    update: PyTree
    weight: PyTree


class _Shared(NamedTuple):
    model: PyTree  # what the cohort decoded of it; the server's own with `unicast`
    downlink_key: jax.Array
    uplink_key: jax.Array
    examples: Examples


def fed_avg(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregation: Callable[[WeightedSum], PyTree] | Aggregator = weighted_mean,
    execution: Execution | None = None,
    proximal: float = 0.0,
    unroll: int = 1,
    population: int | None = None,
    unicast: bool = False,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging: train locally, send the difference, average.

    With w the server's model and w' what the cohort decodes of it, client i trains to
    w_i and sends C(w_i - w'); the server steps along sum_i n_i C(w_i - w') / sum_i n_i
    over the clients that counted. A client whose update is not finite stays silent and
    keeps its memory; one whose decoded update is not finite is left out of the sum.
    Both are in `RoundInfo.dropped`.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      server_optimizer: `optax.sgd(1.0)` (plain averaging) when None.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      aggregation: what becomes of the weighted sum of updates, or an `Aggregator` of
        `fedjax_comp.server.robust`, such as `median()`, that bad clients cannot steer.
        `majority_vote` with the uplink `sign_sgd()` and one local step of
        `optax.sgd(1.0)` is signSGD with majority vote (Bernstein et al. 2018, algorithm
        1), the server's rate its own; running statistics cannot be voted on. With
        `mean_over` of `fedjax_comp.privacy.central` the server steps, and so adds its
        noise, whoever answered; with others it takes no step where nobody did.
      execution: how a cohort is run; `scanned()` when None.
      proximal: FedProx's mu.
      unroll: local steps unrolled into one scan iteration, for speed alone.
      population: `K`, needed only for a downlink whose receiver has memory: such a
        downlink is heard, and paid for, by the whole population every round.
      unicast: tell each client of the cohort the change since it last heard, in a
        message of its own (`fedjax_comp.server.unicast`), in place of the model to all.
        The population's models are kept: `K n` numbers.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and, per client, the uplink's `LinkState`, or
      `Client` with `unicast`.

    Raises:
      ValueError: for a `population` below one; from `init` for a broadcast with memory
        and no `population`, and for running statistics with `majority_vote`; from a
        round for a cohort that is too small for the `Aggregator` or larger than the
        population.

    >>> import jax, optax
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_avg(task, client_optimizer=optax.sgd(0.1))
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    robust = aggregation if isinstance(aggregation, Aggregator) else None
    if robust is None:
        checks.takes("aggregation", aggregation, 1)
    checks.population(population)
    client_update = update_and_send(
        local_sgd(task, client_optimizer, proximal=proximal, unroll=unroll),
        up,
        # With what is decoded of them, which an `Aggregator` looks at.
        keep_messages=keep_messages or robust is not None,
    )

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, PyTree]:
        del key
        if aggregation is majority_vote:
            checks.gradients_alone("a majority_vote", params)
        model = Model(params, update_server.init(params))
        if unicast:
            client = Client(up.init(params), new_listener(down, params))
            return ServerState(model, LinkState((), ())), client
        return ServerState(model, heard_by_all(down, params, population)), up.init(
            params
        )

    def run_round(
        key: jax.Array,
        server: ServerState,
        clients: PyTree,
        cohort: Cohort,
    ) -> tuple[ServerState, PyTree, RoundInfo]:
        active = cohort.clients.active
        checks.fits_population(active.shape[0], population)
        if robust is not None:
            require_clients(robust, active.shape[0])
        down_key, up_key = jax.random.split(key)
        model, link = server.model.params, server.downlink
        if not unicast:
            said = broadcast(down, make_context(down_key, 0), model, link)
            model = said.received
            link = said.link_after(link, active, population)

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, PyTree, jax.Array]
        ) -> tuple[Summand, tuple[PyTree, Sent, _Heard, Sent | None]]:
            batches, state, rank = client
            received, told = shared.model, None
            if unicast:
                context = make_context(shared.downlink_key, batches.client_id, rank)
                told = tell(
                    down,
                    context,
                    shared.model,
                    state.listener,
                    client_id=batches.client_id,
                    hears=batches.active,
                )
                received = told.received
            summand, (up_link, sent) = client_update(
                Start(received, shared.uplink_key),
                shared.examples,
                batches,
                state.uplink if unicast else state,
                rank,
            )
            heard = _Heard((), ())
            if robust is not None:
                summand, heard = _looked_at(robust, summand, sent)
            kept = sent if keep_messages else sent._replace(messages=None)
            if told is None:
                return summand, (up_link, kept, heard, None)
            down_sent = Sent(*told.traffic, told.message if keep_messages else None)
            return summand, (Client(up_link, told.listener), kept, heard, down_sent)

        shared = _Shared(model, down_key, up_key, cohort.examples)
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (states, sent, updates, told) = run_cohort(client_fn)(
            shared, (cohort.clients, clients, ranks)
        )
        if not isinstance(aggregation, Aggregator):
            mean = aggregation(total.update)
        elif aggregation.together is None:
            mean = weighted_mean(total.update)
        else:
            mean = aggregation.together(updates.update, updates.weight)
        stepped, refused = step_towards(
            update_server,
            server.model,
            mean,
            (total.update.weight > 0) | isinstance(aggregation, MeanOver),
        )
        if unicast:
            heard, spoken = told.traffic, told.messages
        else:
            ids = cohort.clients.client_id
            heard = said.traffic_of_round(active, ids, population)
            spoken = said.messages(active.any()) if keep_messages else None
        info = round_info(total, sent, heard, spoken, refused)
        return ServerState(stepped, link), states, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )


def _looked_at(
    aggregator: Aggregator, summand: Summand, sent: Sent
) -> tuple[Summand, _Heard]:
    """What is added up, and what is handed over beside it, for an aggregator."""
    assert sent.messages is not None  # as they are kept for it
    update, weight = widened(sent.messages.used), summand.update.weight
    if aggregator.each is not None:
        update = aggregator.each(update)
    if aggregator.together is None:
        bounded = weighted(update, weight, weight > 0)
        return summand._replace(update=bounded), _Heard((), ())
    seen = where(weight > 0, update, optax.tree.zeros_like(update))
    return summand._replace(update=WeightedSum((), weight)), _Heard(seen, weight)
