"""FeDLRT: clients train a small matrix between bases that all of them share.

A matrix is `W = U diag(s) V'` of rank r. The gradients of U and V, averaged over the
cohort, are what the bases are widened by; in them every client trains the 2r x 2r
coefficients alone, which are averaged exactly (the bases are the same for all), and a
singular value decomposition cuts the result to rank r again.

Source: Schotthöfer and Laiu 2024, "Federated dynamical low-rank training with global
loss convergence guarantees" (arXiv 2406.17887), algorithm 1, with the simplified
variance correction, which needs no third exchange. Ours: the rank is fixed (there the
cut is by a tolerance), the gradients of the bases are means over a client's batches of
the round, any compressor may be on either link, and after a lossy broadcast the server
goes on from what its clients heard.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
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
from fedjax_comp.client.corrections import shifted, summed
from fedjax_comp.client.sgd import Learner, local_sgd, local_steps
from fedjax_comp.compress import identity
from fedjax_comp.compress.combine.leafwise import shape_of
from fedjax_comp.compress.low_rank.decompositions import orthonormal, qr, svd
from fedjax_comp.compress.low_rank.singular import matmul, truncated_svd
from fedjax_comp.compress.low_rank.truncation import (
    from_matrix,
    largest_rank,
    low_rank_start,
    scheme_shape,
    to_matrix,
)
from fedjax_comp.execution import scanned
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.tree import all_finite, where

_SCHEME = "channel"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectral:
    """A leaf as `left diag(values) right'`, float32.

    Attributes:
      left: `U`, `[m, r]`, orthonormal columns.
      values: `s`, `[r]`.
      right: `V`, `[n, r]`, orthonormal columns.
      like: the leaf's shape and dtype, static.
    """

    left: jax.Array
    values: jax.Array
    right: jax.Array
    like: jax.ShapeDtypeStruct = dataclasses.field(metadata={"static": True})


class Factors(NamedTuple):
    """`left core right'`, or the gradients of a loss in the three."""

    left: jax.Array
    core: jax.Array
    right: jax.Array


class Trained(NamedTuple):
    """What clients train: cores `[2r, 2r]`, and leaves that have no factors."""

    cores: tuple[jax.Array, ...]
    dense: tuple[jax.Array, ...]


class ServerState(NamedTuple):
    """The model, its matrices as `Spectral`, and the memory of both broadcasts."""

    model: PyTree
    downlink: LinkState
    basis_downlink: LinkState


class ClientState(NamedTuple):
    """The memory of both uplinks of a client."""

    basis_uplink: LinkState
    uplink: LinkState


class _Widened(NamedTuple):
    """What the second broadcast says: new directions, and the mean slope of cores."""

    left: tuple[jax.Array, ...]
    right: tuple[jax.Array, ...]
    slopes: tuple[jax.Array, ...]


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

    Leaves for which two bases of width 2r are no less than the leaf, vectors among
    them, are trained as `fed_avg` does, without correction.

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
    up = identity() if uplink is None else uplink
    down = identity() if downlink is None else downlink
    run_cohort = scanned() if execution is None else execution

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        checks.gradients_alone("fed_dlrt()", params)
        del key
        model = jax.tree.map(lambda x: _factored(x, rank), params)
        matrices, dense, _ = _apart(model)
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
        widened = _Widened(left, right, slopes)
        server = ServerState(model, partly_heard(down, model), down.init(widened))
        trained = Trained(tuple(map(_wide, cores)), dense)
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
            matrices, dense, join = _apart(model)
            factors = tuple(
                Factors(x.left, jnp.diag(x.values), x.right) for x in matrices
            )

            def loss(
                factors: tuple[Factors, ...],
                examples: Examples,
                mask: jax.Array,
                key: jax.Array,
            ) -> jax.Array:
                whole = _products(matrices, factors)
                return task.loss(join(whole, dense), examples, mask, key)

            watch = optax.chain(summed(), optax.set_to_zero())
            learner, info = local_steps(task._replace(loss=loss), watch)(
                Learner(factors, watch.init(factors)), examples, batches
            )
            steps = jnp.maximum(info.steps, 1).astype(jnp.float32)
            found = jax.tree.map(lambda g: g / steps, learner.optimizer_state[0])
            value = _Widened(
                tuple(f.left for f in found),
                tuple(f.right for f in found),
                tuple(f.core for f in found) if correction else (),
            )
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                value,
                link,
                batches=batches,
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
        matrices, _, _ = _apart(said.received)
        slopes: _Widened = weighted_mean(found.update)
        news = _Widened(
            tuple(
                _beyond(x.left, g) for x, g in zip(matrices, slopes.left, strict=True)
            ),
            tuple(
                _beyond(x.right, g) for x, g in zip(matrices, slopes.right, strict=True)
            ),
            slopes.slopes,
        )
        wide = broadcast(down, make_context(keys[2], 0), news, server.basis_downlink)

        def train_fn(
            shared: tuple[PyTree, _Widened, jax.Array, Examples],
            client: tuple[ClientBatches, LinkState, jax.Array, tuple[jax.Array, ...]],
        ) -> tuple[Summand, tuple[LinkState, Sent]]:
            model, news, up_key, examples = shared
            batches, link, rank, own = client
            matrices, dense, join = _apart(model)
            bases = _bases(matrices, news)
            start = Trained(tuple(_wide(jnp.diag(x.values)) for x in matrices), dense)

            def loss(
                trained: Trained, examples: Examples, mask: jax.Array, key: jax.Array
            ) -> jax.Array:
                factors = [
                    f._replace(core=core)
                    for f, core in zip(bases, trained.cores, strict=True)
                ]
                whole = _products(matrices, factors)
                return task.loss(join(whole, trained.dense), examples, mask, key)

            optimizer = client_optimizer
            if correction:
                cores = tuple(
                    _wide(mean - mine)
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
        model = _moved(said.received, wide.received, mean, rank)
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
                where(anyone & sound, model, server.model), said.link, wide.link
            ),
            ClientState(basis_links, links),
            info,
        )

    return Algorithm(init, run_round, params=lambda server: _whole(server.model))


Join = Callable[[Sequence[PyTree], Sequence[jax.Array]], PyTree]


def _apart(
    model: PyTree,
) -> tuple[tuple[Spectral, ...], tuple[jax.Array, ...], Join]:
    """A model's matrices, its other leaves, and what makes parameters of both."""
    leaves, structure = jax.tree.flatten(
        model, is_leaf=lambda x: isinstance(x, Spectral)
    )
    factored = [isinstance(x, Spectral) for x in leaves]

    def join(matrices: Sequence[PyTree], dense: Sequence[jax.Array]) -> PyTree:
        ours, others = iter(matrices), iter(dense)
        chosen = [next(ours) if is_one else next(others) for is_one in factored]
        return jax.tree.unflatten(structure, chosen)

    matrices = tuple(x for x in leaves if isinstance(x, Spectral))
    dense = tuple(x for x in leaves if not isinstance(x, Spectral))
    return matrices, dense, join


