"""A ladder of compressors: which one encodes is decided inside jit, by the budget.

`Context.budget_bits` is traced, so a controller may move every client to another rung
every round and nothing is compiled anew. Under `scanned` and `sharded` only the chosen
rung is run (`jax.lax.switch`); under `vmapped` all of them are.

The message is the number of its rung, then that rung's fields and nothing else.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import (
    Bits,
    Compressor,
    Context,
    LinkState,
    PyTree,
    fold_context,
    make_context,
)
from fedjax_comp.keys import make_key
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.codes.fixed_width import bit_width
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Code, Coded, Symbols
from fedjax_comp.wire.message import pack_body, unpack_body

_MOST_BITS = 1 << 31  # of one count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several payloads of known sizes; the others are zeros.

    Attributes:
      rung: which, uint32 scalar.
      payloads: one for each rung.
      sizes: the bits of each.
    """

    rung: jax.Array
    payloads: tuple[PyTree, ...]
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def _choice_bits(field: Choice) -> Bits:
    # A size may be beyond a uint32: as many counts as the largest needs.
    starts = range(0, max(field.sizes), _MOST_BITS)
    counts = [
        [min(max(size - start, 0), _MOST_BITS) for size in field.sizes]
        for start in starts
    ]
    chosen = tuple(
        jnp.asarray(count, jnp.uint32).at[field.rung].get(mode="clip")
        for count in counts
    )
    return Bits(bit_width(len(field.sizes)), chosen)


def _pack_choice(field: Choice, writer: BitWriter) -> None:
    rung = int(field.rung)
    writer.write([rung], bit_width(len(field.sizes)))
    body = np.frombuffer(pack_body(field.payloads[rung]), np.uint8)
    writer.write(np.unpackbits(body, count=field.sizes[rung], bitorder="little"), 1)


def _unpack_choice(template: Choice, reader: BitReader) -> Choice:
    count = len(template.sizes)
    rung = int(reader.read(1, bit_width(count))[0])
    if rung >= count:
        raise WireError(f"Expected one of {count} rungs, got {rung}.")
    bits = reader.read(template.sizes[rung], 1).astype(np.uint8)
    body = np.packbits(bits, bitorder="little").tobytes()
    payloads = [
        unpack_body(body, payload) if i == rung else _zeros(payload)
        for i, payload in enumerate(template.payloads)
    ]
    return Choice(jnp.uint32(rung), tuple(payloads), template.sizes)


_CHOICE = Code("choice", _choice_bits, _pack_choice, _unpack_choice, takes=(Choice,))


def ladder(*rungs: Compressor) -> Compressor:
    """Encodes by the last rung whose message fits into the budget.

    Without a budget that is the last one; when none fits it is the first.

    Args:
      *rungs: compressors whose messages have a size known from shapes (no entropy
        code, no count), in ascending order of that size.

    Returns:
      A `Compressor` whose states are tuples, one entry a rung; only the entry of the
      rung that was used changes.

    Raises:
      ValueError: for fewer than two rungs or something else than compressors; from
        `init` when a size is not fixed or the order is not ascending.

    Example:
      >>> from fedjax_comp.compress import scaled_sign, stochastic_quantize
      >>> up = ladder(scaled_sign(), stochastic_quantize(levels=3))
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([-3.0, 0.0, 3.0])
      >>> state = up.init(x)
      >>> for budget in (1e6, 50.0):
      ...     own = context._replace(budget_bits=jnp.float32(budget))
      ...     payload, _ = up.encode(own, x, state.sender)
      ...     decoded, _ = up.decode(own, payload, state.receiver)
      ...     print(payload.field.rung, decoded)
      1 [-3.  0.  3.]
      0 [-2.  2.  2.]
    """
    if len(rungs) < 2:
        raise ValueError(f"Expected at least two rungs in ladder(), got {len(rungs)}.")
    for i, rung in enumerate(rungs):
        checks.compressor(f"rung {i} of ladder", rung)

    def init(like: PyTree) -> LinkState:
        states = [rung.init(like) for rung in rungs]
        sizes = rung_bits(rungs, like)
        if list(sizes) != sorted(sizes):
            raise ValueError(
                f"Expected the rungs of ladder() in ascending order of their bits, "
                f"got {sizes}."
            )
        return LinkState(
            sender=tuple(state.sender for state in states),
            receiver=tuple(state.receiver for state in states),
        )

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        def shapes_of(i: int) -> PyTree:
            return jax.eval_shape(rungs[i].encode, context, tree, sender[i])[0]

        shapes = [shapes_of(i) for i in range(len(rungs))]
        sizes = rung_bits(rungs, tree)
        index_bits = bit_width(len(rungs))
        ends = jnp.asarray(np.array(sizes, np.float32) + np.float32(index_bits))
        # A budget is a float32: one that names a size exactly may round below it.
        fits = ends <= context.budget_bits * jnp.float32(1 + 2.0**-20)
        chosen = jnp.maximum(jnp.sum(fits, dtype=jnp.int32) - 1, 0)

        def branch(i: int) -> Any:
            def run(tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
                payload, own = rungs[i].encode(
                    fold_context(context, i), tree, sender[i]
                )
                payloads = [payload if j == i else _zeros(s)
                            for j, s in enumerate(shapes)]  # fmt: skip
                states = [own if j == i else s for j, s in enumerate(sender)]
                return tuple(payloads), tuple(states)

            return run

        branches = [branch(i) for i in range(len(rungs))]
        payloads, states = jax.lax.switch(chosen, branches, tree, sender)
        choice = Choice(chosen.astype(jnp.uint32), payloads, sizes)
        # `Coded` is written for single fields, and asks no more of them than its code.
        return Coded(cast(Symbols, choice), _CHOICE), states

    def decode(
        context: Context, payload: Coded, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        choice = cast(Choice, payload.field)

        def branch(i: int) -> Any:
            def run(payloads: PyTree, receiver: PyTree) -> tuple[PyTree, PyTree]:
                tree, own = rungs[i].decode(
                    fold_context(context, i), payloads[i], receiver[i]
                )
                states = [own if j == i else s for j, s in enumerate(receiver)]
                return tree, tuple(states)

            return run

        branches = [branch(i) for i in range(len(rungs))]
        rung = choice.rung.astype(jnp.int32)
        return jax.lax.switch(rung, branches, choice.payloads, receiver)

    return Compressor(init, encode, decode)


def rung_bits(rungs: tuple[Compressor, ...], like: PyTree) -> tuple[int, ...]:
    """The bits of each rung's message, without the number of the rung.

    Args:
      rungs: compressors.
      like: the tree that travels, or its shapes.

    Raises:
      ValueError: when a size is not known from shapes.
    """
    sizes = []
    for i, rung in enumerate(rungs):

        def length(tree: PyTree, rung: Compressor = rung) -> Bits:
            state = rung.init(tree)
            context = make_context(make_key(0), 0)
            return num_bits(rung.encode(context, tree, state.sender)[0])

        bits = jax.eval_shape(length, like)
        if bits.variable:
            raise ValueError(
                f"Expected every rung of ladder() to send a fixed number of bits; that "
                f"of rung {i} depends on values. Leave out its entropy code or count."
            )
        sizes.append(bits.fixed)
    return tuple(sizes)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
