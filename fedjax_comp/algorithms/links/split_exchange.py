"""What crosses the cuts of a split model for one batch, and the gradients of its parts.

Activations and their gradients each go through a `Compressor`. The receiving part is
differentiated at the decoded activation, and the gradient that comes back is used as
the gradient of the activation itself: the compressor counts as the identity in the
backward pass (straight-through). A batch's activations have no relation to those of the
next one, so a link must have no memory.

Source: Vepakomma, Gupta, Swedish and Raskar 2018, "Split learning for health"
(arXiv 1812.00564), the vanilla and the U-shaped configuration.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.algorithms.links.no_peek import Penalty
from fedjax_comp.base import (
    Bits,
    Compressor,
    Context,
    Ends,
    LinkState,
    Messages,
    PyTree,
    Traffic,
    fold_context,
)
from fedjax_comp.models.split import Part, SplitTask, params_of
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import Symbols, keep_prefix
from fedjax_comp.wire.traffic import to_client, to_server


class Batch(NamedTuple):
    """One batch; the examples that count stand first.

    Attributes:
      x: inputs as stored, `[B, ...]`.
      y: labels, int32 `[B]` or `[B, T]`.
      mask: bool `[B]`, True for the first few.
    """

    x: jax.Array
    y: jax.Array
    mask: jax.Array


class Places(NamedTuple):
    """A tree for each place where parts run: parameters, or their gradients.

    Attributes:
      client: of the first part and, where there are three, of the last.
      server: of the other part.
    """

    client: PyTree
    server: PyTree


class Sent(NamedTuple):
    """One message, without `spoke`, which the caller knows.

    Attributes:
      bits: its length.
      message: as it was sent.
    """

    bits: Bits
    message: Messages

    def traffic(self, spoke: jax.Array) -> Traffic:
        """What several of them cost, in one row: leaves `[...]` as in `spoke`."""
        like = spoke.shape
        return Traffic(
            Bits(self.bits.fixed, tuple(v.reshape(-1) for v in self.bits.variable)),
            spoke.reshape(-1),
            Ends(*(jnp.broadcast_to(x, like).reshape(-1) for x in self.message.ends)),
        )

    def messages(self, spoke: jax.Array) -> Messages:
        """Several of them in one row, for an audit."""
        axes = spoke.ndim
        return jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[axes:]), self.message._replace(spoke=spoke)
        )


class Exchange(NamedTuple):
    """What becomes of one batch.

    Attributes:
      loss: mean loss over its examples.
      gradients: of the parts' parameters.
      sent: the messages, by name.
      spoke: bool scalars by name, which of these are sent: none from where something is
        not finite.
    """

    loss: jax.Array
    gradients: Places
    sent: dict[str, Sent]
    spoke: dict[str, jax.Array]


class Labelled(NamedTuple):
    """Activations and the labels they have, of which only the first few count.

    Attributes:
      activations: `[B, ...]`.
      labels: int32 `[B]` or `[B, T]`.
      num_examples: how many of them count, uint32 scalar.
    """

    activations: jax.Array
    labels: jax.Array
    num_examples: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelledPayload:
    """One message of activations and labels; `labels` says how many there are."""

    activations: PyTree
    labels: Symbols


def with_labels(compressor: Compressor, *, num_classes: int) -> Compressor:
    """A link for `Labelled`: activations compressed, labels in whole bits.

    Args:
      compressor: of the activations; it must have no memory.
      num_classes: a label costs `ceil(log2(num_classes))` bits.

    Returns:
      A `Compressor` without memory. Labels behind the count decode as zeros.

    Raises:
      ValueError: from `init` for a compressor with memory.

    >>> from fedjax_comp.base import make_context
    >>> from fedjax_comp.compress import identity
    >>> from fedjax_comp.wire.accounting import message_bits
    >>> link = with_labels(identity(), num_classes=10)
    >>> batch = Labelled(jnp.ones((4, 3)), jnp.arange(4), jnp.uint32(2))
    >>> sender = link.init(batch).sender
    >>> payload, _ = link.encode(make_context(jax.random.key(0), 0), batch, sender)
    >>> message_bits(num_bits(payload)) - 4 * 3 * 32 - 2 * 4  # the count
    3
    """

    def init(like: Labelled) -> LinkState:
        return checks.memoryless(compressor, like.activations, MEMORYLESS)

    def encode(
        context: Context, batch: Labelled, sender: PyTree
    ) -> tuple[LabelledPayload, PyTree]:
        payload, sender = compressor.encode(context, batch.activations, sender)
        count = batch.num_examples * jnp.uint32(
            batch.labels.size // batch.labels.shape[0]
        )
        labels = keep_prefix(batch.labels.astype(jnp.uint32), count)
        return LabelledPayload(payload, Symbols(labels, num_classes, count)), sender

    def decode(
        context: Context, payload: LabelledPayload, receiver: PyTree
    ) -> tuple[Labelled, PyTree]:
        activations, receiver = compressor.decode(
            context, payload.activations, receiver
        )
        labels = payload.labels
        assert labels.count is not None  # as `encode` makes it
        per_example = labels.values.size // labels.values.shape[0]
        count = labels.count // jnp.uint32(per_example)
        return Labelled(activations, labels.values.astype(jnp.int32), count), receiver

    return Compressor(init, encode, decode)


MEMORYLESS = (
    "for activations and their gradients: those of one batch are not those of the "
    "next; leave error feedback and differences out."
)
"""What a link's compressor is refused with that has a memory."""


