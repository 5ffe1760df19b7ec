"""FeDLRT: clients train a small matrix between bases that all of them share.

A matrix is `W = U diag(s) V'` of rank r. The bases U and V are widened by their
gradients, averaged over the cohort. In the widened bases every client trains only the
2r x 2r coefficients. The server averages these exactly, since all clients have the same
bases, and cuts the result to rank r again by a singular value decomposition.

Source: Schotthöfer and Laiu 2024, "Federated dynamical low-rank training with global
loss convergence guarantees" (arXiv 2406.17887), algorithm 1, with the simplified
variance correction, which needs no third exchange. Ours: the rank is fixed (there the
cut is by a tolerance), the gradients of the bases are means over a client's batches of
the round, any compressor may be on either link, and after a lossy broadcast the server
goes on from what its clients heard.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.algorithms.links.shared_bases import (
    Factors,
    Trained,
    Widened,
    apart,
    bases_of,
    beyond,
    factored,
    moved,
    padded,
    parameters_of,
    products,
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
from fedjax_comp.client.corrections import mean_gradient, shifted, summed
from fedjax_comp.client.sgd import Learner, local_sgd, local_steps
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """The model, its matrices as `Spectral`, and the memory of both broadcasts."""

    model: PyTree
    downlink: LinkState
    basis_downlink: LinkState


class ClientState(NamedTuple):
    """The memory of both uplinks of a client."""

    basis_uplink: LinkState
    uplink: LinkState


def fed_dlrt(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    rank: int,
    correction: bool = True,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated dynamical low-rank training at a fixed rank.

    With `W = U S V'`, `S = diag(s)`, and means `<.>` weighted by numbers of examples:

        clients:  G_U, G_V, G_S <- gradients of the local loss in U, V and S
        server:   U+, V+ <- orthonormal [U, <G_U>], [V, <G_V>],   both 2r wide
        clients:  S_c <- optimizer(S_c, gradient of the loss of U+ S_c V+'
                                        + [<G_S> - G_S, 0; 0, 0]), from [S, 0; 0, 0]
        server:   U, S, V <- the r leading singular triples of U+ <S_c> V+'

    A client without a step has no gradient: it is silent for the round.

    Leaves that two bases of width 2r would not make smaller, vectors among them, are
    trained as `fed_avg` does, without correction.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      rank: `r >= 1`.
      correction: add `<G_S> - G_S`, so that the first local step is the same for all.
      uplink: compressor of both messages of a client (gradients of the bases, then
        what changed of coefficients and dense leaves); `identity()` when None.
      downlink: compressor of both broadcasts (the model as factors, then the new
        directions); `identity()` when None. Its receiver has no memory.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. Messages are of four kinds:
      "downlink", "basis_uplink", "basis_downlink" and "uplink": some
      `3 r (m + n) + 4 r^2` numbers for a matrix, client and round. A client passes over
      its batches twice, once for the gradients of the bases.

    Raises:
      ValueError: for a rank below one; from `init` for a downlink whose receiver has
        memory, and for a model of which no leaf is worth factors of this rank.

    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(32)(10), input_shape=(8, 8, 1))
    >>> algorithm = fed_dlrt(task, client_optimizer=optax.sgd(0.1), rank=4)
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(server.model))
    602
    """
    rank = checks.integer("rank", rank, minimum=1)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        checks.gradients_alone("fed_dlrt()", params)
        del key
        model = jax.tree.map(lambda x: factored(x, rank), params)
        matrices, dense, _ = apart(model)
        if not matrices:
            shapes = [x.shape for x in jax.tree.leaves(params)]
            raise ValueError(
                f"Expected a leaf that factors of rank={rank} are less than: twice the "
                f"rank at most its smaller side. The leaves are of {shapes}."
            )
        left = tuple(x.left for x in matrices)
        right = tuple(x.right for x in matrices)
        cores = tuple(jnp.diag(x.values) for x in matrices)
        slopes = cores if correction else ()
        widened = Widened(left, right, slopes)
        server = ServerState(model, partly_heard(down, model), down.init(widened))
        trained = Trained(tuple(map(padded, cores)), dense)
        return server, ClientState(up.init(widened), up.init(trained))

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        keys = jax.random.split(key, 4)
        said = broadcast(down, make_context(keys[0], 0), server.model, server.downlink)
        ids, active = cohort.clients.client_id, cohort.clients.active
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)

        def slopes_fn(
            shared: tuple[PyTree, jax.Array, Examples],
            client: tuple[ClientBatches, LinkState, jax.Array],
        ) -> tuple[Summand, tuple[LinkState, Sent, jax.Array, tuple[jax.Array, ...]]]:
            model, up_key, examples = shared
            batches, link, rank = client
            matrices, dense, join = apart(model)
            factors = tuple(
                Factors(x.left, jnp.diag(x.values), x.right) for x in matrices
            )

            def loss(
                factors: tuple[Factors, ...],
                examples: Examples,
                mask: jax.Array,
                key: jax.Array,
            ) -> jax.Array:
                whole = products(matrices, factors)
                return task.loss(join(whole, dense), examples, mask, key)

            watch = optax.chain(summed(), optax.set_to_zero())
            learner, info = local_steps(task._replace(loss=loss), watch)(
                Learner(factors, watch.init(factors)), examples, batches
            )
            found = mean_gradient(learner.optimizer_state[0], info.steps, factors)
            value = Widened(
                tuple(f.left for f in found),
                tuple(f.right for f in found),
                tuple(f.core for f in found) if correction else (),
            )
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                value,
                link,
                batches=batches._replace(active=batches.active & (info.steps > 0)),
                info=info,
                keep_message=True,
            )
            assert sent.messages is not None  # as they are kept
            own = sent.messages.used.slopes
            if not keep_messages:
                sent = sent._replace(messages=None)
            return summand, (link, sent, summand.update.weight > 0, own)

        found, (basis_links, basis_sent, heard, own) = run_cohort(slopes_fn)(
            (said.received, keys[1], cohort.examples),
            (cohort.clients, clients.basis_uplink, ranks),
        )
        matrices, _, _ = apart(said.received)
        slopes: Widened = weighted_mean(found.update)
        news = Widened(
            tuple(
                beyond(x.left, g) for x, g in zip(matrices, slopes.left, strict=True)
            ),
            tuple(
                beyond(x.right, g) for x, g in zip(matrices, slopes.right, strict=True)
            ),
            slopes.slopes,
        )
        wide = broadcast(down, make_context(keys[2], 0), news, server.basis_downlink)

        def train_fn(
            shared: tuple[PyTree, Widened, jax.Array, Examples],
            client: tuple[ClientBatches, LinkState, jax.Array, tuple[jax.Array, ...]],
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            model, news, up_key, examples = shared
            batches, link, rank, own = client
            matrices, dense, join = apart(model)
            bases = bases_of(matrices, news)
            start = Trained(tuple(padded(jnp.diag(x.values)) for x in matrices), dense)

            def loss(
                trained: Trained, examples: Examples, mask: jax.Array, key: jax.Array
            ) -> jax.Array:
                factors = [
                    f._replace(core=core)
                    for f, core in zip(bases, trained.cores, strict=True)
                ]
                whole = products(matrices, factors)
                return task.loss(join(whole, trained.dense), examples, mask, key)

            optimizer = client_optimizer
            if correction:
                cores = tuple(
                    padded(mean - mine)
                    for mean, mine in zip(news.slopes, own, strict=True)
                )
                nothing = optax.tree.zeros_like(dense)
                optimizer = optax.chain(shifted(Trained(cores, nothing)), optimizer)
            fit = local_sgd(task._replace(loss=loss), optimizer)
            trained, info = fit(start, examples, batches)
            return send(
                up,
                make_context(up_key, batches.client_id, rank),
                optax.tree.sub(trained, start),
                link,
                batches=batches,
                info=info,
                keep_message=keep_messages,
            )

        still = cohort.clients._replace(active=active & heard)
        total, (links, sent) = run_cohort(train_fn)(
            (said.received, wide.received, keys[3], cohort.examples),
            (still, clients.uplink, ranks, own),
        )
        mean: Trained = weighted_mean(total.update)
        model = moved(said.received, wide.received, mean, rank)
        sound = all_finite(model)
        anyone = total.update.weight > 0
        info = round_info(
            total,
            sent,
            said.traffic(active, ids),
            said.messages(active.any()) if keep_messages else None,
            anyone & ~sound,
            **{
                UPDATES_SENT: Observed(sent.spoke.sum(dtype=jnp.float32)),
                MODELS_TOLD: Observed(active.sum(dtype=jnp.float32)),
            },
        )
        info = info._replace(
            client_steps=info.client_steps + found.info.steps,
            dropped=info.dropped + found.dropped,
            traffic={
                **info.traffic,
                "basis_uplink": basis_sent.traffic,
                "basis_downlink": wide.traffic(still.active, ids),
            },
        )
        if keep_messages:
            info.messages["basis_uplink"] = basis_sent.messages
            info.messages["basis_downlink"] = wide.messages(still.active.any())
        return (
            ServerState(
                where(anyone & sound, model, server.model),
                said.link_after(server.downlink, active),
                wide.link_after(server.basis_downlink, still.active),
            ),
            ClientState(basis_links, links),
            info,
        )

    return Algorithm(init, run_round, params=lambda server: parameters_of(server.model))
