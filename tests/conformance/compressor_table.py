"""Every compressor and pipeline under the battery, with what it declares of itself.

To put a new compressor under all of the battery's checks, add one `Entry`.
"""

import math

from fedjax_comp.compress import (
    blockwise,
    budgeted_eden,
    budgeted_low_rank,
    budgeted_quantize,
    budgeted_random_k,
    budgeted_separable,
    budgeted_top_k,
    budgeted_trellis,
    by_rank,
    chain,
    coded_low_rank,
    common_range,
    drive,
    ecsq,
    eden,
    eden_fixed_rate,
    elias_omega,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    kashin,
    kashin_quantize,
    low_rank,
    natural_compression,
    natural_dithering,
    nuqsgd,
    one_bit,
    partition,
    per_client,
    qsgd,
    qsgd_elias,
    random_k,
    rotate,
    rotated_quantize,
    scaled_sign,
    separable,
    sign_sgd,
    simplex_quantize,
    stochastic_quantize,
    terngrad,
    to_dtype,
    top_k,
    trellis,
    uniform_trellis,
)
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.compress.schemes.sparsifiers import (
    demo,
    dgc,
    random_mask,
    sketched_update,
    sparse_loco,
    stc,
)
from tests.conformance.compressor_bounds import (
    BFLOAT16_ERROR,
    Entry,
    contractive,
    dithering_error,
    exact,
    kept,
    levels_error,
    qsgd_error,
    unbiased,
    uniform_error,
)
from tests.conformance.sparse_table import SPARSE_AND_LOW_RANK

