"""DiLoCo: many local steps of an optimizer that keeps its state, and an outer one.

Douillard et al. 2023, "DiLoCo: distributed low-communication training of language
models" (arXiv 2311.08105), algorithm 1: every worker takes `H` steps of AdamW from the
common model, keeps the state of its optimizer, and sends the change of its model. The
outer optimizer (there `optax.sgd(0.7, momentum=0.9, nesterov=True)`) takes the negated
mean of the changes as its gradient. With `sparse_loco()` on the uplink and an outer
step of `optax.sgd` it is SparseLoCo (Sarfi et al. 2025, arXiv 2508.15706).
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
from fedjax_comp.client.sgd import Learner, local_steps
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, heard_by_all
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """What the server keeps.

    Attributes:
      model: the common model with the outer optimizer's state.
      downlink: the memory of the downlink.
      heard: the model as all workers have decoded it; `()` where they are sent the
        model and not its changes.
    """

    model: Model
    downlink: LinkState
    heard: PyTree


class Worker(NamedTuple):
    """What a worker keeps: its inner optimizer's state and the memory of its uplink."""

    optimizer_state: PyTree
    uplink: LinkState


def diloco(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    population: int | None = None,
    changes: bool = False,
    keep_messages: bool = False,
) -> Algorithm:
    """Local steps of an inner optimizer that keeps its state, then an outer step.

        w_i <- H steps of inner(.; s_i) from w',   d_i = C(w_i - w')
        w <- outer(w, -sum_i p_i d_i)

    `w'` is `w` as the workers decoded it. With `changes` it is `w' + C(w - w')`, so
    that what one message loses is in the next one. A worker whose optimizer state is
    not finite does not count; a worker that does not count keeps its previous optimizer
    state.

    Args:
      task: the model and its loss.
      client_optimizer: the inner optimizer. Its state stays with the worker, so that it
        may have a schedule over all its steps.
      server_optimizer: the outer one; `optax.sgd(0.7, momentum=0.9, nesterov=True)`
        when None.
      uplink: compressor of what changed; `identity()` when None.
      downlink: compressor of the common model; `identity()` when None.
      execution: how the workers are run; `scanned()` when None.
      population: `K`, needed only with `changes` and for a downlink whose receiver has
        memory: all workers then hear it, and are paid for.
      changes: whether the downlink carries the change of the model since the last
        broadcast. (`differenced` would first have to send the model itself; here all
        workers know the initial one.) `C` must not lose more than it is given.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `Worker`.

    Raises:
      ValueError: for a `population` below one and for `changes` without one; from
        `init` for a downlink whose receiver has memory without one; from `round` when
        `changes` would not be heard by all, and for a cohort larger than the
        population.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = diloco(task, client_optimizer=optax.adamw(0.001))
    >>> _, worker = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(worker.optimizer_state))  # two moments
    1301
    """
    outer = server_optimizer
    if outer is None:
        outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
    update_server = outer
    checks.population(population)
    if changes and population is None:
        raise ValueError(
            "Expected population=K with changes=True: all workers hear every change."
        )
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_steps(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, Worker]:
        del key
        model = Model(params, update_server.init(params))
        worker = Worker(client_optimizer.init(params), up.init(params))
        link = heard_by_all(down, params, population)
        return ServerState(model, link, params if changes else ()), worker

    def run_round(
        key: jax.Array, server: ServerState, workers: Worker, cohort: Cohort
    ) -> tuple[ServerState, Worker, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        news = server.model.params
        (here,) = cohort.clients.active.shape
        checks.fits_population(here, population)
        if changes:
            if here != population:
                raise ValueError(
                    "Expected everybody in every round with changes=True, got "
                    f"{here} workers of population={population}."
                )
            news = optax.tree.sub(news, server.heard)
        said = broadcast(down, make_context(down_key, 0), news, server.downlink)
        received = said.received
        if changes:
            received = optax.tree.add(server.heard, received)

        def client_fn(
            shared: tuple[PyTree, jax.Array, Examples],
            client: tuple[ClientBatches, Worker, jax.Array],
        ) -> tuple[Summand, tuple[Worker, Sent]]:
            start, up_key, examples = shared
            batches, worker, rank = client
            learner, info = train(
                Learner(start, worker.optimizer_state), examples, batches
            )
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                optax.tree.sub(learner.params, start),
                worker.uplink,
                batches=batches,
                info=info,
                sound=all_finite(learner.optimizer_state),
                keep_message=keep_messages,
            )
            counted = summand.update.weight > 0
            kept = where(counted, learner.optimizer_state, worker.optimizer_state)
            return summand, (Worker(kept, link), sent)

        active, ids = cohort.clients.active, cohort.clients.client_id
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (workers, sent) = run_cohort(client_fn)(
            (received, up_key, cohort.examples), (cohort.clients, workers, ranks)
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
            said.traffic(jnp.ones_like(active), ids)
            if changes
            else said.traffic_of_round(active, ids, population),
            said.messages(active.any()) if keep_messages else None,
            refused,
        )
        if changes:  # as all hear it
            return ServerState(model, said.link, received), workers, info
        link = said.link_after(server.downlink, active, population)
        return ServerState(model, link, ()), workers, info

    return Algorithm(init, run_round, params=lambda server: server.model.params)
