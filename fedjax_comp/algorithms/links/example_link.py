"""Examples on a link: each by itself through any compressor, in exactly counted bits.

A message holds the examples that are sent, one after another, and their labels. How
many there are depends on the data, so every field has a count and only those sent are
paid for. There is one count and no flag for each example drawn: the server has no use
for knowing which were left out.

With a `Cache` the server keeps the encoded examples that it was sent, and an example
that is drawn again is sent as its number in the cache.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.links.example_rows import (
    Rows,
    from_rows,
    to_rows,
    values_of,
)
from fedjax_comp.base import (
    Compressor,
    Context,
    Examples,
    LinkState,
    PyTree,
    fold_context,
    make_context,
)
from fedjax_comp.keys import make_key
from fedjax_comp.wire.codes.fixed_width import length_in_jit
from fedjax_comp.wire.fields import Symbols, is_field, keep_prefix

WEIGHTS = 64
STEPS_PER_OCTAVE = 8
"""Weights are `2**(e / 8)` for `e` in 0, ..., 63: six bits, from 1 to 235."""


class Batch(NamedTuple):
    """The examples of a batch, and what becomes of each.

    Attributes:
      examples: `[M, ...]`; `x` in floats, where it is to be quantized.
      ids: int32 `[M]`, which of the client's examples each is. It is not sent: zeros
        when decoded.
      sent: bool `[M]`; decoded, those sent stand first.
      exponents: uint8 `[M]`, each one's weight is `weight_of(exponent)`.
      drawn: int32 scalar, how many examples the batch was made of.
    """

    examples: Examples
    ids: jax.Array
    sent: jax.Array
    exponents: jax.Array
    drawn: jax.Array


class Cache(NamedTuple):
    """Room for the examples that the server keeps of each client.

    Attributes:
      capacity: examples, at least 1; what comes when it is full is not kept.
      input_shape: shape of one input, float32.
    """

    capacity: int
    input_shape: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SentExamples:
    """One message; parts that the link does not have are None.

    Attributes:
      drawn: how many examples the batch was made of, where not all are sent.
      fresh: payloads of the examples that the server has not got.
      labels: of these.
      repeats: numbers in the cache of the others.
      exponents: of the weights, those of fresh examples first.
      nothing: the quantizer's memory at the receiver, a tree without leaves.
    """

    drawn: Symbols | None
    fresh: Rows
    labels: Symbols
    repeats: Symbols | None
    exponents: Symbols | None
    nothing: PyTree


class Known(NamedTuple):
    """The sender's memory of the cache.

    Attributes:
      ids: int32 `[capacity]`, the example in each place, -1 for none.
      filled: int32 scalar, places taken.
    """

    ids: jax.Array
    filled: jax.Array


class Store(NamedTuple):
    """The cache itself, at the receiver.

    Attributes:
      rows: arrays of the payload, `[capacity, ...]`.
      labels: int32 `[capacity, ...]`.
      keys: key words of the context each example came in, uint32 `[capacity, 2, w]`.
      filled: int32 scalar, places taken.
    """

    rows: tuple[jax.Array, ...]
    labels: jax.Array
    keys: jax.Array
    filled: jax.Array


def weight_of(exponents: jax.Array) -> jax.Array:
    """`2**(e / 8)`, float32.

    >>> weight_of(jnp.array([0, 8], jnp.uint8)).tolist()
    [1.0, 2.0]
    """
    return jnp.exp2(exponents.astype(jnp.float32) / STEPS_PER_OCTAVE)


def example_link(
    quantizer: Compressor,
    *,
    num_classes: int,
    weighted: bool = False,
    cache: Cache | None = None,
) -> Compressor:
    """A link for `Batch`es, of which each example is encoded by itself.

    Args:
      quantizer: of one example's `x`; it must have no memory.
      num_classes: labels cost `ceil(log2(num_classes))` bits each.
      weighted: whether only some examples are sent, with weights.
      cache: what the server keeps; None for nothing.

    Returns:
      A `Compressor` of `Batch`. `decode` gives the examples that were sent first and
      zeros behind them.

    Raises:
      ValueError: for fewer than one class or place in the cache; from `init` and
        `encode` for a quantizer with memory, or whose payload of one example has a
        length that depends on its values.

    >>> from fedjax_comp.compress.quantize.lattice import uniform_lattice
    >>> from fedjax_comp.wire.accounting import message_bits, num_bits
    >>> link = example_link(uniform_lattice(1), num_classes=10)
    >>> batch = Batch(
    ...     Examples(jnp.ones((4, 28, 28)), jnp.zeros(4, jnp.int32)),
    ...     ids=jnp.zeros(4, jnp.int32),
    ...     sent=jnp.ones(4, bool),
    ...     exponents=jnp.zeros(4, jnp.uint8),
    ...     drawn=jnp.int32(4),
    ... )
    >>> payload, _ = link.encode(make_context(jax.random.key(0), 0), batch, ())
    >>> message_bits(num_bits(payload)) - 4 * (784 + 1 + 4)  # the counts
    18
    """
    if num_classes < 1:
        raise ValueError(f"Expected num_classes={num_classes} >= 1.")
    if cache is not None and cache.capacity < 1:
        raise ValueError(f"Expected a cache of capacity={cache.capacity} >= 1.")

    def encode_each(contexts: Context, x: PyTree) -> tuple[PyTree, PyTree]:
        """Payloads of all examples, and the receiver's memory without leaves."""
        one = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], x))
        state = checks.memoryless(quantizer, one, MEMORYLESS)

        def encode_one(context: Context, x: PyTree) -> PyTree:
            return quantizer.encode(context, x, state.sender)[0]

        return jax.vmap(encode_one)(contexts, x), state.receiver

    def init(like: PyTree) -> LinkState:
        del like  # a batch; the cache must be laid out before there is one
        if cache is None:
            return LinkState((), ())
        x = jax.ShapeDtypeStruct(cache.input_shape, jnp.float32)
        sender = checks.memoryless(quantizer, x, MEMORYLESS).sender
        context = jax.eval_shape(lambda: make_context(make_key(0), 0))
        payload, _ = jax.eval_shape(quantizer.encode, context, x, sender)
        words = jax.eval_shape(lambda: jax.random.key_data(make_key(0))).shape
        room, nothing = cache.capacity, jnp.zeros((), jnp.int32)
        store = Store(
            rows=tuple(
                jnp.zeros((room, *values_of(field).shape), values_of(field).dtype)
                for field in jax.tree.leaves(payload, is_leaf=is_field)
            ),
            labels=jnp.zeros(room, jnp.int32),
            keys=jnp.zeros((room, 2, *words), jnp.uint32),
            filled=nothing,
        )
        return LinkState(Known(jnp.full(room, -1, jnp.int32), nothing), store)

    def encode(context: Context, batch: Batch, sender: PyTree) -> tuple[PyTree, PyTree]:
        capacity = batch.sent.shape[0]
        place = jnp.full(capacity, -1, jnp.int32)
        if cache is not None:
            place = _find(sender.ids, batch.ids)
        is_repeat = batch.sent & (place >= 0)
        is_fresh = batch.sent & (place < 0)
        order = jnp.argsort(jnp.where(is_fresh, 0, jnp.where(is_repeat, 1, 2)))
        fresh = is_fresh.sum(dtype=jnp.uint32)
        repeats = is_repeat.sum(dtype=jnp.uint32)
        x = jax.tree.map(lambda leaf: leaf[order], batch.examples.x)
        payload, nothing = encode_each(_contexts(context, capacity), x)
        labels = batch.examples.y[order]
        message = SentExamples(
            drawn=_number(batch.drawn, capacity) if weighted else None,
            fresh=to_rows(payload, fresh),
            labels=_symbols(labels, num_classes, fresh),
            repeats=None,
            exponents=None,
            nothing=nothing,
        )
        if weighted:
            exponents = _symbols(batch.exponents[order], WEIGHTS, fresh + repeats)
            message = dataclasses.replace(message, exponents=exponents)
        if cache is None:
            return message, sender
        behind = jnp.roll(place[order], -fresh.astype(jnp.int32))
        numbers = _symbols(jnp.maximum(behind, 0), cache.capacity, repeats)
        message = dataclasses.replace(message, repeats=numbers)
        to = _places(sender.filled, fresh, capacity, cache.capacity)
        known = Known(
            ids=sender.ids.at[to].set(batch.ids[order], mode="drop"),
            filled=_filled(sender.filled, fresh, cache.capacity),
        )
        return message, known

    def decode(
        context: Context, message: SentExamples, receiver: PyTree
    ) -> tuple[Batch, PyTree]:
        fresh = _count_of(message.labels)
        capacity = message.labels.values.shape[0]
        contexts = _contexts(context, capacity)
        fields = message.fresh.fields
        rows = tuple(values_of(field) for field in fields)
        labels = message.labels.values.astype(jnp.int32)
        sent = fresh
        if message.repeats is not None:
            room = message.repeats.cardinality
            sent = fresh + _count_of(message.repeats)
            keys = jnp.stack([jax.random.key_data(key) for key in contexts[:2]], axis=1)
            stored = (*receiver.rows, receiver.labels, receiver.keys)
            came = (*rows, labels, keys)
            back = jnp.roll(message.repeats.values, fresh.astype(jnp.int32))
            old = jnp.arange(capacity, dtype=jnp.uint32) >= fresh
            used = [
                jnp.where(tree.along(old, new), kept[back], new)
                for kept, new in zip(stored, came, strict=True)
            ]
            to = _places(receiver.filled, fresh, capacity, room)
            *held, held_labels, held_keys = (
                kept.at[to].set(new, mode="drop")
                for kept, new in zip(stored, came, strict=True)
            )
            filled = _filled(receiver.filled, fresh, room)
            receiver = Store(tuple(held), held_labels, held_keys, filled)
            *some, labels, keys = used
            rows = tuple(some)
            impl = jax.random.key_impl(context.round_key)
            contexts = contexts._replace(
                round_key=jax.random.wrap_key_data(keys[:, 0], impl=impl),
                client_key=jax.random.wrap_key_data(keys[:, 1], impl=impl),
            )

        def decode_one(context: Context, payload: PyTree) -> PyTree:
            return quantizer.decode(context, payload, message.nothing)[0]

        x = jax.vmap(decode_one)(contexts, from_rows(message.fresh, rows))
        here = jnp.arange(capacity, dtype=jnp.uint32) < sent
        exponents = jnp.zeros(capacity, jnp.uint8)
        drawn = sent.astype(jnp.int32)
        if message.exponents is not None and message.drawn is not None:
            exponents = message.exponents.values.astype(jnp.uint8)
            drawn = message.drawn.values[0].astype(jnp.int32)
        shown = jax.tree.map(lambda leaf: tree.keep(here, leaf), Examples(x, labels))
        batch = Batch(shown, jnp.zeros(capacity, jnp.int32), here, exponents, drawn)
        return batch, receiver

    return Compressor(init, encode, decode)


