"""Quantized singular vectors: a low-rank update in the fewest bits.

The update of a matrix by some steps of gradient descent is a sum of outer products,
`examples x steps` of them, and few directions hold most of it. It is sparse in the
basis of its singular vectors, and not in its own coordinates. Here a matrix

    X = sum_k s_k u_k v_k'    travels as the levels of   a_k = s_k u_k,  b_k = s_k v_k,
    C(X) = S d sum_k q(a_k / d) q(b_k / d)' / sqrt(||q(a_k / d)|| ||q(b_k / d)||),

with one step `d = step rms(x)` for all leaves of the update, `rms` over all of them.
An error `e` of `a_k` makes the error `e v_k'` in the matrix, of the same norm, so a
step means the same in a factor as in a leaf that is a vector, which is not factored.
This is reverse water-filling (Cover and Thomas, "Elements of information theory",
section 10.3.3) over singular directions: those that are large against the step all have
the same error, and those that are small against it are not sent. Which are too small
follows from the error of rounding: independent errors of `d^2 / 12` a coordinate form a
matrix whose largest singular value is near `d / sqrt(12) (sqrt(m) + sqrt(n))` (Geman,
"A limit theorem for the norm of random matrices", 1980). A direction is sent when its
energy exceeds what its error and its bits cost (`directions.py`), which is when

    s_k >= 0.35 d (sqrt(m) + sqrt(n))   or thereabouts,

and sooner where both ends can predict it.

The step is never so large that nothing is sent, as could happen for the memory of error
feedback, which may have no structure. It is bounded so that in some matrix both factors
of the leading direction have a coordinate of one step, or some vector has one:

    d = min(step rms(x), max over leaves of s_1 / sqrt(max(m, n)) or max |x|).

Levels are those of the least error and bits (`quantize.rate_rounding`), and `S` is the
scale of least squares. The message is as for `separable`: the scale, a shape for each
factor and a size for each of its rows, and the levels by rANS under the table of their
row. No table, no list of places and no rank is sent: a direction that is left out has
levels of 0 only, under a table that makes them nearly free.

With `history` both ends remember the directions of past messages, and a factor is sent
as its coordinates in these directions and a remainder (`history.py`).
"""

import math
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.flattened import Flattened
from fedjax_comp.compress.combine.leafwise import require_open, shape_of
from fedjax_comp.compress.low_rank.directions import (
    Directions,
    Plan,
    directions_of,
    factors_of,
    in_unit_steps,
    plan_of,
)
from fedjax_comp.compress.low_rank.history import (
    Remembered,
    nothing_remembered,
    with_message,
)
from fedjax_comp.compress.quantize.rate_rounding import DEAD_ZONE, rounded_rows
from fedjax_comp.compress.quantize.scalar import (
    Quantized,
    levels_of,
    symbols_of,
    zigzag,
)
from fedjax_comp.compress.quantize.separable import (
    Choose,
    acts_on,
    class_code,
    in_steps,
    sample_stride,
)
from fedjax_comp.compress.quantize.separable_classes import (
    sizes_of,
    to_side,
)
from fedjax_comp.wire.codes.rans_by_class import Classified
from fedjax_comp.wire.codes.weibull import ROUNDED
from fedjax_comp.wire.fields import Coded, Raw, Symbols, is_field


def coded_low_rank(
    step: float = 2.0,
    *,
    max_rank: int = 64,
    history: int = 0,
    rate_weight: float = 0.15,
    symbols_per_lane: int = 16384,
) -> Compressor:
    """Quantizes the singular vectors of all matrices, with one step for all leaves.

    The fewest bits for what training sends: see the head of this module. `||C(x) -
    x||^2 <= ||x||^2` over all leaves, and what is lost stays lost: use it under
    `error_feedback`. No more than `max_rank` directions are sent, which is a floor to
    the error; for errors below some hundredths use `separable`, which has no floor.

    It needs the matrices of the tree as they are: put neither `flattened` nor a
    rotation in front of it. What it sends is closed and already coded: `entropy_coded`
    finds nothing to do behind it.

    Args:
      step: in units of the root mean square over all leaves, in [0.01, 100]. 4 is very
        few bits; 0.5 some tenths of a bit.
      max_rank: the most directions of a leaf that are sent, at least 1. Its cost is
        time: four products of the matrix with `max_rank + 8` columns.
      history: how many directions of past messages of a leaf both ends remember, which
        then cost little to send again; 0 for none. As many as are sent, or twice as
        many, is about right. For each leaf and link, it costs both ends the memory of
        that many rows and columns, and the time of two eigenproblems of `history +
        max_rank` numbers. Both ends must round alike, as they do inside a simulation.
      rate_weight: squared steps that a bit is worth, in [0, 1].
      symbols_per_lane: as for `rans`; each lane is 32 bits.

    Returns:
      A `Compressor` that closes the scale, the sizes and the levels; stateless without
      `history`.

    Raises:
      ValueError: when an argument is not in its range; from `init` when the stages
        before it left nothing open.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.wire.accounting import message_bits, num_bits
      >>> context = make_context(jax.random.key(0), 0)
      >>> u = jax.random.normal(jax.random.key(1), (100, 1))
      >>> x = {"w": u @ u.T}
      >>> compressor = coded_low_rank(1.0, max_rank=8)
      >>> payload, _ = jax.jit(compressor.encode)(context, x, ())
      >>> bits = message_bits(num_bits(payload))
      >>> decoded, _ = jax.jit(compressor.decode)(context, payload, ())
      >>> error = jnp.sum((decoded["w"] - x["w"]) ** 2) / jnp.sum(x["w"] ** 2)
      >>> bits < 0.15 * 100 * 100, bool(error < 0.01)
      (True, True)
    """
    checks.between("step", step, above=0.00999, at_most=100)
    return low_rank_coder(
        "coded_low_rank",
        lambda context, others, sizes, attempt: attempt(step),
        finest=step,
        sends_something=True,
        max_rank=max_rank,
        history=history,
        rate_weight=rate_weight,
        symbols_per_lane=symbols_per_lane,
    )


