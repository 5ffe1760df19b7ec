"""Quantized data in place of gradients (DaQuSGD): clients send examples in few bits.

The server evaluates the gradient at x', the examples that it decoded. Three parts can
be switched on separately: the quantizer of the data; a refinement, Q(grad(x) -
grad(x')), by any compressor; and an importance layer that sends only some examples,
with weights. The length of a message depends on the dimension of the data and not on
the size of the model (except for the refinement). The network is trusted: data leave
the client.

Source: Hanna, Ezzeldin, Fragouli and Diggavi, "Quantizing data for distributed
learning" (arXiv 2012.07913). Only its abstract was readable to us: everything beyond
the three parts and their purpose is a reconstruction. With B drawn examples, of which
example i is sent (s_i = 1) with probability p_i, a client's estimate is

    g = h(x') + Q(h(x) - h(x')),   h(x) = (1/B) sum_i (s_i / p_i) grad(x_i),

whose mean is the batch's gradient whenever Q is unbiased, however coarse x' is.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, sent_to_server
from fedjax_comp.algorithms.importance import (
    Importance,
    draw,
    each_loss,
    probability_exponents,
)
from fedjax_comp.algorithms.links.data_uplink import Upload, data_uplink
from fedjax_comp.algorithms.links.example_link import (
    Batch,
    Cache,
    example_link,
    weight_of,
)
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    fold_context,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo, mean_loss
from fedjax_comp.server.aggregate import (
    WeightedSum,
    share,
    weighted,
    weighted_mean,
)
from fedjax_comp.server.broadcast import Broadcast, broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink."""

    model: Model
    downlink: LinkState


class ClientState(NamedTuple):
    """One client: the memory of its uplink, and its importance threshold's."""

    uplink: LinkState
    threshold: PyTree


class _Shared(NamedTuple):
    received: PyTree
    uplink_key: jax.Array
    examples: Examples


class _Summand(NamedTuple):
    gradient: WeightedSum
    loss_sum: jax.Array
    examples_used: jax.Array
    steps: jax.Array
    examples_sent: jax.Array
    dropped: jax.Array


