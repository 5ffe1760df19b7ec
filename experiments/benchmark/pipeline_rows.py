"""Rows as in `compressor_rows.py`, for compressors that are made of several stages."""

from experiments.benchmark.compressor_rows import Row

PIPELINES: dict[str, tuple[Row, ...]] = {
    "budget": (
        Row(
            "budgeted_top_k",
            "budgeted_top_k(0.01)",
            "`top_k`, as many as a changing budget allows",
            "after Aji and Heafield 2017",
        ),
        Row(
            "budgeted_random_k",
            "budgeted_random_k(0.01)",
            "`random_k` likewise",
            "after Stich et al. 2018",
        ),
        Row(
            "budgeted_quantize",
            "budgeted_quantize(4)",
            "`stochastic_quantize` likewise",
            "after Suresh et al. 2017",
        ),
        Row(
            "budgeted_low_rank",
            "budgeted_low_rank(1.0)",
            "`coded_low_rank` likewise, by its exact length",
            "after Cover and Thomas 2006",
        ),
        Row(
            "budgeted_separable",
            "budgeted_separable(1.0)",
            "`separable` at the least step that fits, by its exact length",
            "after Shazeer and Stern 2018",
        ),
        Row(
            "ladder",
            "ladder(scaled_sign(), stochastic_quantize(16))",
            "any compressors, the best that fits; shown: the last rung",
            "",
        ),
    ),
    "schemes": (
        Row(
            "eden_fixed_rate",
            "eden_fixed_rate(2)",
            "unbiased at a fixed rate: the first choice among quantizers",
            "Vargaftik et al. 2022",
        ),
        Row(
            "eden_entropy_coded",
            "eden_entropy_coded(2)",
            "less error at about a rate",
            "Vargaftik et al. 2022",
        ),
        Row(
            "drive",
            "drive()",
            "`eden_fixed_rate(1)` under its own name",
            "Vargaftik et al. 2021",
        ),
        Row(
            "rotated_quantize",
            "rotated_quantize(16)",
            "a baseline: rotation and uniform levels",
            "Suresh et al. 2017",
        ),
        Row(
            "kashin_quantize",
            "kashin_quantize(4)",
            "a baseline: Kashin's representation and uniform levels",
            "Safaryan et al. 2020",
        ),
        Row(
            "qsgd_elias",
            "qsgd_elias(724)",
            "QSGD with the paper's own code",
            "Alistarh et al. 2017",
        ),
        Row(
            "sketched_update",
            "sketched_update(0.25, levels=16)",
            "a baseline: subsampling, rotation, uniform levels",
            "Konečný et al. 2016",
        ),
        Row(
            "random_mask",
            "random_mask(0.01)",
            "training inside a random pattern",
            "Konečný et al. 2016",
        ),
        Row(
            "stc", "stc(0.01)", "`top_k` and signs on both links", "Sattler et al. 2019"
        ),
        Row(
            "dgc",
            "chain(dgc(0.01), entropy_coded())",
            "`top_k` with momentum inside the link",
            "Lin et al. 2018",
        ),
        Row(
            "demo",
            "chain(demo(2), entropy_coded())",
            "momentum that is sent by its strongest waves",
            "Peng et al. 2024",
        ),
        Row(
            "sparse_loco",
            "sparse_loco()",
            "what long local training changed, with an outer step of plain SGD",
            "Sarfi et al. 2025",
        ),
        Row(
            "budgeted_eden",
            "budgeted_eden((1, 2))",
            "EDEN at the highest rate that fits; shown: the last",
            "after Vargaftik et al. 2022",
        ),
        Row(
            "budgeted_trellis",
            "budgeted_trellis((1, 2))",
            "the trellis likewise",
            "after Tseng et al. 2024",
        ),
    ),
    "combine": (
        Row("identity", "identity()", "the dense baseline", ""),
        Row(
            "chain",
            "chain(top_k(0.01), to_dtype('bfloat16'), entropy_coded())",
            "stages in sequence",
            "",
        ),
        Row(
            "flattened",
            "flattened(top_k(0.01))",
            "all leaves as one vector: one scale, one choice",
            "",
        ),
        Row(
            "partition",
            "partition({'matrix': low_rank(16), 'rest': identity()}, by_rank)",
            "another compressor for each kind of leaf",
            "",
        ),
        Row(
            "blockwise",
            "blockwise(512, stochastic_quantize(16))",
            "a scale for every block: heavy tails without a rotation",
            "Alistarh et al. 2017",
        ),
        Row(
            "per_client",
            "flattened(chain(per_client(rotate()), eden(2)))",
            "independent errors of the clients, so that they average out",
            "",
        ),
        Row(
            "error_feedback",
            "error_feedback(chain(top_k(0.01), entropy_coded()))",
            "around whatever is biased; shown: the first message",
            "Seide et al. 2014; Karimireddy et al. 2019",
        ),
        Row(
            "differenced",
            "differenced(chain(top_k(0.01), entropy_coded()))",
            "the same by differences (EF21, DIANA); shown: the first message",
            "Richtárik et al. 2021; Mishchenko et al. 2019",
        ),
    ),
}
"""Room to its factories."""
