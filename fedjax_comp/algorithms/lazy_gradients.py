"""Lazily aggregated gradients (LAG, LAQ): clients with little news are silent.

Every client has the common model, and the server keeps q_i, the last gradient it heard
from each. A client sends the change of its gradient, Q(g_i - q_i), only if it is larger
than the last steps of the model and the quantization errors explain,

    ||Q(g_i - q_i)||^2 > sum_d xi_d ||s_d||^2 + 3 (||e_i||^2 + ||e_i'||^2),

or if it has been silent for `max_silence` rounds. Then q_i += Q(g_i - q_i) at both
ends. The server steps along s = sum_i n_i q_i / sum_i n_i, with old and new q_i alike.
Here s_d is the s of d steps ago, e_i the error g_i - q_i that this message would leave,
and e_i' what the last one left.

Source: Sun, Chen, Giannakis and Yang, "Communication-efficient distributed learning via
lazily aggregated quantized gradients", 2019 (arXiv 1909.07588), equations 7a and 7b;
without rounding (Q the identity, e = 0) it is LAG-WK of Chen, Giannakis, Sun and Yang,
2018 (arXiv 1805.09965), equation 15a. They write the sum as `1 / (alpha M)^2 sum_d xi_d
||w_(k+1-d) - w_(k-d)||^2` for plain gradient descent on a sum of M losses, which is the
same: its steps are `-alpha M s`. On batches in place of whole data sets it is their
stochastic variant: gradients of two batches differ, however near the models are.
"""

import math
from collections.abc import Sequence
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
from fedjax_comp.algorithms.links.given import given, given_execution
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
from fedjax_comp.client.sgd import LocalInfo
from fedjax_comp.compress import identity
from fedjax_comp.server.aggregate import share, weighted, weighted_mean
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.server.update import Model, step_towards


class ServerState(NamedTuple):
    """The server's model, and how long its last steps were.

    Attributes:
      model: parameters and the optimizer's state.
      downlink: memory of the broadcast.
      lengths: ||s_d||^2, the last one first, float32 `[D]`; zeros before the first.
    """

    model: Model
    downlink: LinkState
    lengths: jax.Array


class ClientState(NamedTuple):
    """What both ends know of one client's gradient.

    Attributes:
      heard: q_i, the gradient that the server goes on with, zeros before the first.
      left: ||e_i'||^2 of the last message, float32 scalar.
      silence: rounds since then, int32 scalar; -1 before the first.
    """

    heard: PyTree
    left: jax.Array
    silence: jax.Array


class _Shared(NamedTuple):
    received: PyTree
    threshold: jax.Array
    uplink_key: jax.Array
    examples: Examples


