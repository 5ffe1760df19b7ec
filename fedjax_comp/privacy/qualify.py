"""Which compressors' messages may be masked and added, and why the others may not.

Masks cancel in a sum of residues. So a message must be a vector of integers, of the
same length and on the same grid for all clients, and decoding must turn the sum of
messages into the sum of what they stand for.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree, make_context
from fedjax_comp.compress.low_rank.singular import Factors
from fedjax_comp.compress.quantize.common_range import Ranged
from fedjax_comp.keys import make_key
from fedjax_comp.privacy.integers import (
    from_integers,
    integer_grid,
    largest_magnitude,
    length_of,
    parts_of,
)
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols

_WAY_OUT = (
    "Use common_range (behind rotate, if you like), random_k(shared=True), "
    "count_sketch, random_projection or identity()."
)
_PROBE_GRID = integer_grid(9, limit=4.0)


def qualify(compressor: Compressor, like: PyTree) -> PyTree:
    """Checks that a compressor's messages may be summed under masks.

    Args:
      compressor: of the clients' updates.
      like: the tree that will travel, or a tree of `jax.ShapeDtypeStruct`.

    Returns:
      The payload's shapes and dtypes, the `template` of `from_integers`.

    Raises:
      ValueError: with the reason when they may not: coordinates that each client
        chooses, scales of its own, codebooks, coded or rounded fields, lengths that
        depend on data, a receiver with memory, or a decoding that is not linear or
        needs a client's key.

    >>> from fedjax_comp.compress import random_k, top_k
    >>> qualify(random_k(k=2, shared=True), jnp.zeros(5)).parts[0].shape
    (2,)
    >>> qualify(top_k(k=2), jnp.zeros(5))
    Traceback (most recent call last):
    ...
    ValueError: Expected messages that add: each client chooses its own coordinates...
    """
    checks.compressor("compressor", compressor)
    state = compressor.init(like)
    if jax.tree.leaves(state.receiver):
        raise _refusal(
            "the receiver remembers each client's messages, which is what it must not "
            "see"
        )
    template = payload_like(compressor, like)
    parts = parts_of(template)
    if not parts:
        raise _refusal("there is nothing to send")
    if any(isinstance(node, Factors) for node in _factors(template)):
        raise _refusal(
            "the sum of factors is not the factor of a sum; with PowerSGD sum its two "
            "products one after the other, see summed_power_step"
        )
    # What is coded or chosen says more of a compressor than the scale beside it.
    for part in sorted(parts, key=lambda part: isinstance(part, Raw)):
        if not isinstance(part, Ranged):
            _require_open_floats(part, parts)
    ranged = any(isinstance(part, Ranged) for part in parts)
    if not ranged and not compressor.linear:
        raise _refusal(
            "decoding is not linear, or needs a client's own key, so that a decoded "
            "sum is not the sum of what was decoded"
        )
    if ranged:
        _require_linear_decoding(compressor, state, template)
    return template


def payload_like(compressor: Compressor, like: PyTree) -> PyTree:
    """Shapes and dtypes of what a compressor makes of `like`, without making it."""
    context = jax.eval_shape(lambda: make_context(make_key(0), 0))
    sender = compressor.init(like).sender
    return jax.eval_shape(compressor.encode, context, like, sender)[0]


def _refusal(reason: str) -> ValueError:
    return ValueError(f"Expected messages that add: {reason}. {_WAY_OUT}")


def _factors(payload: PyTree) -> list[PyTree]:
    return jax.tree.leaves(payload, is_leaf=lambda node: isinstance(node, Factors))


def _require_open_floats(part: PyTree, parts: list[PyTree]) -> None:
    """Raises `ValueError` unless a part is a bare float array."""
    match part:
        case Coded():
            raise _refusal(
                "an entropy code gives each client another length, and masked residues "
                "are uniform, so that there is nothing left to code"
            )
        case IndexSet():
            raise _refusal(
                "each client chooses its own coordinates, so that the same place in "
                "two messages means different ones"
            )
        case Raw() | Symbols() if part.count is not None:
            raise _refusal("the length of a message depends on its data")
        case Symbols():
            scaled = any(
                jnp.issubdtype(dtype, jnp.floating)
                for dtype in map(_dtype, parts)
                if dtype is not None
            )
            raise _refusal(
                "its symbols are multiples of each client's own scale, which has no sum"
                if scaled
                else "its symbols are names of numbers that need not be equally spaced"
            )
        case Raw():
            raise _refusal(
                "it holds finished numbers, rounded or chosen by each client for itself"
            )
        case _ if not jnp.issubdtype(part.dtype, jnp.floating):
            raise _refusal(
                f"it holds bare {part.dtype} numbers, of which no range is known"
            )


def _dtype(part: PyTree) -> np.dtype | None:
    if isinstance(part, Raw):
        return part.values.dtype
    return getattr(part, "dtype", None)


def _require_linear_decoding(
    compressor: Compressor, state: LinkState, template: PyTree
) -> None:
    """Tries two random messages, under two clients' keys: they tell a false one.

    `Compressor.linear` cannot say it for `common_range`, whose symbols stand for
    `step s - limit`: its decoding is linear in centred symbols only.
    """
    length = length_of(template)
    most = largest_magnitude(template, _PROBE_GRID)
    rng = np.random.default_rng(0)
    one, two = rng.integers(-most, most, (2, length), endpoint=True)

    def decoded(vector: np.ndarray, client: int) -> np.ndarray:
        context: Context = make_context(make_key(0), client)
        payload = from_integers(vector, template, _PROBE_GRID)
        tree, _ = compressor.decode(context, payload, state.receiver)
        leaves = [
            np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)
        ]
        return np.concatenate(leaves)

    first, second, both = decoded(one, 0), decoded(two, 0), decoded(one + two, 0)
    room = 1e-3 * np.max(np.abs(both), initial=1e-30)
    if np.max(np.abs(first - decoded(one, 1)), initial=0) > room:
        raise _refusal("decoding needs each client's own key")
    if np.max(np.abs(first + second - both), initial=0) > room:
        raise _refusal("decoding is not linear")