def divide(task: SplitTask, params: PyTree) -> Places:
    """A whole model's parameters, part by part.

    Raises:
      ValueError: when the model has not two or three parts.
    """
    if len(task.parts) not in (2, 3):
        raise ValueError(
            f"Expected two parts (one cut) or three (two cuts), got {len(task.parts)}."
        )
    first, middle, *last = (params_of(part.names, params) for part in task.parts)
    return Places((first, *last), middle)


def join(places: Places) -> PyTree:
    """The whole model's parameters again."""
    return {
        name: leaf
        for part in (*places.client, places.server)
        for name, leaf in part.items()
    }


def front(batch: Batch) -> Batch:
    """The batch with the examples that count first, and zeros for the other inputs.

    >>> y = jnp.array([7, 8, 9])
    >>> front(Batch(y, y, jnp.array([True, False, True]))).x.tolist()
    [7, 9, 0]
    """
    order = jnp.argsort(~batch.mask, stable=True)
    x, y, mask = (jnp.take(leaf, order, axis=0) for leaf in batch)
    return Batch(trees.keep(mask, x), trees.keep(mask, y), mask)


def send(
    link: Compressor, context: Context, tree: PyTree, ends: Ends
) -> tuple[PyTree, Sent]:
    """What is decoded of a tree at the other end, and the message it travelled in."""
    state = checks.memoryless(link, tree, MEMORYLESS)
    payload, _ = link.encode(context, tree, state.sender)
    decoded, _ = link.decode(context, payload, state.receiver)
    spoke = jnp.asarray(True)
    message = Messages(context, payload, state.receiver, spoke, ends, decoded)
    return decoded, Sent(num_bits(payload), message)


def exchange(
    task: SplitTask,
    uplink: Compressor,
    downlink: Compressor,
    context: Context,
    client_id: jax.Array,
    params: Places,
    batch: Batch,
    penalty: Penalty | None = None,
) -> Exchange:
    """One batch through a split model and back.

    With two parts, the client sends activations and labels and gets their gradient.
    With three it has the last part and the labels itself: it sends activations, gets
    the server's outputs, sends the gradient of these and gets that of its activations.

    Args:
      task: the model in two or three parts.
      uplink: of what the client sends, without memory.
      downlink: of what it is sent, without memory.
      context: of the batch; each message has its own part of it.
      client_id: whose batch it is, int32 scalar.
      params: the parts' parameters.
      batch: from `front`.
      penalty: on what activations tell of inputs, felt by the client's first part.

    Returns:
      The loss, the gradients and the messages.
    """
    run = _exchange_vanilla if len(task.parts) == 2 else _exchange_u_shaped
    return run(task, uplink, downlink, context, client_id, params, batch, penalty)


