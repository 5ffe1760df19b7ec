"""Which updates are significant, and a link that sends only these.

A message holds the significant coordinates, their number and their places. Where this
would cost more than all coordinates in order, it holds all of them.

Source: Hsieh et al. 2017, "Gaia: geo-distributed machine learning approaching LAN
speeds", section 3.2 (the significance filter); the dense form as in the authors' code.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.sparsify.counted import compacted
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import Code, Coded, IndexSet, Raw, Symbols


class Update(NamedTuple):
    """An accumulated update and what of it is to be sent.

    Attributes:
      values: float32 `[n]`; decoded, zeros where nothing was sent.
      keep: bool `[n]`, the coordinates to send.
    """

    values: jax.Array
    keep: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SignificantPayload:
    """One message.

    Attributes:
      dense: one bit, whether all coordinates follow in order.
      values: those sent, first; their number is part of the message.
      places: where they belong; none when the message is dense.
    """

    dense: Symbols
    values: Raw
    places: IndexSet | Coded


def significant(
    update: jax.Array, weights: jax.Array, threshold: jax.Array
) -> jax.Array:
    """`|u| > T |w|`, and wherever `w = 0`; never where `u = 0`.

    Args:
      update: what has accumulated, `[n]`.
      weights: the parameters, `[n]`.
      threshold: T, scalar.

    Returns:
      bool `[n]`.

    Source: Hsieh et al. 2017, section 3.2.

    >>> update = jnp.array([0.5, 0.5, 0.0, 1e-9])
    >>> weights = jnp.array([1.0, 10.0, 0.0, 0.0])
    >>> significant(update, weights, jnp.float32(0.1)).tolist()
    [True, False, False, True]
    """
    return jnp.abs(update) > threshold * jnp.abs(weights)


Select = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(update[n], weights[n], rounds done) -> bool [n]`: which coordinates are sent."""


def relative(threshold: optax.Schedule) -> Select:
    """Those that are `significant` at the threshold of the round.

    Args:
      threshold: T after so many rounds.

    >>> select = relative(lambda done: jnp.where(done > 0, 0.25, 0.5))
    >>> update, weights = jnp.array([0.3, 0.6]), jnp.ones(2)
    >>> select(update, weights, jnp.int32(0)).tolist()
    [False, True]
    >>> select(update, weights, jnp.int32(1)).tolist()
    [True, True]
    """

    def select(update: jax.Array, weights: jax.Array, done: jax.Array) -> jax.Array:
        return significant(update, weights, jnp.asarray(threshold(done)))

    return select


def largest(fraction: float) -> Select:
    """The coordinates of largest magnitude, whatever the parameters are: top-k.

    Args:
      fraction: `k = round(fraction * n)`, at least 1; ties go to the first.

    Raises:
      ValueError: for a fraction outside (0, 1].

    >>> select = largest(0.5)
    >>> select(jnp.array([0.3, -2.0, 1.0, 0.0]), jnp.ones(4), jnp.int32(0)).tolist()
    [False, True, True, False]

    Source: Aji and Heafield 2017, "Sparse communication for distributed gradient
    descent"; what is not sent stays in the sum, as of every `Select`.
    """
    checks.fraction("fraction", fraction)

    def select(update: jax.Array, weights: jax.Array, done: jax.Array) -> jax.Array:
        del weights, done
        kept = max(1, round(fraction * update.shape[0]))
        _, places = jax.lax.top_k(jnp.abs(update), kept)
        return jnp.zeros(update.shape, bool).at[places].set(True)

    return select


def significant_link(code: Code | None = None) -> Compressor:
    """A link for `Update`: what is to be kept, or all where that is shorter.

    Args:
      code: of the places; None for `ceil(log2 n)` bits each.

    Returns:
      A `Compressor` of `Update`, without memory. What is decoded has `keep` of what
      was sent: of a dense message everything.

    >>> from fedjax_comp.base import make_context
    >>> link, context = significant_link(), make_context(jax.random.key(0), 0)
    >>> update = Update(jnp.array([1.0, 2.0, 3.0]), jnp.array([False, True, False]))
    >>> payload, _ = link.encode(context, update, ())
    >>> link.decode(context, payload, ())[0].values.tolist()
    [0.0, 2.0, 0.0]
    """

    def coded(places: IndexSet) -> IndexSet | Coded:
        return places if code is None else Coded(places, code)

    def init(like: Update) -> LinkState:
        del like
        return LinkState((), ())

    def encode(
        context: Context, update: Update, sender: PyTree
    ) -> tuple[SignificantPayload, PyTree]:
        del context
        n = update.values.shape[0]
        pairs = compacted(update.values, jnp.arange(n, dtype=jnp.uint32), update.keep)
        sparse = _payload(False, pairs.values, coded(pairs.indices))
        count, none = jnp.full((), n, jnp.uint32), jnp.zeros((), jnp.uint32)
        nowhere = IndexSet(jnp.zeros(n, jnp.uint32), n, none)
        dense = _payload(True, Raw(update.values, count), coded(nowhere))
        shorter = _length(dense) < _length(sparse)
        chosen = jax.tree.map(lambda d, s: jnp.where(shorter, d, s), dense, sparse)
        return chosen, sender

    def decode(
        context: Context, payload: SignificantPayload, receiver: PyTree
    ) -> tuple[Update, PyTree]:
        del context
        places = payload.places
        listed = places.field if isinstance(places, Coded) else places
        assert listed.count is not None  # as `encode` makes it
        n = payload.values.values.shape[0]
        in_order = jnp.arange(n, dtype=jnp.uint32)
        is_dense = payload.dense.values[0] == 1
        sent = is_dense | (in_order < listed.count)
        where = jnp.where(is_dense, in_order, listed.values)
        where = jnp.where(sent, where, jnp.uint32(n))
        blank = Update(jnp.zeros(n), jnp.zeros(n, bool))
        return Update(
            blank.values.at[where].set(payload.values.values, mode="drop"),
            blank.keep.at[where].set(sent, mode="drop"),
        ), receiver

    return Compressor(init, encode, decode)


def _payload(dense: bool, values: Raw, places: IndexSet | Coded) -> SignificantPayload:
    return SignificantPayload(Symbols(jnp.full(1, dense, jnp.uint8), 2), values, places)


def _length(payload: SignificantPayload) -> jax.Array:
    """In bits, of two messages with the same fixed part."""
    return sum(num_bits(payload).variable, start=jnp.zeros((), jnp.uint32))
