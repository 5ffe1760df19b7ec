"""Federated averaging with updates that began from older models, FedBuff's among them.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated learning with
buffered asynchronous aggregation", AISTATS 2022, algorithm 1: the server steps whenever
its buffer is full, and a client that has sent starts again from the model of that
moment. When an update arrives, the model it was trained from is some steps old.

A round here is one step of the server. The cohort says whose updates arrive in it and
how stale they are: those of FedBuff, or those of synchronous rounds whose late updates
are carried over (`fedjax_comp.network.timetable`). The server keeps its last models, so
a client's training is computed in the round in which its update arrives, and no update
waits on the host.
"""

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
    Bits,
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
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import to_client


class Versions(NamedTuple):
    """The last models that were broadcast; version `v` is at place `v mod H`.

    Attributes:
      received: as clients decoded them, leaves `[H, ...]`.
      uplink_keys: the words of each version's uplink key, `[H, w]`.
      lengths: what depends on values in the bits of each broadcast, uint32 `[H]` each.
    """

    received: PyTree
    uplink_keys: jax.Array
    lengths: tuple[jax.Array, ...]


class ServerState(NamedTuple):
    """The server's model, its downlink's memory, its last models, and its steps."""

    model: Model
    downlink: LinkState
    versions: Versions
    step: jax.Array


class _Shared(NamedTuple):
    versions: Versions
    examples: Examples


def fed_buff(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    max_staleness: int = 10,
    exponent: float = 0.5,
    execution: Execution | None = None,
    proximal: float = 0.0,
    keep_messages: bool = False,
) -> Algorithm:
    """Buffered asynchronous federated averaging.

    With w_v the server's model after v steps and w'_v what clients decode of it, client
    i began at version v - tau_i, trained to w_i, and sent C(w_i - w'_{v - tau_i}); the
    server steps along

        sum_i n_i s(tau_i) C(w_i - w'_{v - tau_i}) / sum_i n_i,   s(t) = (1 + t)^-a,

    over the buffer. Stale updates count for less, and the others do not count for more
    in return. Without staleness this is `fed_avg`, bit for bit. The broadcast that a
    client started from is counted in the round in which its update arrives. The
    client's noise is drawn from that version's key: when it encodes, it knows no later
    one.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each time.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model, whose receiver has no memory, since a
        client hears only the version it begins from; `identity()` when None.
      max_staleness: the largest tau in any cohort; the server keeps one model more. A
        larger one would count as this one, so a timetable must not have it.
      exponent: a, 1/2 in the paper's section 5; 0 counts all alike.
      execution: how a cohort is run; `scanned()` when None.
      proximal: FedProx's mu.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and, per client, the uplink's `LinkState`. It
      reads `Cohort.staleness`; None is no staleness. `RoundInfo.observed` has
      `staleness`, the sum over the clients that took part. The downlink's message of a
      round is the broadcast of that round's model, from which later ones began.

    Raises:
      ValueError: for a `max_staleness` that is no integer of at least 0 and an
        `exponent` that is negative or not finite; from `init` for a downlink whose
        receiver has memory.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_buff(task, client_optimizer=optax.sgd(0.1), max_staleness=3)
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(server.versions.received)) // 650
    4
    """
    checks.integer("max_staleness", max_staleness, minimum=0)
    checks.not_negative("exponent", exponent)
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    client_update = update_and_send(
        local_sgd(task, client_optimizer, proximal=proximal),
        up,
        keep_messages=keep_messages,
    )
    kept = max_staleness + 1

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        link = partly_heard(down, params)

        def lengths(tree: PyTree) -> tuple[jax.Array, ...]:
            payload, _ = down.encode(make_context(key, 0), tree, link.sender)
            return num_bits(payload).variable

        words = jax.random.key_data(key)
        versions = Versions(
            jax.tree.map(lambda x: jnp.zeros((kept, *x.shape), x.dtype), params),
            jnp.zeros((kept, *words.shape), words.dtype),
            tuple(jnp.zeros((kept,), v.dtype) for v in jax.eval_shape(lengths, params)),
        )
        model = Model(params, update_server.init(params))
        step = jnp.zeros((), jnp.int32)
        return ServerState(model, link, versions, step), up.init(params)

    def run_round(
        key: jax.Array, server: ServerState, clients: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        said = broadcast(
            down, make_context(down_key, 0), server.model.params, server.downlink
        )
        bits = num_bits(said.payload)
        newest = Versions(said.received, jax.random.key_data(up_key), bits.variable)
        versions = jax.tree.map(
            lambda ring, x: ring.at[server.step % kept].set(x), server.versions, newest
        )
        active = cohort.clients.active
        staleness = jnp.zeros(active.shape, jnp.int32)
        if cohort.staleness is not None:
            oldest = jnp.minimum(server.step, max_staleness)
            staleness = jnp.clip(cohort.staleness, 0, oldest)
        places = (server.step - staleness) % kept

        def client_fn(
            shared: _Shared,
            client: tuple[ClientBatches, LinkState, jax.Array, jax.Array, jax.Array],
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            batches, link, rank, place, stale = client
            own = jax.tree.map(lambda ring: ring[place], shared.versions)
            uplink_key = jax.random.wrap_key_data(
                own.uplink_keys, impl=jax.random.key_impl(key)
            )
            return client_update(
                Start(own.received, uplink_key),
                shared.examples,
                batches,
                link,
                rank,
                (1.0 + stale.astype(jnp.float32)) ** -exponent,
            )

        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (links, sent) = run_cohort(client_fn)(
            _Shared(versions, cohort.examples),
            (cohort.clients, clients, ranks, places, staleness),
        )
        model, refused = step_towards(
            update_server,
            server.model,
            weighted_mean(total.update),
            total.update.weight > 0,
        )
        lengths = Bits(bits.fixed, tuple(ring[places] for ring in versions.lengths))
        heard = Traffic(lengths, active, to_client(cohort.clients.client_id))
        info = round_info(
            total,
            sent,
            heard,
            said.messages(active.any()) if keep_messages else None,
            refused,
            staleness=Observed(jnp.sum(jnp.where(active, staleness, 0))),
        )
        return ServerState(model, said.link, versions, server.step + 1), links, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )
