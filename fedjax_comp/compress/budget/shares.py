"""Parts of a budget: what each leaf of a message may spend.

`Context.budget_bits` is traced: a controller changes it every round and nothing is
compiled anew. A lift first subtracts the cost of the leaves that pass through it. It
divides the rest over the leaves that it acts on, in proportion to their sizes. So a
message stays within the budget as long as each of its leaves stays within its share
(`fedjax_comp.compress.budget.budgeted`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_comp.base import Context, PyTree
from fedjax_comp.wire.accounting import num_bits

# float32 holds 24 bits of a budget: shares are made that much smaller than they are,
# so that no rounding on the way to a number of bits adds up to one bit too many.
_MARGIN = 1.0 - 2.0**-20


def shares(
    context: Context,
    sizes: Sequence[int],
    others: Sequence[PyTree],
    least: Sequence[int] | None = None,
) -> list[Context]:
    """The context of each leaf, with its share of the budget and the keys it had.

    Args:
      context: of the whole message, or of a part of it.
      sizes: numbers in each leaf that shares; 0 for one that needs only its `least`.
      others: fields and arrays that travel besides, and are paid first.
      least: bits that each costs whatever its share is, paid next; none when None.

    >>> from fedjax_comp.base import make_context
    >>> context = make_context(jax.random.key(0), 0)
    >>> context = context._replace(budget_bits=jnp.float32(1000))
    >>> [round(float(c.budget_bits)) for c in shares(context, [30, 10], [jnp.ones(3)])]
    [678, 226]
    """
    paid = num_bits(list(others))
    left = context.budget_bits * jnp.float32(_MARGIN) - jnp.float32(paid.fixed)
    for length in paid.variable:
        left = left - length.astype(jnp.float32)
    headers = [0] * len(sizes) if least is None else least
    left = jnp.maximum(left - jnp.float32(sum(headers)), 0.0)
    total = max(1, sum(sizes))
    return [
        context._replace(
            # Whoever spends it takes off the margin and the header again.
            budget_bits=(left * jnp.float32(size / total * _MARGIN) if size else 0.0)
            + jnp.float32(header / _MARGIN)
        )
        for size, header in zip(sizes, headers, strict=True)
    ]


def affordable(budget_bits: jax.Array, header_bits: int, each_bits: int) -> jax.Array:
    """How many things of `each_bits` bits fit behind a header: float32, maybe `inf`."""
    left = budget_bits * jnp.float32(_MARGIN) - jnp.float32(header_bits)
    return jnp.maximum(jnp.floor(left / jnp.float32(each_bits)), 0.0)
