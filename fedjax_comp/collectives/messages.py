"""What a device sends in a collective, as `Traffic` that a ledger adds up.

Each of `w` devices pays for what leaves it:

    all_to_all of `w` rows     w - 1 rows, one for each other device
    all_gather of one row      w - 1 rows: the same one to each other device
    psum of `n` numbers        2 (w - 1) / w n: what a ring sends, and no algorithm
                               that spreads the work evenly sends less (Patarasuk and
                               Yuan, "Bandwidth optimal all-reduce algorithms for
                               clusters of workstations", 2009)
"""

import jax
import jax.numpy as jnp

from fedjax_comp.base import Bits, Ends, Traffic
from fedjax_comp.collectives.contract import AxisName
from fedjax_comp.wire.words import WORD_BITS


def to_each_other(num_words: int, axis_name: AxisName) -> Traffic:
    """One message of whole words from this device to each other: `M = w - 1`."""
    width = jax.lax.axis_size(axis_name)
    me = jax.lax.axis_index(axis_name).astype(jnp.int32)
    others = (me + 1 + jnp.arange(width - 1, dtype=jnp.int32)) % width
    return Traffic(
        bits=Bits(WORD_BITS * num_words),
        spoke=jnp.ones(width - 1, bool),
        ends=Ends(jnp.full_like(others, me), others),
    )


def around_the_ring(num_words: int, axis_name: AxisName) -> Traffic:
    """What this device sends to the next one in a `psum`: `M = 2`, or 0 when alone.

    The words are cut into `w` chunks, the first `num_words % w` of them longer by one.
    A device passes on all chunks but one while they are added up, and again all chunks
    but another one once they are.
    """
    width = jax.lax.axis_size(axis_name)
    me = jax.lax.axis_index(axis_name).astype(jnp.int32)
    # A device alone has nobody to send to.
    kept = (me + jnp.arange(1, 3 if width > 1 else 1, dtype=jnp.int32)) % width
    each, longer = divmod(num_words, width)
    most = num_words - each
    less = (kept < longer).astype(jnp.uint32)
    words = jnp.uint32(1 if longer else 0) - less
    return Traffic(
        bits=Bits(WORD_BITS * (most - bool(longer)), (WORD_BITS * words,)),
        spoke=jnp.ones(kept.shape, bool),
        ends=Ends(jnp.full_like(kept, me), jnp.full_like(kept, (me + 1) % width)),
    )
