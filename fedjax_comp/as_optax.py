"""A compressor as an optax transformation: what an optimizer sees is what arrives.

    optimizer = optax.chain(
        as_optax(error_feedback(top_k(0.01)), key), optax.adam(0.001)
    )

With this, any training loop that has an optax optimizer trains on compressed gradients,
and the optimizer's state has the exact bits of each message. For gradients that are
averaged over the devices of a mesh, `fedjax_comp.collectives` does more: there the mean
itself moves packed words in place of numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Bits, Compressor, LinkState, PyTree, make_context
from fedjax_comp.keys import check_key
from fedjax_comp.wire.accounting import num_bits


class CompressedState(NamedTuple):
    """The memory of `as_optax`.

    Attributes:
      sent: messages so far, int32 scalar.
      link: the state of the compressor, such as what error feedback keeps.
      bits: exact length of the last message (`fedjax_comp.wire.accounting.message_bits`
        makes a Python int of it); 0 before the first. All bits are `variable`, since
        updates may have another dtype than the parameters, while the type of a state
        must not change.
      dropped: messages so far that were not finite, int32 scalar.
    """

    sent: jax.Array
    link: LinkState
    bits: Bits
    dropped: jax.Array


def as_optax(
    compressor: Compressor, key: jax.Array, *, axis_name: str | None = None
) -> optax.GradientTransformation:
    """An optax transformation: replaces updates by what their message decodes to.

        u <- D(C(u)),   over an axis: u <- 1/w sum_d D(C(u_d))

    A message is dropped when it is not finite or does not decode to finite numbers: the
    update is then zero, the memory stays as it was, and `CompressedState.dropped`
    counts it.

    Args:
      compressor: `C` (encode) and `D` (decode). Wrap a biased one in `error_feedback`.
      key: all randomness derives from it, scalar key array; step `t` uses
        `fold_in(key, t)`.
      axis_name: inside `jax.shard_map` or `jax.vmap`, the axis over whose devices the
        decoded messages are averaged. Each device has its own noise and memory, so the
        state differs between devices. A device whose message is dropped counts as zero.

    Returns:
      A `GradientTransformation` for `optax.chain`.

    Raises:
      ValueError: for a key that `check_key` refuses, and for anything but a
        `Compressor` (such as `top_k` without its call); from `init`, where the
        parameters cannot be compressed.

    >>> from fedjax_comp.compress import error_feedback, top_k
    >>> from fedjax_comp.wire.accounting import message_bits
    >>> send = as_optax(error_feedback(top_k(0.5)), jax.random.key(0))
    >>> state = send.init(jnp.zeros(2))
    >>> first, state = send.update(jnp.array([3.0, 2.0]), state)
    >>> second, state = send.update(jnp.array([0.0, 2.0]), state)
    >>> first.tolist(), second.tolist(), message_bits(state.bits)
    ([3.0, 0.0], [0.0, 4.0], 33)
    """
    check_key(key)
    checks.compressor("compressor", compressor)

    def message(
        count: jax.Array, updates: PyTree, link: LinkState
    ) -> tuple[PyTree, LinkState, Bits]:
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        context = make_context(jax.random.fold_in(key, count), device)
        payload, sender = compressor.encode(context, updates, link.sender)
        decoded, receiver = compressor.decode(context, payload, link.receiver)
        return decoded, LinkState(sender, receiver), num_bits(payload)

    def init(params: PyTree) -> CompressedState:
        link = compressor.init(params)

        def of_one(updates: PyTree, link: LinkState) -> Bits:
            context = make_context(key, 0)
            return num_bits(compressor.encode(context, updates, link.sender)[0])

        shape = jax.eval_shape(of_one, params, link)
        # An update's numbers have at most eight times the bits of a parameter's.
        words = jnp.zeros(8 * shape.fixed // _MOST + 1, jnp.uint32)
        changing = (jnp.zeros(x.shape, x.dtype) for x in shape.variable)
        bits = Bits(0, (*words, *changing))
        # Two zeros: a buffer is not given away twice.
        sent, dropped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return CompressedState(sent, link, bits, dropped)

    def update(
        updates: PyTree, state: CompressedState, params: PyTree | None = None
    ) -> tuple[PyTree, CompressedState]:
        del params
        decoded, link, bits = message(state.sent, updates, state.link)
        finite = trees.all_finite((updates, decoded))
        heard = trees.where(finite, decoded, optax.tree.zeros_like(decoded))
        if axis_name is not None:
            heard = jax.lax.pmean(heard, axis_name)
        return heard, CompressedState(
            sent=state.sent + 1,
            link=trees.where(finite, link, state.link),
            bits=_all_variable(bits, len(state.bits.variable)),
            dropped=state.dropped + (~finite).astype(jnp.int32),
        )

    return optax.GradientTransformation(init, update)


_MOST = 2**32 - 1
"""What one uint32 counts to."""


def _all_variable(bits: Bits, count: int) -> Bits:
    """The same length in so many arrays, those of the fixed part first."""
    words = count - len(bits.variable)
    if bits.fixed > words * _MOST:
        raise ValueError(
            f"Expected messages of at most {words * _MOST} bits, eight times those of "
            f"the parameters, got {bits.fixed}."
        )
    each = [min(max(bits.fixed - i * _MOST, 0), _MOST) for i in range(words)]
    return Bits(0, (*(jnp.uint32(x) for x in each), *bits.variable))