def _factored(x: jax.Array, rank: int) -> Spectral | jax.Array:
    """A leaf at its own norm and at the rank, or as it is where that is not less."""
    if x.ndim < 2:
        return x
    m, n = scheme_shape(x.shape, _SCHEME)
    if 2 * rank > min(m, n) or largest_rank(m, n) < rank:
        return x
    matrix = to_matrix(low_rank_start(x, rank, scheme=_SCHEME), _SCHEME)
    found = truncated_svd(matrix, rank)
    core = jnp.eye(rank)
    return _cut(Factors(found.left, core, found.right.T), shape_of(x), rank)


def _cut(factors: Factors, like: jax.ShapeDtypeStruct, rank: int) -> Spectral:
    """The `rank` leading singular triples of `left core right'`."""
    left, over = qr(factors.left)
    right, other = qr(factors.right)
    u, values, v = svd(matmul(matmul(over, factors.core), other.T))
    return Spectral(
        matmul(left, u[:, :rank]), values[:rank], matmul(right, v[:rank].T), like
    )


def _beyond(basis: jax.Array, slope: jax.Array) -> jax.Array:
    """Orthonormal columns that, with the basis, span it and the slope, `[m, r]`."""
    size = jnp.abs(slope).max()
    scaled = slope / jnp.where(size > 0, size, 1.0)
    return orthonormal(jnp.concatenate([basis, scaled], axis=1))[:, basis.shape[1] :]


def _wide(core: jax.Array) -> jax.Array:
    """`[[core, 0], [0, 0]]`, of twice the rank."""
    return jnp.pad(core, (0, core.shape[0]))


def _bases(matrices: Sequence[Spectral], news: _Widened) -> list[Factors]:
    """Both bases, widened, and the coefficients that the model has in them."""
    return [
        Factors(
            jnp.concatenate([x.left, left], axis=1),
            _wide(jnp.diag(x.values)),
            jnp.concatenate([x.right, right], axis=1),
        )
        for x, left, right in zip(matrices, news.left, news.right, strict=True)
    ]


def _products(
    matrices: Sequence[Spectral], factors: Sequence[Factors]
) -> list[jax.Array]:
    """`left core right'` in the shape and dtype of each leaf."""
    return [
        from_matrix(matmul(matmul(f.left, f.core), f.right.T), x.like, _SCHEME)
        for x, f in zip(matrices, factors, strict=True)
    ]


def _whole(model: PyTree) -> PyTree:
    """The parameters of a model of factors."""
    matrices, dense, join = _apart(model)
    factors = [Factors(x.left, jnp.diag(x.values), x.right) for x in matrices]
    return join(_products(matrices, factors), dense)


def _moved(model: PyTree, news: _Widened, mean: Trained, rank: int) -> PyTree:
    """The model after a mean change of coefficients and dense leaves, cut again."""
    matrices, dense, join = _apart(model)
    cut = [
        _cut(f._replace(core=f.core + change), x.like, rank)
        for x, f, change in zip(
            matrices, _bases(matrices, news), mean.cores, strict=True
        )
    ]
    return join(
        cut, jax.tree.map(lambda w, d: w + d.astype(w.dtype), dense, mean.dense)
    )
