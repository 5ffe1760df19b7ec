"""Compressors: what travels on a link, as pure transforms of pytrees.

The contract is `fedjax_comp.base.Compressor`. To add one for a single array, write an
`ArrayCode` and lift it with `leafwise`; it then works under every combinator and is
tested by one line in `tests/conformance/compressor_table.py`.
"""

from fedjax_comp.compress.cast import to_dtype
from fedjax_comp.compress.combinators import (
    by_rank,
    chain,
    flattened,
    identity,
    partition,
)
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.compress.feedback import error_feedback
from fedjax_comp.compress.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.low_rank import low_rank
from fedjax_comp.compress.quantize import qsgd, sign, stochastic_quantize
from fedjax_comp.compress.rotate import rotate
from fedjax_comp.compress.sparsify import random_k, top_k

__all__ = [
    "ArrayCode",
    "by_rank",
    "chain",
    "entropy_coded",
    "error_feedback",
    "flattened",
    "identity",
    "leafwise",
    "low_rank",
    "partition",
    "qsgd",
    "random_k",
    "rotate",
    "sign",
    "stochastic_quantize",
    "to_dtype",
    "top_k",
]