MEMORYLESS = (
    "for data: every example is encoded by itself; leave error feedback out, or put it "
    "on the refinement."
)
"""What a quantizer is refused with that has a memory."""


def _contexts(context: Context, capacity: int) -> Context:
    """The context of each place in the message, leading axis `M`."""
    places = jnp.arange(capacity, dtype=jnp.uint32)
    return jax.vmap(fold_context, in_axes=(None, 0))(context, places)


def _symbols(values: jax.Array, cardinality: int, count: jax.Array) -> Symbols:
    """Symbols of the first `count` examples, `values` `[M, ...]`."""
    total = count * jnp.uint32(values.size // values.shape[0])
    numbers = keep_prefix(values.astype(jnp.uint32), total)
    return Symbols(numbers, cardinality, total)


def _count_of(field: Symbols) -> jax.Array:
    """How many examples' symbols travel, uint32 scalar."""
    each = field.values.size // field.values.shape[0]
    return length_in_jit(field) // jnp.uint32(max(each, 1))


def _number(value: jax.Array, largest: int) -> Symbols:
    return Symbols(value.astype(jnp.uint32).reshape(1), largest + 1)


def _find(known: jax.Array, ids: jax.Array) -> jax.Array:
    """The place of each id among those known, -1 where it is not."""
    found = known[None, :] == ids[:, None]
    place = jnp.argmax(found, axis=1).astype(jnp.int32)
    return jnp.where(found.any(axis=1), place, -1)


def _places(filled: jax.Array, fresh: jax.Array, capacity: int, room: int) -> jax.Array:
    """Where each place of the message goes in the cache; `room`, outside, for none."""
    place = jnp.arange(capacity, dtype=jnp.int32)
    to = jnp.where(place < fresh.astype(jnp.int32), filled + place, room)
    return jnp.minimum(to, room)


def _filled(filled: jax.Array, fresh: jax.Array, room: int) -> jax.Array:
    return jnp.minimum(filled + fresh.astype(jnp.int32), room)
