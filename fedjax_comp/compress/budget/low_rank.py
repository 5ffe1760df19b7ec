"""`coded_low_rank` at the finest step that a budget allows, found inside jit.

The matrices are decomposed once, and every attempt of the bisection only rounds.
"""

from fedjax_comp import checks
from fedjax_comp.base import Compressor
from fedjax_comp.compress.budget.separable import finest_that_fits
from fedjax_comp.compress.low_rank.coded import low_rank_coder


def budgeted_low_rank(
    finest: float = 0.5,
    *,
    max_rank: int = 64,
    rate_weight: float = 0.15,
    symbols_per_lane: int = 16384,
) -> Compressor:
    """`coded_low_rank` with the least step whose message is within the budget.

    The exact length of the whole message, other leaves included, is within the budget.
    The least message, with 2^16 times the finest step, is all zeros.

    Args:
      finest: the step without a budget, in [0.01, 100].
      max_rank: as for `coded_low_rank`.
      rate_weight: likewise.
      symbols_per_lane: likewise.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: as `coded_low_rank`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.wire.accounting import message_bits, num_bits
      >>> context = make_context(jax.random.key(0), 0)
      >>> context = context._replace(budget_bits=jnp.float32(1000))
      >>> x = jax.random.normal(jax.random.key(1), (20, 20))
      >>> payload, _ = jax.jit(budgeted_low_rank().encode)(context, x, ())
      >>> 800 < message_bits(num_bits(payload)) <= 1000
      True
    """
    checks.between("finest", finest, above=0.00999, at_most=100)
    return low_rank_coder(
        "budgeted_low_rank",
        finest_that_fits(finest),
        finest=finest,
        sends_something=False,
        max_rank=max_rank,
        rate_weight=rate_weight,
        symbols_per_lane=symbols_per_lane,
    )
