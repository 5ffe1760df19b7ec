"""The contracts of the library; everything else implements them.

Everything with behaviour is a `NamedTuple` of pure functions that a factory returns;
everything else is data. None of these functions calls `jax.jit`: that is done once, by
whoever drives a run (`fedjax_comp.run`, or `jax.jit(round_program(...))` in your loop).

Letters used for shapes in the whole package:

    K  clients in the population      C  clients in one round's cohort
    M  messages of one kind in a round
    S  local steps of one client      B  examples in one local batch
    N  examples in the data set       n  parameters (coordinates)      k  kept of n

Two laws hold for every `Compressor` and are tested for every one of them:

1. Leaves travel, the treedef is agreed. Every leaf of a payload is paid for; shapes,
   numbers of levels, `k` and the like are static metadata known to both ends.
2. Nothing else crosses. `decode` sees the context, the payload and the receiver's own
   state. Randomness that both ends need is derived from the context at both ends.

A number that overflows float32 is decoded as inf or NaN, never as a finite one: see
`Compressor`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.keys import check_key

PyTree = Any
"""A nest of containers with arrays as leaves (what `jax.tree` works on)."""

# --------------------------------------------------------------------------- links


class Context(NamedTuple):
    """What both ends of a link already know: free on the wire.

    Attributes:
      round_key: one key a round, shared by the whole cohort (rotations, shared masks,
        sketches), scalar key array.
      client_key: `fold_in(round_key, client_id)`, scalar key array.
      budget_bits: what this message may spend, float32 scalar, `inf` unless a
        controller sets it. It is traced: changing it never recompiles.
      rank: the client's place in the cohort, int32 scalar; its id unless an algorithm
        says otherwise. For what must differ between clients *by design*.
    """

    round_key: jax.Array
    client_key: jax.Array
    budget_bits: jax.Array
    rank: jax.Array


def make_context(
    round_key: jax.Array,
    client_id: jax.typing.ArrayLike,
    rank: jax.typing.ArrayLike | None = None,
) -> Context:
    """The context of one client's link in one round, without a budget.

    Raises:
      ValueError: for a key that `check_key` refuses.
    """
    return Context(
        round_key=check_key(round_key),
        client_key=jax.random.fold_in(round_key, client_id),
        budget_bits=jnp.asarray(jnp.inf, jnp.float32),
        rank=jnp.asarray(client_id if rank is None else rank).astype(jnp.int32),
    )


def fold_context(context: Context, index: jax.typing.ArrayLike) -> Context:
    """The context of part `index` (a stage, a leaf): independent keys, same budget."""
    return context._replace(
        round_key=jax.random.fold_in(context.round_key, index),
        client_key=jax.random.fold_in(context.client_key, index),
    )


class LinkState(NamedTuple):
    """The memory of one directed link. Either part is `()` when there is none."""

    sender: PyTree
    receiver: PyTree


class Compressor(NamedTuple):
    """Pure functions that put a pytree on a wire and take it off again.

    Scaling a finite leaf by a power of two scales the decoded leaf alike. The decoded
    leaf is not finite when the leaf is not, when a field of the payload would overflow
    float32 (a norm of numbers near 3e38), or when the decoded leaf would overflow its
    dtype. The receiver then drops the message and counts it; zeros in its place would
    be trained on. The exception is a range that both ends agree on beforehand, of a
    dtype or a lattice: numbers beyond it are clipped.

    Attributes:
      init: `(like) -> LinkState`. `like` is the tree that will travel, or a tree of
        `jax.ShapeDtypeStruct`. Raises `ValueError` when it cannot be compressed.
      encode: `(context, tree, sender) -> (payload, sender)`.
      decode: `(context, payload, receiver) -> (tree, receiver)`; the tree has the
        structure, shapes and dtypes of the one encoded.
      linear: whether `decode` is linear in the payload's floats and needs no key but
        the round's: then a cohort's payloads may be added before they are decoded
        (`fedjax_comp.compress.linear`).
    """

    init: Callable[[PyTree], LinkState]
    encode: Callable[[Context, PyTree, PyTree], tuple[PyTree, PyTree]]
    decode: Callable[[Context, PyTree, PyTree], tuple[PyTree, PyTree]]
    linear: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bits:
    """The exact length of one message, in bits, in a form that loses none of them.

    float32 loses single bits above 2**24 and uint32 wraps at 2**32, so what is known
    from shapes is a Python int and what depends on values stays one array per field.
    They are added on the host, as Python ints (`fedjax_comp.wire.accounting`).

    Attributes:
      fixed: bits known from shapes, a static Python int.
      variable: bits that depend on values, a tuple of uint32 arrays (scalars for one
        message, `[M]` for several).
    """

    fixed: int = dataclasses.field(metadata={"static": True})
    variable: tuple[jax.Array, ...] = ()


# ----------------------------------------------------------------------- one round


class Examples(NamedTuple):
    """Labelled examples; every leaf has the same leading axis.

    Attributes:
      x: inputs, `[N, ...]`, in the dtype they are stored in (uint8 images stay uint8).
      y: targets, `[N]` integer labels or `[N, T]` integer sequences.
    """

    x: PyTree
    y: PyTree


class ClientBatches(NamedTuple):
    """One client's work in one round, as indices into the examples on the device.

    A cohort's is the same with a leading axis `C` on every field.

    Attributes:
      client_id: int32 scalar in `[0, K)`.
      rows: int32 `[S, B]`, rows of `Examples`; only those with `mask` are used.
      mask: bool `[S, B]`, False where a batch is short (no example is repeated).
      num_examples: int32 scalar, size of the client's own data set (its weight).
      active: bool scalar, False for a client that takes no part (empty, dropped out).
      key: for the randomness of its training (dropout, augmentation), scalar key array;
        step `s` uses `fold_in(key, s)`.
      rate: float32 scalar that every step of its optimizer is multiplied by, such as a
        schedule's value in this round; None is 1.
    """

    client_id: jax.Array
    rows: jax.Array
    mask: jax.Array
    num_examples: jax.Array
    active: jax.Array
    key: jax.Array
    rate: jax.Array | None = None


class Cohort(NamedTuple):
    """The clients of one round and the examples their indices point into.

    Attributes:
      examples: every example of the population, once, `[N, ...]`.
      clients: `ClientBatches` with a leading axis `C`.
      staleness: int32 `[C]`, server steps since each client received the model that it
        begins from; None where all begin from the model of this round.
    """

    examples: Examples
    clients: ClientBatches
    staleness: jax.Array | None = None


SERVER = -1
"""In `Ends`: the server."""

EVERYONE = -2
"""In `Ends` of a message kept for an audit: all that listen to a broadcast."""


class Ends(NamedTuple):
    """Who sent each message, and to whom: its direction, as data.

    A client's id, or `SERVER`. A message between two clients has an id at both ends.

    Attributes:
      sender: int32 `[M]` (a scalar for one message).
      receiver: int32 `[M]`, the same.
    """

    sender: jax.Array
    receiver: jax.Array


class Traffic(NamedTuple):
    """What the messages of one kind cost in one round.

    A message that several receive is listed once for each of them: each is paid for.

    Attributes:
      bits: length of each message; `variable` arrays are `[M]`.
      spoke: bool `[M]`, which messages were sent. Only these cost anything.
      ends: who sent each, and to whom, `[M]`.
    """

    bits: Bits
    spoke: jax.Array
    ends: Ends


class Messages(NamedTuple):
    """Messages of one kind as they were sent, for an audit; leaves `[M, ...]`.

    A message that several receive is listed once, with `EVERYONE` as its receiver.

    Attributes:
      context: the `Context` that both ends used.
      payload: what was sent.
      receiver: the receiver's state before it decoded.
      spoke: bool `[M]`, which of these were sent.
      ends: who sent each, and to whom.
      used: the trees that the algorithm went on with (added up, trained from): an audit
        holds them against what the bytes decode to.
    """

    context: Context
    payload: PyTree
    receiver: PyTree
    spoke: jax.Array
    ends: Ends
    used: PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observed:
    """One observation of a round, and how those of several rounds make one number.

    Attributes:
      value: a scalar, or one number per client (`[C]`), which the ledger does not
        record.
      over_rounds: "sum" for what adds up (examples sent), "mean" for a share or an
        error, "last" for a state at the end of a round (a size, a level).
    """

    value: jax.Array
    over_rounds: Literal["sum", "mean", "last"] = dataclasses.field(
        default="sum", metadata={"static": True}
    )


UPDATES_SENT, MODELS_TOLD = "updates_sent", "models_told"
"""In `RoundInfo.observed` of an algorithm that sends other messages beside (keys, say):
how many were updates and models, which is what a dense run would have sent."""


class RoundInfo(NamedTuple):
    """What is observed of one round; nothing here is needed to go on.

    Attributes:
      train_loss: mean local training loss of the cohort, weighted by examples; NaN
        when nobody trained.
      client_steps: local optimizer steps taken by the cohort, int32.
      dropped: clients left out of the sum because their update was not finite, int32.
      traffic: kind of message (such as "uplink") to what these cost.
      observed: an algorithm's own observations, by name.
      messages: kind to `Messages`, when the algorithm was asked to keep them.
    """

    train_loss: jax.Array
    client_steps: jax.Array
    dropped: jax.Array
    traffic: dict[str, Traffic]
    observed: dict[str, Observed]
    messages: dict[str, Messages]


class Algorithm(NamedTuple):
    """A distributed learning algorithm as three pure functions, or four.

    Attributes:
      init: `(key, params) -> (server_state, client_state)`, where `client_state` is
        the template of ONE client; whoever runs the algorithm keeps `K` of them.
      round: `(key, server_state, client_states[C, ...], cohort) ->
        (server_state, client_states[C, ...], RoundInfo)`.
      params: `(server_state) -> params`, the model to evaluate.
      personal: `(server_state, client_state) -> params`, the model that one client
        uses; None where all use the server's.
    """

    init: Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
    round: Callable[
        [jax.Array, PyTree, PyTree, Cohort], tuple[PyTree, PyTree, RoundInfo]
    ]
    params: Callable[[PyTree], PyTree]
    personal: Callable[[PyTree, PyTree], PyTree] | None = None


# ----------------------------------------------------------------------- execution

ClientFn = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""`(shared, client) -> (summand, output)`: one client's part of a round."""