def lazy_gradients(
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    weights: Sequence[float] = (0.08,) * 10,
    max_silence: int = 100,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """LAQ, or LAG without an uplink compressor: gradients are sent when they are news.

    A round is one step: all examples that a client has in it are one batch. The cohort
    is all clients in every round; those that are not active are silent. Every round the
    server sends each its model and, as one number, the sum over its last steps.

    Args:
      task: the model and its loss.
      optimizer: the server's; it is given the lazy mean as the gradient. The paper's is
        `optax.sgd(alpha)`.
      uplink: Q, without memory; `identity()` when None. The paper's is b bits a
        coordinate between -R and R, R the largest coordinate: this is, but for the ends
        of the range, `flattened(stochastic_quantize(2**b, rounding="nearest"))`.
      weights: xi_1, ..., xi_D, each at least 0; the paper's experiments have D = 10 and
        0.8 / D. All 0 and `identity()`: everyone with any news speaks.
      max_silence: a client speaks after so many rounds of silence, at least 0; 0 for
        everyone in every round, which is distributed descent.
      downlink: compressor of the model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. Its links, for audits, are
      those of `lazy_links`. `RoundInfo.observed` has the sum `loss_sum` of the losses
      before the step, `violators` and `members` (both: who spoke) and `full` (whether
      all did), as `model_averaging` has them.

    Raises:
      ValueError: for weights or a `max_silence` out of range; from `init` for an uplink
        with memory.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    >>> algorithm = lazy_gradients(task, optimizer=optax.sgd(0.1))
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> server.lengths.shape
    (10,)
    """
    if not weights or any(not (math.isfinite(x) and x >= 0) for x in weights):
        raise ValueError(f"Expected weights={weights}, one or more, all >= 0.")
    max_silence = checks.integer("max_silence", max_silence, minimum=0)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    gradient_of = jax.value_and_grad(task.loss)
    xi = tuple(float(x) for x in weights)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        checks.gradients_alone("lazy_gradients()", params)
        del key
        checks.memoryless(up, params, "as the uplink of lazy_gradients(): q_i is it.")
        server = ServerState(
            Model(params, optimizer.init(params)),
            down.init(params),
            jnp.zeros(len(xi), jnp.float32),
        )
        nothing = ClientState(
            optax.tree.zeros_like(params), jnp.zeros((), jnp.float32), jnp.int32(-1)
        )
        return server, nothing

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        checks.no_rates("lazy_gradients()", cohort.clients)
        down_key, up_key = jax.random.split(key)
        said = broadcast(
            down, make_context(down_key, 0), server.model.params, server.downlink
        )
        told = broadcast(
            identity(),
            make_context(jax.random.fold_in(key, _THRESHOLD), 0),
            jnp.sum(jnp.asarray(xi, jnp.float32) * server.lengths),
            LinkState((), ()),
        )

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, ClientState, jax.Array]
        ) -> tuple[Summand, tuple[ClientState, Sent]]:
            batches, state, rank = client
            context = make_context(shared.uplink_key, batches.client_id, rank)
            rows, mask = batches.rows.reshape(-1), batches.mask.reshape(-1)
            batch = jax.tree.map(lambda leaf: leaf[rows], shared.examples)
            loss, gradient = gradient_of(shared.received, batch, mask, batches.key)
            healthy = tree.all_finite((loss, gradient))
            gradient = tree.where(healthy, gradient, state.heard)
            link = checks.memoryless(up, gradient, "here.")
            payload, _ = up.encode(
                context, optax.tree.sub(gradient, state.heard), link.sender
            )
            news, _ = up.decode(context, payload, link.receiver)
            heard = optax.tree.add(state.heard, news)
            left = _squared_norm(optax.tree.sub(gradient, heard))
            late = (state.silence < 0) | (state.silence >= max_silence)
            sends = late | is_news(
                _squared_norm(news), shared.threshold, left, state.left
            )
            speaks = batches.active & healthy & sends
            counts = speaks & tree.all_finite(heard)
            after = tree.where(
                counts,
                ClientState(heard, left, jnp.int32(0)),
                state._replace(
                    silence=state.silence
                    + (batches.active & (state.silence >= 0)).astype(jnp.int32)
                ),
            )
            known = after.silence >= 0
            trained = batches.active & healthy
            used = mask.sum(dtype=jnp.float32)
            info = LocalInfo(loss.astype(jnp.float32) * used, used, jnp.int32(1))
            summand = Summand(
                update=weighted(after.heard, share(batches.num_examples), known),
                info=tree.where(trained, info, optax.tree.zeros_like(info)),
                dropped=(batches.active & (~healthy | (speaks & ~counts))).astype(
                    jnp.int32
                ),
            )
            return summand, (
                after,
                sent_to_server(
                    context,
                    payload,
                    link.receiver,
                    speaks,
                    client_id=batches.client_id,
                    used=news,
                    keep_message=keep_messages,
                ),
            )

        active = cohort.clients.active
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            _Shared(said.received, told.received, up_key, cohort.examples),
            (cohort.clients, clients, ranks),
        )
        mean = weighted_mean(total.update)
        anyone = active.any() & (total.update.weight > 0)
        model, refused = step_towards(
            optimizer, server.model, jax.tree.map(jnp.negative, mean), anyone
        )
        lengths = jnp.concatenate([_squared_norm(mean)[None], server.lengths[:-1]])
        everyone = jnp.ones_like(active)
        spoken = said.messages(jnp.array(True)) if keep_messages else None
        info = round_info(
            total,
            sent,
            said.traffic(everyone, cohort.clients.client_id),
            spoken,
            refused,
            loss_sum=Observed(total.info.loss_sum),
            violators=Observed(sent.spoke.sum(dtype=jnp.int32)),
            members=Observed(sent.spoke.sum(dtype=jnp.int32)),
            full=Observed(sent.spoke.all()),
        )
        info.traffic["thresholds"] = told.traffic(everyone, cohort.clients.client_id)
        if keep_messages:
            info.messages["thresholds"] = told.messages(jnp.array(True))
        stepped = anyone & ~refused
        return (
            ServerState(model, said.link, tree.where(stepped, lengths, server.lengths)),
            states,
            info,
        )

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )


def lazy_links(uplink: Compressor, downlink: Compressor) -> dict[str, Compressor]:
    """The compressor of every kind of message of `lazy_gradients`, for audits."""
    return {"uplink": uplink, "downlink": downlink, "thresholds": identity()}


def is_news(
    news: jax.Array, steps: jax.Array, left: jax.Array, left_before: jax.Array
) -> jax.Array:
    """Whether a client has more to say than the model's steps explain (7a, negated).

    Args:
      news: ||Q(g_i - q_i)||^2.
      steps: sum_d xi_d ||s_d||^2.
      left: ||e_i||^2, of this message.
      left_before: ||e_i'||^2, of the last that was sent.

    >>> [bool(is_news(jnp.float32(4), s, 1.0, 0.0)) for s in (0.5, 1.0)]
    [True, False]
    """
    return news > steps + 3 * (left + left_before)


_THRESHOLD = 0x7468
"""Folds the key of a message that carries one number, apart from all others."""


def _squared_norm(x: PyTree) -> jax.Array:
    return optax.tree.norm(tree.widened(x), squared=True).astype(jnp.float32)