def low_rank_coder(
    name: str,
    choose: Choose,
    *,
    finest: float,
    sends_something: bool,
    max_rank: int,
    history: int = 0,
    rate_weight: float,
    symbols_per_lane: int,
) -> Compressor:
    """The coder at the step that `choose` decides on: `coded_low_rank` and its kind.

    Args:
      name: for messages.
      choose: makes one attempt or several, and returns the payload of the last.
      finest: the least step of all attempts.
      sends_something: whether a step is never so large that nothing travels.
      max_rank: as for `coded_low_rank`.
      history: likewise.
      rate_weight: likewise.
      symbols_per_lane: likewise.
    """
    max_rank = checks.integer("max_rank", max_rank, minimum=1)
    history = checks.integer("history", history, minimum=0)
    checks.between("rate_weight", rate_weight, above=-1e-9, at_most=1)
    checks.integer("symbols_per_lane", symbols_per_lane, minimum=1)

    def plans_of(shapes: Sequence[jax.ShapeDtypeStruct]) -> tuple[Plan, ...]:
        return tuple(plan_of(like.shape, max_rank, history) for like in shapes)

    def init(like: PyTree) -> LinkState:
        require_open(name, like)
        leaves = jax.tree.leaves(like, is_leaf=is_field)
        plans = plans_of([shape_of(leaf) for leaf in leaves if acts_on(leaf)])

        def nothing() -> tuple[Remembered, ...]:
            # Made anew for each end: programs may take over the arrays of one state.
            return tuple(
                nothing_remembered(plan.rows, plan.columns, plan.history)
                for plan in plans
                if plan.history
            )

        return LinkState(sender=nothing(), receiver=nothing())

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        shapes = tuple(shape_of(leaf) if acts_on(leaf) else None for leaf in leaves)
        others = tuple(leaf for leaf in leaves if not acts_on(leaf))
        acting = [leaf for leaf in leaves if acts_on(leaf)]
        payload: PyTree = ()
        if acting:
            plans = plans_of([shape_of(leaf) for leaf in acting])
            memories = each_memory(sender, plans)
            layout = tuple(part for plan in plans for part in plan.parts)
            code = class_code(name, layout, DEAD_ZONE, symbols_per_lane)
            units, rms = in_steps(acting, 1.0)
            directions = [
                directions_of(unit.reshape(plan.rows, plan.columns), plan, memory)
                for unit, plan, memory in zip(units, plans, memories, strict=True)
            ]

            def attempt(step: jax.typing.ArrayLike) -> Quantized:
                if sends_something:
                    step = not_too_large(step, directions, plans)
                scale, field = quantized(
                    directions, plans, memories, step, finest, rate_weight
                )
                # `Coded` is for single fields, and asks no more of them than its code.
                coded = Coded(cast(Symbols, field), code)
                return Quantized(Raw(rms * scale), cast(Symbols, coded))

            payload = choose(context, others, [leaf.size for leaf in acting], attempt)
            sender = remembered(sender, plans, levels_sent(payload))
        return Flattened(payload, others, structure, shapes), sender

    def decode(
        context: Context, payload: Flattened, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        shapes = [like for like in payload.shapes if like is not None]
        opened = iter(())
        if shapes:
            plans = plans_of(shapes)
            scale, levels = payload.payload.scale.values, levels_sent(payload.payload)
            factors = factors_of(levels, plans, each_memory(receiver, plans))
            opened = iter(
                (scale * in_unit_steps(own, plan))
                .reshape(like.shape)
                .astype(like.dtype)
                for own, plan, like in zip(factors, plans, shapes, strict=True)
            )
            receiver = remembered(receiver, plans, levels)
        others = iter(payload.others)
        leaves = [next(others if like is None else opened) for like in payload.shapes]
        return jax.tree.unflatten(payload.structure, leaves), receiver

    return Compressor(init, encode, decode)


def levels_sent(payload: Quantized) -> jax.Array:
    """All levels of a payload, float32 `[n]`."""
    field = cast(Classified, cast(Coded, payload.symbols).field)
    return levels_of(field.symbols)


def each_memory(
    memory: Sequence[Remembered], plans: Sequence[Plan]
) -> list[Remembered | None]:
    """The memory of each leaf; None for leaves without one."""
    kept = iter(memory)
    return [next(kept) if plan.history else None for plan in plans]


def remembered(
    memory: tuple[Remembered, ...], plans: Sequence[Plan], levels: jax.Array
) -> tuple[Remembered, ...]:
    """The memory after a message: the same at both ends, which know its levels."""
    if not memory:
        return memory
    memories = each_memory(memory, plans)
    factors = factors_of(levels, plans, memories)
    return tuple(
        Remembered(*map(with_message, kept, own))
        for kept, own in zip(memories, factors, strict=True)
        if kept is not None
    )


def not_too_large(
    step: jax.typing.ArrayLike, directions: Sequence[Directions], plans: Sequence[Plan]
) -> jax.Array:
    """The step, or the largest one at which something travels; float32 scalar."""
    largest = jnp.max(
        jnp.stack([d.largest_step(p) for d, p in zip(directions, plans, strict=True)])
    )
    return jnp.where(largest > 0, jnp.minimum(step, largest), step)


def quantized(
    directions: Sequence[Directions],
    plans: Sequence[Plan],
    memories: Sequence[Remembered | None],
    step: jax.typing.ArrayLike,
    finest: float,
    rate_weight: float,
) -> tuple[jax.Array, Classified]:
    """The levels that are sent, of leaves in units of their common root mean square.

    Args:
      directions: of each leaf.
      plans: how each travels.
      memories: of each before the message; None without one.
      step: in root mean squares.
      finest: the least that `step` may be, which bounds the levels.
      rate_weight: squared steps that a bit is worth.

    Returns:
      The scale of the levels, float32 scalar, and the levels with their classes.
    """
    cardinality = 2 * (math.ceil(_most_steps(plans, finest)) + 1) + 1
    pairs = zip(directions, plans, strict=True)
    parts = [part for direction, _ in pairs for part in direction.in_steps(step)]
    layout = [matrix for plan in plans for matrix in plan.parts]
    energies = [
        jnp.mean(jnp.square(jnp.where(jnp.abs(part) > 0.5, part, 0.0)), axis=1)
        for part in parts
    ]
    sizes = sizes_of(jnp.concatenate(energies), ROUNDED)
    strides = [sample_stride(matrix) for matrix in layout]
    q, shapes = rounded_rows(parts, sizes, strides, rate_weight)
    along, square = [], []
    decoded = factors_of(q, plans, memories)
    for factors, direction, plan in zip(decoded, directions, plans, strict=True):
        matrix = in_unit_steps(factors, plan)
        along.append(jnp.sum(direction.leaf * matrix))
        square.append(jnp.sum(jnp.square(matrix)))
    # Not `> 0`: what is not a number shall stay visible in the scale.
    divisor = jnp.sum(jnp.stack(square))
    scale = jnp.where(divisor == 0, 0.0, jnp.sum(jnp.stack(along)) / divisor)
    symbols = symbols_of(zigzag(q, jnp.abs(q)), cardinality)
    return scale, Classified(to_side(shapes, sizes), symbols)


def _most_steps(plans: Sequence[Plan], finest: float) -> float:
    """No coordinate of a part is more steps than this, up to rounding."""
    # No singular value is above `sqrt(n)` root mean squares, nor, where the step is
    # not the one asked for, above `sqrt(max(m, n))` steps.
    n = sum(plan.rows * plan.columns for plan in plans)
    longest = max(max(plan.rows, plan.columns) for plan in plans)
    return max(math.sqrt(n) / finest, math.sqrt(longest))
