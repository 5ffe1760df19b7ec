"""The part of the table with a memory, with sparsifiers, low rank and sketches.

`compressor_table` holds the rest and includes it.
"""

from fedjax_comp.compress import (
    differenced,
    error_feedback,
    random_k,
    top_k,
)
from fedjax_comp.compress.low_rank.factors import randomized_low_rank
from fedjax_comp.compress.low_rank.power_sgd import power_sgd
from fedjax_comp.compress.low_rank.spectral import energy_low_rank, spectral_sample
from fedjax_comp.compress.low_rank.truncation import truncation
from fedjax_comp.compress.sketch import count_sketch
from fedjax_comp.compress.sparsify.counted import threshold, warm_up_top_k
from fedjax_comp.compress.sparsify.structured import block_top_k, chunk_top_k
from fedjax_comp.compress.transform.dct import dct
from fedjax_comp.compress.transform.projection import random_projection
from tests.conformance.compressor_bounds import (
    Entry,
    contractive,
    exact,
    kept,
    unbiased,
)

SPARSE_AND_LOW_RANK = (
    contractive(
        "error_feedback_momentum",
        lambda: error_feedback(top_k(0.3), momentum=0.9, decay=0.9),
        lambda n: 1 - kept(n, 0.3) / n,
    ),
    contractive(
        "differenced_top_k",
        lambda: differenced(top_k(0.3)),
        lambda n: 1 - kept(n, 0.3) / n,
        remembers=True,
    ),
    unbiased(
        "differenced_random_k",
        lambda: differenced(random_k(0.5), step=0.5),
        lambda n: n / kept(n, 0.5) - 1,
        lambda n: max(1.0, (n / kept(n, 0.5) - 1) ** 2),
    ),
    exact("dct", lambda: dct(chunk=5)),
    contractive(
        "threshold", lambda: threshold(0.5, cap=0.5), lambda n: 1.0, scales=False
    ),
    contractive(
        "warm_up_top_k",
        lambda: warm_up_top_k(0.1, warm_up=(0.3,), messages=1),
        lambda n: 1 - kept(n, 0.3) / n,
    ),
    # Four blocks of 4 coordinates, of which two are kept; then two of every four.
    contractive("block_top_k", lambda: block_top_k(0.5, block=4), lambda n: 1 / 2),
    contractive("chunk_top_k", lambda: chunk_top_k(2, chunk=4), lambda n: 1 / 2),
    Entry(
        "count_sketch",
        lambda: count_sketch(rows=2, columns=5),
        # A row's decoder after its encoder is at most n times a projection.
        lambda n: (n - 1) / 10,
        lambda n: (n - 1) ** 2,
        unbiased=True,
        shared=True,
    ),
    contractive("power_sgd", lambda: power_sgd(1), lambda n: 1.0),
    contractive(
        "randomized_low_rank",
        lambda: randomized_low_rank(1),
        lambda n: 1.0,
        keyed="client",
    ),
    # The matrix has four singular values: at most 4 times its norm in one of them.
    unbiased(
        "spectral_sample", lambda: spectral_sample(1), lambda n: 3.0, lambda n: 5.0
    ),
    contractive("truncation", lambda: truncation(0.6), lambda n: 0.4),
    contractive(
        "truncation spatial",
        lambda: truncation(0.6, max_rank=1, scheme="spatial"),
        lambda n: 3 / 4,
    ),
    contractive(
        "energy_low_rank", lambda: energy_low_rank(0.6, max_rank=1), lambda n: 3 / 4
    ),
    Entry(
        "random_projection",
        lambda: random_projection(1),
        lambda n: 3 / 4,
        lambda n: 1.0,
        shared=True,
    ),
    Entry(
        "random_projection_rescaled",
        lambda: random_projection(1, rescale=True),
        lambda n: 3.0,
        lambda n: 9.0,
        unbiased=True,
        shared=True,
    ),
)
