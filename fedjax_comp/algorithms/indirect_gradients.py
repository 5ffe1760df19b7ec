"""Indirect gradients (ISGQ): a dense layer's gradient sent as its two factors.

Clients quantize the inputs X and the errors D of each dense layer, and the server
multiplies what it decoded; the product X'D itself is never quantized. The length of a
message grows with the batch, `B (m + n)` numbers a layer, and not with the layer,
`m n`.

Source: Abdi and Fekri, "Indirect stochastic gradient quantization and its application
in distributed deep learning", AAAI 2020. This is a reconstruction from the paper's
abstract and its authors' published quantizers. Of their variants it is the one that
quantizes each factor separately (theirs with dithers, ours by any compressor); their
reconstruction points that are fitted to the product are not here. With independent and
unbiased quantizers Q,

    E[Q(X)' Q(D)] = X' D,   E[sum over rows of Q(D)] = sum over rows of D,

so that the estimate is unbiased, however coarse either is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import (
    Sent,
    Summand,
    round_info,
    sent_to_server,
)
from fedjax_comp.algorithms.links.dense_factors import (
    Factors,
    dense_layers,
    factors_of,
    gradient_of,
)
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
    PyTree,
    RoundInfo,
    Task,
    fold_context,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo
from fedjax_comp.compress import identity
from fedjax_comp.server.aggregate import share, weighted, weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink."""

    model: Model
    downlink: LinkState


class _Shared(NamedTuple):
    received: PyTree
    uplink_key: jax.Array
    examples: Examples


def factor_link(factors: Compressor, rest: Compressor | None = None) -> Compressor:
    """The uplink of `indirect_gradients`, a compressor of `Factors`: for audits.

    Args:
      factors: of the inputs and, by itself and with other keys, of the errors.
      rest: of the gradients of all other parameters; `identity()` when None.

    Returns:
      A `Compressor`; its payload is one of the inputs, one of the errors and one of the
      rest, `()` where there is no such parameter.
    """
    parts = (factors, factors, identity() if rest is None else rest)

    def init(like: Factors) -> LinkState:
        states = [
            part.init(leaves) if leaves else LinkState((), ())
            for part, leaves in zip(parts, like, strict=True)
        ]
        return LinkState(
            tuple(state.sender for state in states),
            tuple(state.receiver for state in states),
        )

    def encode(
        context: Context, tree: Factors, sender: PyTree
    ) -> tuple[PyTree, PyTree]:
        made = [
            part.encode(fold_context(context, i), leaves, sender[i])
            if leaves
            else ((), sender[i])
            for i, (part, leaves) in enumerate(zip(parts, tree, strict=True))
        ]
        return tuple(x for x, _ in made), tuple(state for _, state in made)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[Factors, PyTree]:
        made = [
            part.decode(fold_context(context, i), message, receiver[i])
            if jax.tree.leaves(message)
            else ((), receiver[i])
            for i, (part, message) in enumerate(zip(parts, payload, strict=True))
        ]
        return Factors(*(x for x, _ in made)), tuple(state for _, state in made)

    return Compressor(init, encode, decode)


def indirect_gradients(
    task: Task,
    *,
    factors: Compressor,
    optimizer: optax.GradientTransformation,
    rest: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Distributed SGD whose clients send quantized factors of their gradients.

    A round is one step: all examples that a client has in it are one batch, and each
    client needs the model. The server weights clients by their numbers of examples.

    Args:
      task: the model and its loss, of a flax module with dense layers, none of them
        used twice in a pass or inside a scan (`mlp`, `cnn`).
      factors: of the inputs and of the errors, without memory: the factors of two
        batches have nothing to do with each other. The estimate is unbiased if it is.
      optimizer: the server's; it is given the mean estimate as the gradient.
      rest: of the gradients of parameters outside dense layers, without memory;
        `identity()` when None.
      downlink: compressor of the model, without memory at the receiver; `identity()`
        when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState`; clients remember nothing. Its uplink, for audits,
      is `factor_link(factors, rest)`.

    Raises:
      ValueError: from `init` for a downlink with memory; from `round` for a compressor
        with memory, and for a model without dense layers or with one used twice.

    >>> from fedjax_comp.compress import stochastic_quantize
    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(16)(10), input_shape=(8, 8, 1), scale=1 / 16)
    >>> algorithm = indirect_gradients(
    ...     task, factors=stochastic_quantize(16), optimizer=optax.sgd(0.1)
    ... )
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    1210
    """
    up = factor_link(factors, rest)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, PyTree]:
        checks.gradients_alone("indirect_gradients()", params)
        del key
        down_state = partly_heard(down, params)
        return ServerState(Model(params, optimizer.init(params)), down_state), ()

    def run_round(
        key: jax.Array, server: ServerState, clients: PyTree, cohort: Cohort
    ) -> tuple[ServerState, PyTree, RoundInfo]:
        checks.no_rates("indirect_gradients()", cohort.clients)
        down_key, up_key = jax.random.split(key)
        said = broadcast(
            down, make_context(down_key, 0), server.model.params, server.downlink
        )

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, jax.Array]
        ) -> tuple[Summand, Sent]:
            batches, rank = client
            context = make_context(shared.uplink_key, batches.client_id, rank)
            rows, mask = batches.rows.reshape(-1), batches.mask.reshape(-1)
            batch = jax.tree.map(lambda leaf: leaf[rows], shared.examples)
            params = shared.received
            layers = dense_layers(task, params, batch, mask)
            loss, own = factors_of(task, params, batch, mask, batches.key)
            healthy = tree.all_finite(own)
            own = tree.where(healthy, own, optax.tree.zeros_like(own))
            link = checks.memoryless(up, own, "as a part of indirect_gradients().")
            payload, _ = up.encode(context, own, link.sender)
            decoded, _ = up.decode(context, payload, link.receiver)
            estimate = gradient_of(decoded, layers, params)
            speaks = batches.active & healthy
            counts = speaks & tree.all_finite(estimate)
            used = mask.sum(dtype=jnp.float32)
            info = LocalInfo(loss.astype(jnp.float32) * used, used, jnp.int32(1))
            summand = Summand(
                update=weighted(estimate, share(batches.num_examples), counts),
                info=tree.where(counts, info, optax.tree.zeros_like(info)),
                dropped=(batches.active & ~counts).astype(jnp.int32),
            )
            return summand, sent_to_server(
                context,
                payload,
                link.receiver,
                speaks,
                client_id=batches.client_id,
                used=decoded,
                keep_message=keep_messages,
            )

        active = cohort.clients.active
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, sent = run_cohort(client_fn)(
            _Shared(said.received, up_key, cohort.examples), (cohort.clients, ranks)
        )
        towards = jax.tree.map(jnp.negative, weighted_mean(total.update))
        model, refused = step_towards(
            optimizer, server.model, towards, total.update.weight > 0
        )
        info = round_info(
            total,
            sent,
            said.traffic(active, cohort.clients.client_id),
            said.messages(active.any()) if keep_messages else None,
            refused,
        )
        link = said.link_after(server.downlink, active)
        return ServerState(model, link), clients, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )
