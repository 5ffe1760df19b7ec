"""`separable` at the finest step that a budget allows, found inside jit.

The decoder does not need the step, only the number that symbols are multiples of, so
the step may be traced. Steps are `finest 2^(j / 8)`; the exact length of a message
falls with `j`, and the least `j` that fits is found by bisection: eight encodings at
most, and one when the finest fits.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.compress.budget.shares import shares
from fedjax_comp.compress.quantize.scalar import Quantized
from fedjax_comp.compress.quantize.separable import Attempt, Choose, coder
from fedjax_comp.wire.accounting import num_bits

_STEPS = 128


def finest_that_fits(finest: float) -> Choose:
    """Chooses the least step, `finest` or above, whose message is within the budget.

    The budget is for the whole message, including leaves that pass through.

    Args:
      finest: the step without a budget.
    """

    def choose(
        context: Context, others: tuple[PyTree, ...], sizes: list[int], attempt: Attempt
    ) -> Quantized:
        (own,) = shares(context, [sum(sizes)], others)

        def step_of(j: jax.Array) -> jax.Array:
            return finest * jnp.exp2(j.astype(jnp.float32) / 8)

        def fits(j: jax.Array) -> jax.Array:
            bits = num_bits(attempt(step_of(j)))
            length = sum(array.astype(jnp.float32) for array in bits.variable)
            return length + jnp.float32(bits.fixed) <= own.budget_bits

        def halve(ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends  # high fits, or nothing does
            middle = (low + high) // 2
            good = fits(middle)
            return jnp.where(good, low, middle + 1), jnp.where(good, middle, high)

        first = jnp.int32(0)
        high = jnp.where(fits(first), 0, _STEPS - 1).astype(jnp.int32)
        _, j = jax.lax.while_loop(lambda ends: ends[0] < ends[1], halve, (first, high))
        return attempt(step_of(j))

    return choose


def budgeted_separable(
    finest: float = 0.5,
    *,
    unbiased: bool = False,
    rate_weight: float = 0.15,
    share: int = 16,
    symbols_per_lane: int = 8192,
) -> Compressor:
    """`separable` with the least step whose message is within the context's budget.

    The exact length of the whole message, other leaves included, is within the budget.
    The least message, with 2^16 times the finest step, is nearly all zeros.

    Args:
      finest: the step without a budget, in [0.01, 100].
      unbiased: as for `separable`.
      rate_weight: likewise.
      share: likewise.
      symbols_per_lane: likewise.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: as `separable`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.wire.accounting import message_bits, num_bits
      >>> context = make_context(jax.random.key(0), 0)
      >>> context = context._replace(budget_bits=jnp.float32(500))
      >>> x = jax.random.normal(jax.random.key(1), (20, 20))
      >>> payload, _ = jax.jit(budgeted_separable().encode)(context, x, ())
      >>> 450 < message_bits(num_bits(payload)) <= 500
      True
    """
    checks.between("finest", finest, above=0.00999, at_most=100)

    return coder(
        "budgeted_separable",
        finest_that_fits(finest),
        finest=finest,
        unbiased=unbiased,
        rate_weight=rate_weight,
        share=share,
        symbols_per_lane=symbols_per_lane,
    )