def _exchange_vanilla(
    task: SplitTask,
    uplink: Compressor,
    downlink: Compressor,
    context: Context,
    client_id: jax.Array,
    params: Places,
    batch: Batch,
    penalty: Penalty | None = None,
) -> Exchange:
    bottom, top = task.parts
    hidden, pull = _forward(bottom, params.client[0], batch.x, batch.mask)
    count = jnp.sum(batch.mask, dtype=jnp.uint32)
    link = with_labels(uplink, num_classes=task.num_classes)
    received, sent_up = send(
        link,
        fold_context(context, 0),
        Labelled(hidden, batch.y, count),
        to_server(client_id),
    )
    known = jnp.arange(batch.mask.shape[0], dtype=jnp.uint32) < received.num_examples

    def loss_of(params: PyTree, hidden: jax.Array) -> jax.Array:
        return task.loss(top.apply(params, hidden), received.labels, known)

    loss, (of_top, of_hidden) = jax.value_and_grad(loss_of, argnums=(0, 1))(
        params.server, received.activations
    )
    returned, sent_down = send(
        downlink, fold_context(context, 1), of_hidden, to_client(client_id)
    )
    wanted = _with_penalty(penalty, batch, hidden, returned)
    gradients = Places((pull(wanted)[0],), of_top)
    asks = trees.all_finite(hidden)
    at_server = (received.activations, loss, of_top, of_hidden)
    return Exchange(
        loss,
        gradients,
        {"activations": sent_up, "gradients": sent_down},
        {"activations": asks, "gradients": asks & trees.all_finite(at_server)},
    )


def _exchange_u_shaped(
    task: SplitTask,
    uplink: Compressor,
    downlink: Compressor,
    context: Context,
    client_id: jax.Array,
    params: Places,
    batch: Batch,
    penalty: Penalty | None = None,
) -> Exchange:
    bottom, middle, tail = task.parts
    of_client = params.client
    hidden, pull = _forward(bottom, of_client[0], batch.x, batch.mask)
    sent: dict[str, Sent] = {}
    up, down = to_server(client_id), to_client(client_id)
    received, sent["activations"] = send(uplink, fold_context(context, 0), hidden, up)
    outputs, pull_middle = jax.vjp(middle.apply, params.server, received)
    heard, sent["outputs"] = send(downlink, fold_context(context, 2), outputs, down)

    def loss_of(params: PyTree, outputs: jax.Array) -> jax.Array:
        return task.loss(tail.apply(params, outputs), batch.y, batch.mask)

    loss, (of_tail, of_outputs) = jax.value_and_grad(loss_of, argnums=(0, 1))(
        of_client[1], heard
    )
    answered, sent["output_gradients"] = send(
        uplink, fold_context(context, 3), of_outputs, up
    )
    of_middle, of_hidden = pull_middle(answered)
    returned, sent["gradients"] = send(
        downlink, fold_context(context, 1), of_hidden, down
    )
    wanted = _with_penalty(penalty, batch, hidden, returned)
    # In the order in which they are sent, with what each is made of.
    made_of = {
        "activations": hidden,
        "outputs": (received, outputs),
        "output_gradients": (heard, loss, of_tail, of_outputs),
        "gradients": (answered, of_middle, of_hidden),
    }
    spoke, so_far = {}, jnp.asarray(True)
    for name, values in made_of.items():
        spoke[name] = so_far = so_far & trees.all_finite(values)
    return Exchange(loss, Places((pull(wanted)[0], of_tail), of_middle), sent, spoke)


def _forward(
    bottom: Part, params: PyTree, x: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], tuple[PyTree]]]:
    """The activations of the examples that count, and their pull-back."""
    return jax.vjp(lambda params: trees.keep(mask, bottom.apply(params, x)), params)


def _with_penalty(
    penalty: Penalty | None, batch: Batch, hidden: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The gradient for the activations, with that of the penalty."""
    if penalty is None:
        return gradient
    return gradient + jax.grad(lambda z: penalty(batch.x, z, batch.mask))(hidden)


def finite(outcome: Exchange) -> jax.Array:
    """Whether the batch may be learnt from: all was sent, and all is finite."""
    all_sent = jnp.all(jnp.stack(list(outcome.spoke.values())))
    return all_sent & trees.all_finite((outcome.loss, outcome.gradients))