COMPRESSORS = (
    exact("identity", identity),
    exact("rotate", rotate, keyed="round"),
    exact("flattened_rotate", lambda: flattened(rotate()), keyed="round"),
    exact("rotate_blocks", lambda: flattened(rotate(block=16)), keyed="round"),
    contractive("to_bfloat16", lambda: to_dtype("bfloat16"), lambda n: BFLOAT16_ERROR),
    contractive("top_k", lambda: top_k(0.3), lambda n: 1 - kept(n, 0.3) / n),
    unbiased(
        "random_k",
        lambda: random_k(0.3),
        lambda n: n / kept(n, 0.3) - 1,
        lambda n: max(1.0, (n / kept(n, 0.3) - 1) ** 2),
    ),
    unbiased(
        "stochastic_quantize", lambda: stochastic_quantize(levels=5), *uniform_error(5)
    ),
    contractive(
        "nearest_quantize",
        lambda: stochastic_quantize(levels=5, rounding="nearest"),
        uniform_error(5)[0],
    ),
    unbiased("qsgd", lambda: qsgd(levels=3), *qsgd_error(3)),
    contractive(
        "budgeted_top_k",
        lambda: budgeted_top_k(0.3),
        lambda n: 1 - kept(n, 0.3) / n,
    ),
    unbiased(
        "budgeted_random_k",
        lambda: budgeted_random_k(0.3),
        lambda n: n / kept(n, 0.3) - 1,
        lambda n: max(1.0, (n / kept(n, 0.3) - 1) ** 2),
    ),
    unbiased(
        "budgeted_quantize",
        lambda: budgeted_quantize(max_bits=3),
        *uniform_error(8),
    ),
    contractive(
        "top_k_sampled",
        lambda: top_k(0.3, sampled=True),
        lambda n: 1 - kept(n, 0.3) / n,
    ),
    contractive("scaled_sign", scaled_sign, lambda n: 1 - 1 / n),
    # Without a budget it is its last rung.
    unbiased(
        "ladder",
        lambda: ladder(scaled_sign(), stochastic_quantize(levels=8)),
        *uniform_error(8),
    ),
    # A vector has no factors and a matrix of 4 columns at least a quarter of itself.
    contractive("low_rank", lambda: low_rank(1), lambda n: 3 / 4),
    unbiased(
        "rotate_quantize",
        lambda: flattened(chain(rotate(), stochastic_quantize(levels=5))),
        *uniform_error(5),
    ),
    unbiased(
        "qsgd_entropy_coded",
        lambda: chain(qsgd(levels=3), entropy_coded()),
        *qsgd_error(3),
    ),
    contractive(
        "top_k_quantize_entropy_coded",
        lambda: chain(
            top_k(0.5),
            stochastic_quantize(levels=64, rounding="nearest"),
            entropy_coded(),
        ),
        lambda n: 1 - kept(n, 0.5) / n + uniform_error(64)[0](kept(n, 0.5)),
    ),
    contractive(
        "partition",
        lambda: partition(
            {"matrix": chain(low_rank(1), to_dtype("bfloat16")), "rest": identity()},
            by_rank,
        ),
        # Rounding both factors adds at most about twice their relative error.
        lambda n: (math.sqrt(3 / 4) + 3 * math.sqrt(BFLOAT16_ERROR)) ** 2,
        scales=False,  # factors that are rounded anew
    ),
    contractive(
        "error_feedback_top_k",
        lambda: error_feedback(top_k(0.3)),
        lambda n: 1 - kept(n, 0.3) / n,
        remembers=True,
    ),
    contractive(
        "error_feedback_pipeline",
        lambda: error_feedback(
            flattened(
                chain(
                    top_k(0.5),
                    stochastic_quantize(levels=64, rounding="nearest"),
                    entropy_coded(),
                )
            )
        ),
        lambda n: 1 - kept(n, 0.5) / n + uniform_error(64)[0](kept(n, 0.5)),
        remembers=True,
    ),
    *SPARSE_AND_LOW_RANK,
    contractive("stc", lambda: stc(0.3), lambda n: 1 - 1 / n, remembers=True),
    contractive("dgc", lambda: dgc(0.3), lambda n: 1 - kept(n, 0.3) / n),
    contractive("demo", lambda: demo(2, chunk=4), lambda n: 1 / 2),
    contractive(
        "sparse_loco",
        lambda: sparse_loco(2, chunk=4, levels=64),
        lambda n: 1 / 2 + uniform_error(64)[0](n),
    ),
    Entry(
        "random_mask",
        lambda: random_mask(0.3),
        lambda n: 1 - kept(n, 0.3) / n,
        lambda n: 1.0,
        draws=True,
    ),
    # Half of 16 coordinates, doubled, and the error of 8 quantized ones, doubled.
    unbiased(
        "sketched_update",
        lambda: sketched_update(0.5, levels=5),
        lambda n: 1 + 2 * uniform_error(5)[0](n // 2),
        lambda n: (1 + 2 * math.sqrt(uniform_error(5)[1](n // 2))) ** 2,
    ),
    # Scaled, so that the range is used: half a unit in the fourth significant bit, and
    # below 2**-6 half of 2**-9, where the largest magnitude is above 224.
    contractive(
        "to_float8",
        lambda: to_dtype("float8_e4m3fn", scaled=True),
        lambda n: 2.0**-8 + n * (2.0**-10 / 224) ** 2,
    ),
    unbiased(
        "terngrad", terngrad, lambda n: (math.sqrt(n) - 1) / 2, lambda n: float(n)
    ),
    contractive("one_bit", one_bit, lambda n: 1 - 1 / n),
    contractive("one_bit_columns", lambda: one_bit(columns=True), lambda n: 1 - 1 / n),
    contractive("sign_sgd", sign_sgd, lambda n: math.inf, scales=False),
    # Above `2**127` there is no power of two to round up to.
    unbiased(
        "natural_compression",
        natural_compression,
        lambda n: 1 / 8,
        lambda n: 1,
        scales=False,
    ),
    unbiased("natural_dithering", lambda: natural_dithering(3), *dithering_error(3)),
    unbiased("nuqsgd", lambda: nuqsgd(3), *dithering_error(4)),
    unbiased("qsgd_elias", lambda: qsgd_elias(3), *qsgd_error(3)),
    # A block of 5 of 16 coordinates and one of what is left.
    unbiased(
        "blockwise",
        lambda: chain(blockwise(5, qsgd(3)), entropy_coded(symbols=elias_omega())),
        lambda n: qsgd_error(3)[0](min(n, 5)),
        lambda n: qsgd_error(3)[1](min(n, 5)),
    ),
    exact("kashin", kashin, keyed="round"),
    exact("per_client_rotate", lambda: per_client(rotate()), keyed="client"),
    # Twice the coordinates, of norm up to 1.2 times, and decoding projects.
    Entry(
        "kashin_quantize",
        lambda: kashin_quantize(5),
        lambda n: 1.44 * uniform_error(5)[0](2 * n),
        lambda n: 1.44 * uniform_error(5)[1](2 * n),
        unbiased=True,
        draws=True,
    ),
    unbiased("rotated_quantize", lambda: rotated_quantize(5), *uniform_error(5)),
    # Only a uniformly random rotation makes these unbiased: see test_eden.
    contractive("drive", drive, lambda n: n - 1, keyed="client"),
    contractive(
        "drive_biased",
        lambda: drive(unbiased=False),
        lambda n: 1 - 1 / n,
        keyed="client",
    ),
    contractive(
        "eden",
        lambda: flattened(chain(rotate(), eden(2))),
        levels_error(1.52, 0.45),
        keyed="round",
    ),
    contractive(
        "eden_between",
        lambda: flattened(chain(rotate(), eden(1.5))),
        levels_error(1.52, 0.45),
        keyed="client",
    ),
    contractive(
        "eden_blocks",
        lambda: eden_fixed_rate(1.5, block=16),
        levels_error(1.52, 0.45),
        keyed="client",
    ),
    contractive(
        "eden_below_one",
        lambda: flattened(chain(rotate(), eden(0.5))),
        lambda n: n**2 / max(1, n // 2) + 1,
        keyed="client",
    ),
    # Without a budget it is its last rung.
    contractive(
        "budgeted_eden",
        lambda: budgeted_eden((0.5, 2)),
        levels_error(1.52, 0.45),
        keyed="client",
    ),
    contractive(
        "budgeted_trellis",
        lambda: budgeted_trellis((0.5, 1), states=16),
        lambda n: 4 / (1 - 1 / 4) - 1,
        keyed="client",
    ),
    # What is not 0 is at most twice what it stands for, and one step at least.
    contractive(
        "ecsq",
        lambda: flattened(chain(rotate(), ecsq(step=1.0), entropy_coded())),
        lambda n: max(1.0, 4 * n),
        keyed="round",
    ),
    contractive(
        "ecsq_blocks",
        lambda: flattened(
            chain(rotate(block=16), ecsq(step=1.0, axis=1), entropy_coded())
        ),
        lambda n: max(1.0, 4 * n),
        keyed="round",
    ),
    # The largest is a step at least, and what is not 0 at least 0.6 of its level:
    # `cos^2 >= 0.6 <x, q> / ||x||^2 >= 0.6 / n` in units of the root mean square.
    contractive("separable", lambda: separable(1.0, share=2), lambda n: 1 - 0.6 / n),
    contractive(
        "budgeted_separable",
        lambda: budgeted_separable(1.0, share=2),
        lambda n: 1 - 0.6 / n,
    ),
    # The scale is that of least squares.
    contractive("coded_low_rank", lambda: coded_low_rank(1.0), lambda n: 1.0),
    contractive(
        "coded_low_rank_history",
        lambda: coded_low_rank(1.0, history=4),
        lambda n: 1.0,
    ),
    contractive("budgeted_low_rank", lambda: budgeted_low_rank(1.0), lambda n: 1.0),
    # Noise of variance `f (1 - f) <= 1 / 4`; in every draw 1 and what is taken off.
    unbiased(
        "separable_unbiased",
        lambda: separable(1.0, unbiased=True, share=2),
        lambda n: 1 / 4,
        lambda n: 1.5**2,
    )._replace(fewer_draws=4),
    # Beyond its range there is no bound.
    contractive(
        "common_range",
        lambda: common_range(5, limit=2.0),
        lambda n: math.inf,
        scales=False,
        keyed="client",
    ),
    contractive(
        "uniform_lattice",
        lambda: uniform_lattice(2),
        lambda n: math.inf,
        scales=False,
        keyed="client",
    ),
    contractive(
        "simplex_quantize",
        lambda: simplex_quantize(2),
        lambda n: math.inf,
        scales=False,
    ),
    contractive(
        "correlated",
        lambda: common_range(5, limit=2.0, cohort_size=4),
        lambda n: math.inf,
        scales=False,
        keyed="client",
    ),
    # ------------------------------------------------------------------- trellises
    # Of all multiples of the levels the nearest: never further than 0.
    contractive(
        "trellis",
        lambda: trellis(2, states=16, unbiased=False),
        lambda n: 1.0,
        keyed="round",
    ),
    # The scale's guard: an angle of `cos^2 >= (1 - 4^-R) / 4`, for R = 1.
    contractive(
        "rotate_trellis",
        lambda: flattened(chain(rotate(), trellis(1, states=16))),
        lambda n: 4 / (1 - 1 / 4) - 1,
        keyed="round",
    ),
    contractive(
        "uniform_trellis_entropy_coded",
        lambda: chain(uniform_trellis(2, states=8, unbiased=False), entropy_coded()),
        lambda n: 1.0,
        keyed="round",
    ),
)
