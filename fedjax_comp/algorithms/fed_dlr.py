"""Federated averaging of truncated models: low rank on both links.

Server and clients send models, not differences, as the factors of truncated singular
value decompositions. The model after a round is of low rank:
`fedjax_comp.models.factorize` turns it into a network that runs in factored form.

Source: Qiao, Yu, Zhang and Letaief 2021, "Communication-efficient federated learning
with dual-side low-rank compression" (arXiv 2104.12416). A reconstruction: only the
abstract was available, which says that both the server and the clients approximate by
low rank, and that the result is a compact model. Three things are ours: the rule that
chooses the rank (by energy, `fedjax_comp.compress.low_rank.truncation`), averaging
reconstructed matrices and never factors (a mean of products is not the product of the
means), and the factored training.

This is not `fed_avg` with a truncation on each link. There the uplink carries
differences, and the server adds their mean to its own model, which keeps what the
downlink lost. Here the server continues from the mean of the models it was sent.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Context,
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
from fedjax_comp.compress.low_rank.factors import low_rank
from fedjax_comp.compress.low_rank.truncation import truncation
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import Broadcast, broadcast, partly_heard
from fedjax_comp.wire.fields import Coded, IndexSet, Symbols, fields


class ServerState(NamedTuple):
    """The server's model, truncated and ready to be sent.

    Attributes:
      model: what clients will decode of the broadcast.
      broadcast: the message itself.
      key: of the context in which it was encoded, as its raw words.
      downlink: memory of the downlink.
    """

    model: PyTree
    broadcast: PyTree
    key: jax.Array
    downlink: LinkState


class _Shared(NamedTuple):
    server: ServerState
    trained: PyTree  # the payload whose floats clients train, with factors
    context: Context
    up_key: jax.Array
    examples: Examples


def fed_dlr(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    factored: bool = False,
    factor_rank: int | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """FedDLR: models are truncated on both links, and their reconstructions averaged.

        w' = T_down(w),   w_i = train(w'),   w <- sum_i n_i T_up(w_i) / sum_i n_i.

    Clients train all weights of the truncated model w', and truncate again. With
    truncations that lose nothing this is federated averaging. `error_feedback` around a
    truncation, at either end, adds in the next round what the truncation removed; the
    model is then of full rank before it is sent.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      uplink: compressor of the clients' models; `truncation(0.95)` when None.
      downlink: compressor of the server's model; `truncation(0.95)` when None. Its
        receiver has no memory, since not every client hears every broadcast.
      factored: clients train the floats of the message they received, the factors
        where there are factors, so that no local model is of higher rank than the one
        they were sent, and a truncation to that rank takes nothing of what they
        learned. For a downlink that leaves floats, such as `truncation`.
      factor_rank: clients train factors of this rank, `low_rank(factor_rank)` of the
        model as they decoded it, so that `factored` goes with any downlink. A model
        whose factors were quantized on the way is of their rank still, and taken apart
        without loss; what is trained are floats that begin at the quantized ones.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and, per client, the uplink's `LinkState`. The
      model to evaluate is the truncated one, that of the next broadcast.
      `RoundInfo.observed` has `downlink_loss`, the share of the average's `||w||^2`
      that the server's truncation took.

    Raises:
      ValueError: for a `factor_rank` below one; from `init` for a downlink whose
        receiver has memory, and for `factored` without `factor_rank` and with a
        downlink that sends integers in place of floats.

    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(32)(10), input_shape=(8, 8, 1))
    >>> algorithm = fed_dlr(task, client_optimizer=optax.sgd(0.1))
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    2410
    """
    up = given("uplink", uplink, truncation(0.95))
    down = given("downlink", downlink, truncation(0.95))
    run_cohort = given_execution(execution)
    apart = None if factor_rank is None else low_rank(factor_rank)

    def truncate(key: jax.Array, model: PyTree, link: LinkState) -> ServerState:
        """The server's state with a new model, as the clients will know it."""
        said = broadcast(down, make_context(key, 0), model, link)
        words = jax.random.key_data(key)
        return ServerState(said.received, said.payload, words, said.link)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        link = partly_heard(down, params)
        server = truncate(key, params, link)
        if factored or apart is not None:
            checks.gradients_alone("factors that are trained", params)
        if factored and apart is None:
            _require_floats(server.broadcast)
        return server, up.init(params)

    def run_round(
        key: jax.Array, server: ServerState, clients: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        old_key = jax.random.wrap_key_data(server.key, impl=jax.random.key_impl(key))
        context = make_context(old_key, 0)

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, LinkState, jax.Array]
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            batches, link, rank = client
            local, info = train(shared, batches)
            return send(
                up,
                make_context(shared.up_key, batches.client_id, rank),
                local,
                link,
                batches=batches,
                info=info,
                instead=shared.server.model,
                keep_message=keep_messages,
            )

        def train(shared: _Shared, batches: ClientBatches) -> tuple[PyTree, LocalInfo]:
            if not factored and apart is None:
                fit = local_sgd(task, client_optimizer)
                return fit(shared.server.model, shared.examples, batches)
            floats, with_floats = _floats_of(shared.trained)
            link, memory = (
                (down, shared.server.downlink.receiver)
                if apart is None
                else (apart, ())
            )

            def rebuild(floats: tuple[jax.Array, ...]) -> PyTree:
                return link.decode(shared.context, with_floats(floats), memory)[0]

            def loss(
                floats: tuple[jax.Array, ...],
                examples: Examples,
                mask: jax.Array,
                key: jax.Array,
            ) -> jax.Array:
                return task.loss(rebuild(floats), examples, mask, key)

            fit = local_sgd(task._replace(loss=loss), client_optimizer)
            floats, info = fit(floats, shared.examples, batches)
            return rebuild(floats), info

        trained = server.broadcast
        if apart is not None:
            trained, _ = apart.encode(context, server.model, ())
        shared = _Shared(server, trained, context, up_key, cohort.examples)
        active = cohort.clients.active
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (links, sent) = run_cohort(client_fn)(
            shared, (cohort.clients, clients, ranks)
        )
        average = weighted_mean(total.update, server.model)
        truncated = truncate(down_key, average, server.downlink)
        sound = tree.all_finite(truncated.model)
        # What the clients heard this round was encoded at the end of the last one.
        memory = server.downlink.receiver
        said = Broadcast(
            server.model, server.downlink, server.broadcast, context, memory
        )
        info = round_info(
            total,
            sent,
            said.traffic(active, cohort.clients.client_id),
            said.messages(active.any()) if keep_messages else None,
            ~sound,
            downlink_loss=Observed(_lost(average, truncated.model), "mean"),
        )
        stepped = sound & (total.update.weight > 0)
        return tree.where(stepped, truncated, server), links, info

    return Algorithm(init=init, round=run_round, params=lambda server: server.model)


