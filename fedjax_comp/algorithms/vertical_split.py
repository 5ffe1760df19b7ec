"""Vertical split learning: holders have different features of the same examples.

For each batch every holder sends the outputs of its own model, the server computes the
rest of the model from all of them, and each holder gets the gradient of what it sent.
The server has the labels. Without compression this is training the whole model in one
place.

Source: Vepakomma, Gupta, Swedish and Raskar 2018, "Split learning for health"
(arXiv 1812.00564), the configuration for vertically partitioned data.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree as trees
from fedjax_comp.algorithms.links.given import given
from fedjax_comp.algorithms.links.split_exchange import (
    Batch,
    Sent,
    front,
    send,
)
from fedjax_comp.base import (
    Algorithm,
    Cohort,
    Compressor,
    Examples,
    PyTree,
    RoundInfo,
    make_context,
)
from fedjax_comp.client.sgd import Learner, LocalInfo, at_rate, mean_loss
from fedjax_comp.models.vertical import VerticalTask, bottom_name, take_block
from fedjax_comp.wire.traffic import to_client, to_server


class _Outcome(NamedTuple):
    loss: jax.Array
    gradients: PyTree
    sent: dict[str, Sent]
    spoke: dict[str, jax.Array]


class _Said(NamedTuple):
    sent: dict[str, Sent]
    spoke: dict[str, jax.Array]


def vertical_split(
    task: VerticalTask,
    *,
    optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Split learning of `M` holders of different features.

    A cohort has one client: the examples, which all holders have in the same order.
    A batch of which something is not finite, or that would lead to parts that are not,
    changes nothing, and no gradient is sent unless the server's numbers are all finite.
    `ClientBatches.rate` multiplies the steps of all parts.

    Args:
      task: the model in vertical parts.
      optimizer: of all parts; its state stays where they are.
      uplink: compressor of a holder's activations, without memory; `identity()` when
        None.
      downlink: compressor of their gradients, without memory; `identity()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit: those
        of holder `i` are `activations_i` and `gradients_i`.

    Returns:
      An `Algorithm` of `Learner`; clients have no state. Every holder has kinds of
      messages of its own, `activations_i` and `gradients_i`, with an entry for every
      batch; holder `i` is the client in their `Ends`.

    Raises:
      ValueError: from a round for a cohort of several clients or a compressor with
        memory.

    >>> from fedjax_comp.models import linear
    >>> from fedjax_comp.models.vertical import vertical_classification
    >>> task = vertical_classification(
    ...     linear(),
    ...     linear(),
    ...     blocks=[[0, 1], [2]],
    ...     num_outputs=3,
    ...     num_classes=2,
    ...     num_features=3,
    ... )
    >>> algorithm = vertical_split(task, optimizer=optax.sgd(0.1))
    >>> params = task.task.init(jax.random.key(0))
    >>> learner, _ = algorithm.init(jax.random.key(1), params)
    >>> trees.size(learner.params)
    29
    """
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    holders = range(len(task.blocks))

    def init(key: jax.Array, params: PyTree) -> tuple[Learner, tuple[()]]:
        del key
        return Learner(params, optimizer.init(params)), ()

    def exchange(key: jax.Array, params: PyTree, batch: Batch) -> _Outcome:
        x = batch.x.astype(jnp.float32) * task.scale
        sent: dict[str, Sent] = {}
        spoke: dict[str, jax.Array] = {}
        pulls, received = [], []
        contexts = [make_context(key, i) for i in holders]
        for i, block in enumerate(task.blocks):

            def forward(params: PyTree, i: int = i, block: PyTree = block) -> jax.Array:
                out = task.bottoms[i].apply({"params": params}, take_block(x, block))
                return trees.keep(batch.mask, cast(jax.Array, out))

            hidden, pull = jax.vjp(forward, params[bottom_name(i)])
            decoded, sent[f"activations_{i}"] = send(
                up, contexts[i], hidden, to_server(i)
            )
            spoke[f"activations_{i}"] = trees.all_finite(hidden)
            pulls.append(pull)
            received.append(decoded)

        def loss_of(top: PyTree, hidden: list[jax.Array]) -> jax.Array:
            joined = Examples(jnp.concatenate(hidden, axis=1), batch.y)
            return task.loss.loss(top, joined, batch.mask, key)

        loss, (of_top, of_hidden) = jax.value_and_grad(loss_of, argnums=(0, 1))(
            params["top"], received
        )
        gradients = {"top": of_top}
        answers = trees.all_finite((received, loss, of_top, of_hidden))
        answers = answers & jnp.all(jnp.stack(list(spoke.values())))
        back = jax.random.fold_in(key, len(task.blocks))
        for i in holders:
            returned, sent[f"gradients_{i}"] = send(
                down, make_context(back, i), of_hidden[i], to_client(i)
            )
            spoke[f"gradients_{i}"] = answers
            (gradients[bottom_name(i)],) = pulls[i](returned)
        return _Outcome(loss, gradients, sent, spoke)

    def run_round(
        key: jax.Array, learner: Learner, clients: tuple[()], cohort: Cohort
    ) -> tuple[Learner, tuple[()], RoundInfo]:
        if cohort.clients.active.shape[0] != 1:
            raise ValueError(
                "Expected a cohort of one client, the examples that all holders have; "
                f"got {cohort.clients.active.shape[0]}."
            )
        batches = jax.tree.map(lambda x: x[0], cohort.clients)
        examples = cohort.examples

        def step(
            carry: tuple[Learner, LocalInfo],
            work: tuple[jax.Array, jax.Array, jax.Array],
        ) -> tuple[tuple[Learner, LocalInfo], tuple[_Said, jax.Array]]:
            learner, info = carry
            index, rows, mask = work
            batch = front(Batch(examples.x[rows], examples.y[rows], mask))
            outcome = exchange(jax.random.fold_in(key, index), learner.params, batch)
            present = batches.active & jnp.any(mask)
            updates, state = optimizer.update(
                outcome.gradients, learner.optimizer_state, learner.params
            )
            updates = at_rate(updates, batches.rate)
            trained = Learner(optax.apply_updates(learner.params, updates), state)
            spoke = {kind: present & sent for kind, sent in outcome.spoke.items()}
            learns = jnp.all(jnp.stack(list(spoke.values()))) & trees.all_finite(
                (outcome.loss, outcome.gradients, trained)
            )
            used = jnp.sum(mask, dtype=jnp.float32)
            after = LocalInfo(
                info.loss_sum + outcome.loss * used,
                info.examples_used + used,
                info.steps + 1,
            )
            kept = trees.where(learns, (trained, after), (learner, info))
            return kept, (_Said(outcome.sent, spoke), present & ~learns)

        steps = jnp.arange(batches.rows.shape[0], dtype=jnp.uint32)
        nothing = LocalInfo(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        (learner, info), (said, broken) = jax.lax.scan(
            step, (learner, nothing), (steps, batches.rows, batches.mask)
        )
        round_info = RoundInfo(
            train_loss=mean_loss(info),
            client_steps=info.steps * len(task.blocks),
            dropped=jnp.any(broken).astype(jnp.int32),
            traffic={
                kind: one.traffic(said.spoke[kind]) for kind, one in said.sent.items()
            },
            observed={},
            messages={
                kind: one.messages(said.spoke[kind])
                for kind, one in said.sent.items()
                if keep_messages
            },
        )
        return learner, clients, round_info

    return Algorithm(init=init, round=run_round, params=lambda learner: learner.params)
