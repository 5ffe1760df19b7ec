"""The last stage of a chain: lossless codes for symbols and indices.

The payload stays as it is; each `Symbols` and `IndexSet` is only marked with the code
that will put it on the wire (`Coded`). Inside jit only the exact length is computed;
the bits themselves are written later, by `fedjax_comp.wire.message`.
"""

import jax

from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.leafwise import is_open
from fedjax_comp.wire.codes import rans, shortest_index_set
from fedjax_comp.wire.fields import Code, Coded, IndexSet, Symbols, is_field


def _code(name: str, given: object, default: Code, field: type) -> Code:
    value = default if given is None else given
    if not isinstance(value, Code):
        called = getattr(value, "__name__", None)
        way_out = f"; write it as a call: {called}()" if called else ""
        raise ValueError(
            f"Expected {name} to be a code, not {called or repr(value)}{way_out}."
        )
    if field not in value.takes:
        raise ValueError(
            f"Expected {name} to be a code of {field.__name__} fields, which "
            f"{value.name} is not: leave it out for {default.name}."
        )
    return value


def entropy_coded(
    *, symbols: Code | None = None, indices: Code | None = None
) -> Compressor:
    """Codes every `Symbols` and every `IndexSet` of the stages before; `decode` undoes.

    Args:
      symbols: the code of `Symbols`; `rans()` by default.
      indices: the code of `IndexSet`; `shortest_index_set()` by default.

    Raises:
      ValueError: when `symbols` or `indices` is no `Code`, or not one of such fields.

    Returns:
      A compressor of payloads (arrays and wire fields) without memory. Its `init`
      raises `ValueError` for a payload that has neither symbols nor indices, though it
      has floats.

    >>> import jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> compressor = entropy_coded()
    >>> payload = [Symbols(jnp.zeros(100, jnp.uint8), 4), jnp.ones(2)]
    >>> state = compressor.init(payload)
    >>> context = make_context(jax.random.key(0), 0)
    >>> coded, _ = compressor.encode(context, payload, state.sender)
    >>> coded[0].code.name
    'rans(8192)'
    """
    symbol_code = _code("symbols", symbols, rans(), Symbols)
    index_code = _code("indices", indices, shortest_index_set(), IndexSet)

    def init(like: PyTree) -> LinkState:
        leaves = jax.tree.leaves(like, is_leaf=is_field)
        # Integers and empty leaves pass through every stage: they are nobody's mistake.
        missed = any(
            trees.size(leaf) > 0 and (is_field(leaf) or is_open(leaf))
            for leaf in leaves
        )
        if missed and not any(isinstance(x, Symbols | IndexSet) for x in leaves):
            raise ValueError(
                "entropy_coded() finds no symbols and no indices: put it after a stage "
                "that makes them, e.g. chain(top_k(0.01), entropy_coded())."
            )
        return LinkState((), ())

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        def code(field: PyTree) -> PyTree:
            match field:
                case Symbols():
                    return Coded(field, symbol_code)
                case IndexSet():
                    return Coded(field, index_code)
                case _:
                    return field

        del context
        return jax.tree.map(code, tree, is_leaf=is_field), sender

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        def undo(field: PyTree) -> PyTree:
            return field.field if isinstance(field, Coded) else field

        del context
        return jax.tree.map(undo, payload, is_leaf=is_field), receiver

    return Compressor(init, encode, decode)
