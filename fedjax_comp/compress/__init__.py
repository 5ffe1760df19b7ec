"""Compressors: what travels on a link, as pure transforms of pytrees.

Which one should I use? `README.md` beside this file lists all of them, in one table for
each subpackage, with measured bits, errors and times.

The contract is `fedjax_comp.base.Compressor`. To add one for a single array, write an
`ArrayCode` and lift it with `leafwise`; it then works under every combinator, and one
line in `tests/conformance/compressor_table.py` tests it against the contract
(`CONTRIBUTING.md` has the whole recipe).
"""

from fedjax_comp.compress.budget.budgeted import (
    budgeted_quantize,
    budgeted_random_k,
    budgeted_top_k,
)
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.compress.budget.low_rank import budgeted_low_rank
from fedjax_comp.compress.budget.separable import budgeted_separable
from fedjax_comp.compress.combine.blockwise import blockwise
from fedjax_comp.compress.combine.chain import chain, identity
from fedjax_comp.compress.combine.differences import differenced
from fedjax_comp.compress.combine.feedback import error_feedback
from fedjax_comp.compress.combine.flattened import flattened
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.combine.partition import by_rank, partition
from fedjax_comp.compress.combine.per_client import per_client
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.compress.low_rank.coded import coded_low_rank
from fedjax_comp.compress.low_rank.factors import low_rank, randomized_low_rank
from fedjax_comp.compress.low_rank.power_sgd import power_sgd
from fedjax_comp.compress.low_rank.spectral import energy_low_rank, spectral_sample
from fedjax_comp.compress.low_rank.truncation import low_rank_start, truncation
from fedjax_comp.compress.quantize.cast import to_dtype
from fedjax_comp.compress.quantize.common_range import common_range
from fedjax_comp.compress.quantize.eden import ecsq, eden
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.compress.quantize.natural import (
    natural_compression,
    natural_dithering,
    nuqsgd,
)
from fedjax_comp.compress.quantize.one_bit import one_bit, sign_sgd
from fedjax_comp.compress.quantize.scalar import qsgd, scaled_sign, stochastic_quantize
from fedjax_comp.compress.quantize.separable import separable
from fedjax_comp.compress.quantize.simplex import simplex_quantize
from fedjax_comp.compress.quantize.terngrad import terngrad
from fedjax_comp.compress.schemes.quantizers import (
    budgeted_eden,
    budgeted_trellis,
    drive,
    eden_entropy_coded,
    eden_fixed_rate,
    kashin_quantize,
    qsgd_elias,
    rotated_quantize,
)
from fedjax_comp.compress.schemes.sparsifiers import (
    demo,
    dgc,
    random_mask,
    sketched_update,
    sparse_loco,
    stc,
)
from fedjax_comp.compress.sketch import count_sketch
from fedjax_comp.compress.sparsify.counted import threshold, warm_up_top_k
from fedjax_comp.compress.sparsify.structured import block_top_k, chunk_top_k
from fedjax_comp.compress.sparsify.top_k import random_k, top_k
from fedjax_comp.compress.transform.dct import dct
from fedjax_comp.compress.transform.kashin import kashin
from fedjax_comp.compress.transform.projection import random_projection
from fedjax_comp.compress.transform.rotate import rotate
from fedjax_comp.compress.trellis.fixed_rate import trellis
from fedjax_comp.compress.trellis.uniform import uniform_trellis
from fedjax_comp.wire.codes import (
    elias_delta,
    elias_gamma,
    elias_omega,
    fixed_width,
    rans,
)

__all__ = [
    "ArrayCode",
    "block_top_k",
    "blockwise",
    "budgeted_eden",
    "budgeted_low_rank",
    "budgeted_quantize",
    "budgeted_random_k",
    "budgeted_separable",
    "budgeted_top_k",
    "budgeted_trellis",
    "by_rank",
    "chain",
    "chunk_top_k",
    "coded_low_rank",
    "common_range",
    "count_sketch",
    "dct",
    "demo",
    "dgc",
    "differenced",
    "drive",
    "ecsq",
    "eden",
    "eden_entropy_coded",
    "eden_fixed_rate",
    "elias_delta",
    "elias_gamma",
    "elias_omega",
    "energy_low_rank",
    "entropy_coded",
    "error_feedback",
    "fixed_width",
    "flattened",
    "identity",
    "kashin",
    "kashin_quantize",
    "ladder",
    "leafwise",
    "low_rank",
    "low_rank_start",
    "natural_compression",
    "natural_dithering",
    "nuqsgd",
    "one_bit",
    "partition",
    "per_client",
    "power_sgd",
    "qsgd",
    "qsgd_elias",
    "random_k",
    "random_mask",
    "random_projection",
    "randomized_low_rank",
    "rans",
    "rotate",
    "rotated_quantize",
    "scaled_sign",
    "separable",
    "sign_sgd",
    "simplex_quantize",
    "sketched_update",
    "sparse_loco",
    "spectral_sample",
    "stc",
    "stochastic_quantize",
    "terngrad",
    "threshold",
    "to_dtype",
    "top_k",
    "trellis",
    "truncation",
    "uniform_lattice",
    "uniform_trellis",
    "warm_up_top_k",
]
