"""Optimal client sampling: a whole cohort trains, those with long updates send.

Chen, Horvath and Richtarik 2022, "Optimal client sampling for federated learning"
(TMLR; arXiv 2010.13723), equation 7 and algorithm 1: of all independent samplings with
`m` clients on average this one has the smallest variance of the mean. Before the
updates, each client sends one number, the norm of its update, and receives one. Ours:
the norm is that of the update before compression.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import (
    Sent,
    Summand,
    round_info,
    send,
    sent_to_server,
)
from fedjax_comp.algorithms.links.given import (
    given,
    given_execution,
    given_server_optimizer,
)
from fedjax_comp.base import (
    MODELS_TOLD,
    UPDATES_SENT,
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
from fedjax_comp.client.sgd import LocalInfo, local_sgd
from fedjax_comp.compress import identity
from fedjax_comp.server.aggregate import WeightedSum, share, weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import all_finite, where

_MOST = 2.0**30
_NOTHING: LinkState = LinkState((), ())


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink."""

    model: Model
    downlink: LinkState


class _Trained(NamedTuple):
    """Of a client: its update, what was observed, and the length that it sent."""

    update: PyTree
    info: LocalInfo
    length: jax.Array
    sound: jax.Array
    sent: Sent


def chance_factor(lengths: jax.Array, expected: float) -> jax.Array:
    """`c` of the chances `min(1, c u_i)` with the smallest variance of the mean.

        c = (m + l - n) / (u_(1) + ... + u_(l)),  l the largest with
        0 < m + l - n <= (u_(1) + ... + u_(l)) / u_(l),

    where `u_(1) <= ... <= u_(n)` are the lengths above zero; the others `n - l` have a
    chance of one.

    Args:
      lengths: `u_i = w_i ||U_i||`, float32 `[C]`, 0 of those who take no part.
      expected: `m`, how many are to speak on average; all do where it is `n` or more.

    >>> u = jnp.array([1.0, 1.0, 2.0, 100.0])
    >>> jnp.minimum(1, chance_factor(u, 2.0) * u).tolist()
    [0.25, 0.25, 0.5, 1.0]
    """
    ordered = jnp.sort(lengths)
    count = (lengths > 0).sum(dtype=jnp.float32)
    places = jnp.arange(1, lengths.shape[0] + 1, dtype=jnp.float32)
    kept = places - (lengths.shape[0] - count)  # l, at most 0 before the first
    sums = jnp.cumsum(ordered)
    left = expected + kept - count
    fits = (kept > 0) & (left > 0) & (left * ordered <= sums)
    factor = jnp.where(fits, left / jnp.where(fits, sums, 1.0), 0.0)
    last = jnp.max(jnp.where(fits, places, 0)).astype(jnp.int32) - 1
    least = jnp.min(jnp.where(lengths > 0, lengths, jnp.inf))
    # A factor of 1 / u_(1) lets everyone speak.
    everyone = jnp.where(jnp.isfinite(least), 1 / jnp.minimum(least, _MOST), 0.0)
    return jnp.where(count <= expected, everyone, factor[jnp.maximum(last, 0)])


def optimal_sampling(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    expected: float,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Unbiased federated averaging in which long updates are sent more often.

    With `w_i` a client's share of the cohort's examples, `U_i` its update and `p_i` the
    chance that `chance_factor` gives it,

        w <- w + sum over speakers of (w_i / p_i) C(U_i).

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      expected: `m`, how many of a cohort speak on average, at least 1.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of the updates; `identity()` when None.
      downlink: compressor of the model; its receiver has no memory.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and the uplink's `LinkState`. Beside the usual
      messages there are "norms" and "chances", 32 bits each for every client;
      `RoundInfo.observed["updates_sent"]` counts who spoke. The simulation holds the
      cohort's updates at once, `C n` numbers.

    Raises:
      ValueError: for `expected` below one; from `init` for a downlink whose receiver
        has memory, and for a model with running statistics, since an unbiased estimate
        of a mean variance may be far from every client's, or below zero.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = optimal_sampling(
    ...     task, client_optimizer=optax.sgd(0.1), expected=3)
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    wanted = checks.number("expected", expected, minimum=1.0, below=float("inf"))
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_sgd(task, client_optimizer)
    plain = identity()

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        checks.gradients_alone("optimal_sampling()", params)
        del key
        model = Model(params, update_server.init(params))
        return ServerState(model, partly_heard(down, params)), up.init(params)

    def run_round(
        key: jax.Array, server: ServerState, clients: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_key, norm_key, chance_key, up_key, coin_key = jax.random.split(key, 5)
        params = server.model.params
        said = broadcast(down, make_context(down_key, 0), params, server.downlink)

        def train_fn(
            shared: tuple[PyTree, jax.Array, Examples],
            client: tuple[ClientBatches, jax.Array],
        ) -> tuple[Summand, _Trained]:
            start, norm_key, examples = shared
            batches, rank = client
            local, info = train(start, examples, batches)
            update = optax.tree.sub(local, start)
            weight = share(batches.num_examples)
            norm = optax.tree.norm(
                jax.tree.map(lambda x: x.astype(jnp.float32), update)
            )
            length = weight * norm
            sound = batches.active & all_finite((update, length))
            context = make_context(norm_key, batches.client_id, rank)
            payload, _ = plain.encode(context, jnp.where(sound, length, 0.0), ())
            heard, _ = plain.decode(context, payload, ())
            sent = sent_to_server(
                context,
                payload,
                (),
                sound,
                client_id=batches.client_id,
                used=heard,
                keep_message=keep_messages,
            )
            summand = Summand(
                update=WeightedSum((), jnp.where(sound, weight, 0.0)),
                info=where(sound, info, optax.tree.zeros_like(info)),
                dropped=(batches.active & ~sound).astype(jnp.int32),
            )
            return summand, _Trained(update, info, heard, sound, sent)

        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        all_of_them, trained = run_cohort(train_fn)(
            (said.received, norm_key, cohort.examples), (cohort.clients, ranks)
        )
        factor = chance_factor(trained.length, wanted)
        told = broadcast(plain, make_context(chance_key, 0), factor, _NOTHING)
        chances = jnp.minimum(told.received * trained.length, 1.0)
        coins = jax.vmap(lambda i: jax.random.fold_in(coin_key, i))(ids)
        draws = jax.vmap(lambda coin: jax.random.uniform(coin, dtype=jnp.float32))(
            coins
        )
        drawn = draws < chances

        def send_fn(
            up_key: jax.Array,
            client: tuple[
                ClientBatches, LinkState, jax.Array, PyTree, LocalInfo, jax.Array
            ],
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            batches, link, rank, update, info, chance = client
            return send(
                up,
                make_context(up_key, batches.client_id, rank),
                update,
                link,
                batches=batches,
                info=info,
                scale=1 / jnp.where(chance > 0, chance, 1.0),
                keep_message=keep_messages,
            )

        speakers = cohort.clients._replace(active=trained.sound & drawn)
        total, (links, sent) = run_cohort(send_fn)(
            up_key, (speakers, clients, ranks, trained.update, trained.info, chances)
        )
        anyone = total.update.weight > 0
        # Over the weights of all, not of those who spoke: chances made up for these.
        mean = weighted_mean(total.update._replace(weight=all_of_them.update.weight))
        model, refused = step_towards(update_server, server.model, mean, anyone)
        total = total._replace(
            info=all_of_them.info, dropped=total.dropped + all_of_them.dropped
        )
        active = cohort.clients.active
        info = round_info(
            total,
            sent,
            said.traffic(active, ids),
            said.messages(active.any()) if keep_messages else None,
            refused,
            **{
                UPDATES_SENT: Observed(sent.spoke.sum(dtype=jnp.float32)),
                MODELS_TOLD: Observed(active.sum(dtype=jnp.float32)),
            },
        )
        info.traffic["norms"] = trained.sent.traffic
        info.traffic["chances"] = told.traffic(trained.sound, ids)
        if keep_messages:
            info.messages["norms"] = trained.sent.messages
            info.messages["chances"] = told.messages(trained.sound.any())
        link = said.link_after(server.downlink, active)
        return ServerState(model, link), links, info

    return Algorithm(init, run_round, params=lambda server: server.model.params)