CohortFn = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""`(shared, clients[C, ...]) -> (sum of summands, outputs[C, ...])`."""

Execution = Callable[[ClientFn], CohortFn]
"""How a cohort is run: owns the map over clients and the sum over them, so that the
decoded updates of a cohort are never stacked. See `fedjax_comp.execution`."""

# -------------------------------------------------------------------------- models


Sums = dict[str, jax.Array]
"""Sums over predictions by name, float32 scalars: `"count"`, how many predictions there
are, `"loss"`, `"accuracy"` (how many are right), and a task's own. A sum over the count
is the mean that is reported."""


class Task(NamedTuple):
    """A model with a loss: all that a client needs to know of either.

    Attributes:
      init: `(key) -> params`: what is trained and travels, and nothing else.
      loss: `(params, examples, mask[B], key) -> scalar`, mean over the unmasked
        examples (0 when there is none). Its randomness (dropout, augmentation) comes
        from the key alone; a deterministic loss leaves it unused, at no cost.
      evaluate: `(params, examples, mask[B]) -> Sums` over the unmasked predictions; it
        draws nothing.
      observe: `(before, after, examples, mask, key) -> after` with the running
        statistics that a local step from `before` leaves; no gradient moves them. None,
        or a function that does nothing, where `has_statistics(params)` is False.
      derived: `(means of the sums, by name) -> metrics by name`, for metrics that are
        no means, such as a perplexity or an R^2. They are reported in place of the
        means of the task's own sums; None reports these means.
    """

    init: Callable[[jax.Array], PyTree]
    loss: Callable[[PyTree, Examples, jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[PyTree, Examples, jax.Array], Sums]
    observe: (
        Callable[[PyTree, PyTree, Examples, jax.Array, jax.Array], PyTree] | None
    ) = None
    derived: Callable[[Sums], Sums] | None = None


STATISTICS = "batch_stats"
"""In `params`: running statistics, beside `"params"`. They travel and are averaged."""


def has_statistics(params: PyTree) -> bool:
    """Whether a model's parameters come with running statistics.

    >>> has_statistics({"params": {}, "batch_stats": {}})
    True
    """
    return isinstance(params, Mapping) and STATISTICS in params