def _require_floats(payload: PyTree) -> None:
    if any(isinstance(field, Symbols | IndexSet | Coded) for field in fields(payload)):
        raise ValueError(
            "Expected a downlink of floats such as truncation(0.9) with factored=True: "
            "there is nothing to train in symbols, indices or codes; with "
            "factor_rank=r clients take apart what they decoded."
        )


def _floats_of(
    payload: PyTree,
) -> tuple[tuple[jax.Array, ...], Callable[[tuple[jax.Array, ...]], PyTree]]:
    """A payload's floats, and `(floats) -> payload` with others in their place."""
    leaves, structure = jax.tree.flatten(payload)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def with_floats(floats: tuple[jax.Array, ...]) -> PyTree:
        rest = iter(floats)
        replaced = [
            next(rest) if is_float else leaf
            for leaf, is_float in zip(leaves, floating, strict=True)
        ]
        return jax.tree.unflatten(structure, replaced)

    floats = (x for x, is_float in zip(leaves, floating, strict=True) if is_float)
    return tuple(floats), with_floats


def _lost(sent: PyTree, received: PyTree) -> jax.Array:
    """`||sent - received||^2 / ||sent||^2`, 0 for zeros."""
    sent, received = tree.widened((sent, received))
    whole = optax.tree.norm(sent, squared=True)
    lost = optax.tree.norm(optax.tree.sub(sent, received), squared=True)
    return lost / jnp.where(whole > 0, whole, 1.0)