def data_quantization(
    task: Task,
    *,
    quantizer: Compressor,
    num_classes: int,
    optimizer: optax.GradientTransformation,
    scale: float | None = None,
    refinement: Compressor | None = None,
    importance: Importance | None = None,
    cache: Cache | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Distributed SGD on quantized examples.

    A round is one step: all examples that a client has in it are one batch. The server
    weights clients by their numbers of examples. A client needs the model only to
    refine or to weigh its examples: where it does neither, nothing is broadcast.

    The server evaluates the gradient at x', and so does the client for its residual.
    They have the same model and the same decoded bits and get the same numbers, so the
    simulation evaluates it once.

    Args:
      task: the model and its loss.
      quantizer: of each example's `x` by itself, e.g. `uniform_lattice(1)`; it must
        have no memory.
      num_classes: labels cost `ceil(log2(num_classes))` bits each.
      optimizer: the server's; it is given the mean estimate as the gradient.
      scale: `x * scale` in float32 is what the quantizer gets, so that it lies in the
        quantizer's range (`DataSpec.scale`); None hands `x` over as it is stored.
      refinement: compressor of the residual gradient; None for no refinement. Unbiased
        ones make the estimate unbiased; others belong under `error_feedback`.
      importance: which examples are sent; None for all.
      cache: keep what was sent, so that an example drawn again costs its number only;
        None for no cache.
      downlink: compressor of the model, without memory at the receiver; `identity()`
        when None. Not used where nobody needs the model.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. `RoundInfo.train_loss` is the
      loss at what the server decoded; `observed` has `examples_sent`. Its uplink, for
      audits, is `data_uplink` of the same arguments.

    Raises:
      ValueError: as `example_link`; from `init` for a downlink with memory.

    >>> from fedjax_comp.compress.quantize.lattice import uniform_lattice
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    >>> algorithm = data_quantization(
    ...     task,
    ...     quantizer=uniform_lattice(2),
    ...     num_classes=10,
    ...     optimizer=optax.sgd(0.1),
    ...     scale=1 / 16,
    ... )
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    up = data_uplink(
        quantizer,
        num_classes=num_classes,
        refinement=refinement,
        weighted=importance is not None,
        cache=cache,
    )
    link = example_link(
        quantizer,
        num_classes=num_classes,
        weighted=importance is not None,
        cache=cache,
    )
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    needs_model = refinement is not None or importance is not None

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        checks.gradients_alone("data_quantization()", params)
        del key
        down_state = partly_heard(down, params)
        server = ServerState(Model(params, optimizer.init(params)), down_state)
        like = Upload(batch=None, residual=params if refinement is not None else ())
        threshold = () if importance is None else importance.init()
        return server, ClientState(up.init(like), threshold)

    def batch_loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
        if importance is None:
            return task.loss(params, batch.examples, batch.sent, key)
        losses = each_loss(task, params, batch.examples, batch.sent, key)
        drawn = jnp.maximum(batch.drawn, 1).astype(jnp.float32)
        return jnp.sum(losses * weight_of(batch.exponents)) / drawn

    gradient_of = jax.value_and_grad(batch_loss)

    def choose(
        key: jax.Array,
        params: PyTree,
        examples: Examples,
        mask: jax.Array,
        state: PyTree,
    ) -> tuple[jax.Array, jax.Array, PyTree, jax.Array]:
        """Exponents, what is sent, the threshold's state, and whether all is finite."""
        if importance is None:
            return jnp.zeros(mask.shape, jnp.uint8), mask, state, jnp.asarray(True)
        scores = importance.score(
            task, params, examples, mask, jax.random.fold_in(key, _LOSS)
        )
        healthy = tree.all_finite(jnp.where(mask, scores, 0))
        scores = jnp.where(mask & healthy, scores, 0)
        tau = importance.threshold(state, scores, mask)
        exponents = probability_exponents(scores, tau)
        chance = jnp.where(mask, 1 / weight_of(exponents), 0)
        rate = chance.sum() / jnp.maximum(mask.sum(dtype=jnp.float32), 1)
        sent = mask & draw(key, exponents)
        return exponents, sent, importance.update(state, tau, rate), healthy

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        checks.no_rates("data_quantization()", cohort.clients)
        down_key, up_key = jax.random.split(key)
        context, params = make_context(down_key, 0), server.model.params
        memory = server.downlink
        said = Broadcast(params, memory, (), context, memory.receiver)
        if needs_model:
            said = broadcast(down, context, params, memory)

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, ClientState, jax.Array]
        ) -> tuple[_Summand, tuple[ClientState, Sent]]:
            batches, state, rank = client
            params, context = (
                shared.received,
                make_context(shared.uplink_key, batches.client_id, rank),
            )
            rows, mask = batches.rows.reshape(-1), batches.mask.reshape(-1)
            stored = jax.tree.map(lambda leaf: leaf[rows], shared.examples)
            # What is masked, or no number, never meets the model or the memories.
            stored, healthy = _finite(stored, mask)
            exponents, sent, threshold, scored = choose(
                jax.random.fold_in(context.client_key, _DRAW),
                params,
                stored,
                mask,
                state.threshold,
            )
            drawn = mask.sum(dtype=jnp.int32)
            own = Batch(stored, rows, sent, exponents, drawn)
            scaled = own._replace(examples=_scaled(stored, scale))
            senders, receivers = state.uplink
            payload, kept_sent = link.encode(
                fold_context(context, 0), scaled, senders[0]
            )
            decoded, store = link.decode(
                fold_context(context, 0), payload, receivers[0]
            )
            there = decoded._replace(examples=_unscaled(decoded.examples, scale))
            # What the loss draws it draws alike at both ends.
            loss_key = jax.random.fold_in(context.client_key, _LOSS)
            loss, estimate = gradient_of(params, there, loss_key)
            healthy = healthy & scored
            refined, owed, memory, correction = (), (), (), ()
            if refinement is not None:
                residual = optax.tree.sub(
                    gradient_of(params, own, loss_key)[1], estimate
                )
                healthy = healthy & tree.all_finite(residual)
                residual = tree.where(
                    healthy, residual, optax.tree.zeros_like(residual)
                )
                refined, owed = refinement.encode(
                    fold_context(context, 1), residual, senders[1]
                )
                correction, memory = refinement.decode(
                    fold_context(context, 1), refined, receivers[1]
                )
                estimate = optax.tree.add(estimate, correction)
            speaks = batches.active & healthy
            weight = share(batches.num_examples)
            counts = speaks & tree.all_finite(estimate)
            used = jnp.where(counts, drawn, 0)
            summand = _Summand(
                gradient=weighted(estimate, weight, counts),
                loss_sum=jnp.where(counts, loss.astype(jnp.float32), 0)
                * used.astype(jnp.float32),
                examples_used=used,
                steps=counts.astype(jnp.int32),
                examples_sent=jnp.where(speaks, sent.sum(dtype=jnp.int32), 0),
                dropped=(batches.active & ~counts).astype(jnp.int32),
            )
            uplink = LinkState((kept_sent, owed), (store, memory))
            remembered = tree.where(counts, ClientState(uplink, threshold), state)
            message = sent_to_server(
                context,
                (payload, refined),
                receivers,
                speaks,
                client_id=batches.client_id,
                used=Upload(decoded, correction),
                keep_message=keep_messages,
            )
            return summand, (remembered, message)

        active = cohort.clients.active
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            _Shared(said.received, up_key, cohort.examples),
            (cohort.clients, clients, ranks),
        )
        towards = jax.tree.map(jnp.negative, weighted_mean(total.gradient))
        model, refused = step_towards(
            optimizer, server.model, towards, total.gradient.weight > 0
        )
        heard = active if needs_model else jnp.zeros_like(active)
        messages: dict[str, Messages] = {}
        if keep_messages:
            assert sent.messages is not None  # as `client_fn` keeps it
            messages = {
                "uplink": sent.messages,
                "downlink": said.messages(heard.any()),
            }
        used = total.examples_used.astype(jnp.float32)
        info = RoundInfo(
            train_loss=mean_loss(LocalInfo(total.loss_sum, used, total.steps)),
            client_steps=total.steps,
            dropped=jnp.where(refused, active.sum(dtype=jnp.int32), total.dropped),
            traffic={
                "uplink": sent.traffic,
                "downlink": said.traffic(heard, cohort.clients.client_id),
            },
            observed={"examples_sent": Observed(total.examples_sent)},
            messages=messages,
        )
        downlink_after = said.link_after(memory, heard)
        return ServerState(model, downlink_after), states, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )


_DRAW = 0x6461  # apart from the indices by which parts of the message fold their keys
_LOSS = 0x6C6F


def _finite(examples: Examples, mask: jax.Array) -> tuple[Examples, jax.Array]:
    """Zeros where masked or not finite, and whether what is not masked was finite."""
    visible = jax.tree.map(functools.partial(tree.keep, mask), examples)
    healthy = tree.all_finite(visible)
    clean = jax.tree.map(
        lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, jnp.zeros((), leaf.dtype)),
        visible,
    )
    return clean, healthy


def _scaled(examples: Examples, scale: float | None) -> Examples:
    if scale is None:
        return examples
    return examples._replace(
        x=jax.tree.map(lambda leaf: leaf.astype(jnp.float32) * scale, examples.x)
    )


def _unscaled(examples: Examples, scale: float | None) -> Examples:
    if scale is None:
        return examples
    return examples._replace(x=jax.tree.map(lambda leaf: leaf / scale, examples.x))
