"""MARINA: compressed differences of gradients, and now and then a gradient in full.

Source: Gorbunov et al. 2021, "MARINA: Faster Non-Convex Distributed Learning with
Compression" (arXiv 2102.07845), Algorithm 1; with one batch in place of the whole data
set it is the online VR-MARINA of its section 3. The estimate of the gradient is biased,
but its error vanishes as the steps do, so that heterogeneous clients need no memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
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
    Observed,
    PyTree,
    RoundInfo,
    Task,
    make_context,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import identity
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.server.update import Model, step_towards


class ServerState(NamedTuple):
    """The server's model and what it believes of the clients' updates.

    Attributes:
      model: parameters and the server optimizer's state.
      downlink: memory of the broadcast.
      heard: the model that `estimate` belongs to, as the clients decoded it.
      estimate: of the mean update at `heard` (g of the paper, negated).
      started: whether there is an estimate yet, bool scalar.
    """

    model: Model
    downlink: LinkState
    heard: PyTree
    estimate: PyTree
    started: jax.Array


class _Shared(NamedTuple):
    received: PyTree
    heard: PyTree
    in_full: jax.Array
    uplink_key: jax.Array
    examples: Examples


def marina(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor,
    probability: float,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
    population: int | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """MARINA: send the update with `probability`, and else its change.

    With d_i(w) what client i's model moves by from w on this round's batches and one
    coin a round for the whole cohort, the server's estimate g becomes

        g <- sum_i n_i d_i(w) / sum_i n_i                        with `probability`,
        g <- g + sum_i n_i Q(d_i(w) - d_i(w')) / sum_i n_i       else,

    where w' is the model of the round before; then w <- w + g. The first round sends
    updates in full. Clients train from both models on the same batches, which is twice
    the work.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round; one step of
        `optax.sgd(1.0)` makes d_i a negative gradient, as in the paper.
      uplink: Q, unbiased, with messages of a size known from shapes (no entropy code)
        that is at most the model's; it may have no memory.
      probability: of a round in full, in (0, 1]. The paper's theory takes the share of
        the coordinates that Q sends.
      server_optimizer: `optax.sgd(1.0)` when None; its rate is the paper's gamma.
      downlink: compressor of the model that is broadcast; `identity()` when None.
      population: `K`, when a cohort is less than all clients: a client needs the model
        of the round before, so that all must hear every round, and are paid for.
        (PP-MARINA asks all of them for a round in full, this only the cohort.)
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState`; clients remember nothing. Its uplink is
      `ladder(uplink, identity())`: one bit says which of the two a message is.
      `RoundInfo.observed["in_full"]` tells whether the round was one in full.

    Raises:
      ValueError: for a probability or a `population` out of its range; from `init` for
        an uplink with memory, or one whose messages are of no known size or longer than
        the model, and for a model with running statistics, which would follow the
        batches of the last round in full alone; from a round for a cohort larger than
        the population.

    >>> import jax, optax
    >>> from fedjax_comp.compress import random_k
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = marina(
    ...     task,
    ...     client_optimizer=optax.sgd(1.0),
    ...     server_optimizer=optax.sgd(0.1),
    ...     uplink=random_k(0.1),
    ...     probability=0.1,
    ... )
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> bool(server.started)
    False
    """
    checks.fraction("probability", probability)
    checks.population(population)
    update_server = given_server_optimizer(server_optimizer)
    up = ladder(checks.compressor("uplink", uplink), identity())
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train_locally = local_sgd(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        checks.gradients_alone("marina()", params)
        del key
        why = "as the uplink of marina(): the differences are the server's memory."
        checks.memoryless(up, params, why)
        zeros = optax.tree.zeros_like(params)
        server = ServerState(
            model=Model(params, update_server.init(params)),
            downlink=down.init(params),
            heard=zeros,
            estimate=jax.tree.map(jnp.copy, zeros),
            started=jnp.array(False),
        )
        return server, LinkState(sender=(), receiver=())

    def run_round(
        key: jax.Array,
        server: ServerState,
        clients: LinkState,
        cohort: Cohort,
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        checks.fits_population(cohort.clients.active.shape[0], population)
        why = "whose estimate lasts for rounds"
        checks.no_rates("marina()", cohort.clients, why)
        down_key, up_key, coin_key = jax.random.split(key, 3)
        said = broadcast(
            down, make_context(down_key, 0), server.model.params, server.downlink
        )
        in_full = jax.random.bernoulli(coin_key, probability) | ~server.started

        def client_fn(shared: _Shared, batches: ClientBatches) -> tuple[Summand, Sent]:
            local, info = train_locally(shared.received, shared.examples, batches)
            delta = optax.tree.sub(local, shared.received)
            before, _ = train_locally(shared.heard, shared.examples, batches)
            earlier = optax.tree.sub(before, shared.heard)
            news = tree.where(shared.in_full, delta, optax.tree.sub(delta, earlier))
            # The ladder sends the last rung that fits: all of it, or nothing does.
            context = make_context(shared.uplink_key, batches.client_id)._replace(
                budget_bits=jnp.where(shared.in_full, jnp.inf, 0.0)
            )
            summand, (_, sent) = send(
                up,
                context,
                news,
                LinkState(_MEMORYLESS, _MEMORYLESS),
                batches=batches,
                info=info,
                keep_message=keep_messages,
            )
            return summand, sent

        shared = _Shared(said.received, server.heard, in_full, up_key, cohort.examples)
        total, sent = run_cohort(client_fn)(shared, cohort.clients)
        anyone = total.update.weight > 0
        mean = weighted_mean(total.update, server.estimate)
        estimate = tree.where(in_full, mean, optax.tree.add(server.estimate, mean))
        model, refused = step_towards(update_server, server.model, estimate, anyone)
        stepped = anyone & ~refused
        after = ServerState(
            model=model,
            downlink=said.link,
            heard=tree.where(stepped, said.received, server.heard),
            estimate=tree.where(stepped, estimate, server.estimate),
            started=server.started | stepped,
        )
        active = cohort.clients.active
        heard = jnp.ones(population or active.shape[0], bool)
        info = round_info(
            total,
            sent,
            said.traffic(heard, None if population else cohort.clients.client_id),
            said.messages(jnp.array(True)) if keep_messages else None,
            refused,
            in_full=Observed(in_full),
        )
        # Every client trains twice, at this model and at the last one.
        info = info._replace(client_steps=2 * info.client_steps)
        return after, clients, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )


_MEMORYLESS: PyTree = ((), ())
"""The state of a ladder of two compressors that remember nothing."""
