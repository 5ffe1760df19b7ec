"""The rows that `compressors.py` measures, one for each factory of a single stage.

`expression` is an example of the factory in the language of flags. A test checks that
the table of `fedjax_comp/compress/README.md` has these rows, and that every factory has
one. Combinators, budgets and schemes are in `pipeline_rows.py`.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One factory.

    Attributes:
      factory: its name.
      expression: what is measured.
      choose: when to choose it; a half-sentence.
      source: of the method, author and year.
    """

    factory: str
    expression: str
    choose: str
    source: str


STAGES: dict[str, tuple[Row, ...]] = {
    "quantize": (
        Row(
            "to_dtype",
            "to_dtype('bfloat16')",
            "half the bytes at no visible loss; values of `top_k` or `low_rank`",
            "Micikevicius et al. 2022 (8 bits)",
        ),
        Row(
            "stochastic_quantize",
            "stochastic_quantize(16)",
            "few levels, coordinates of like size",
            "Suresh et al. 2017",
        ),
        Row(
            "qsgd",
            "chain(qsgd(724), entropy_coded())",
            "unbiased without a rotation; few levels under an entropy code",
            "Alistarh et al. 2017",
        ),
        Row(
            "natural_compression",
            "chain(natural_compression(), entropy_coded())",
            "unbiased and cheap, for coordinates of any size",
            "Horváth et al. 2019",
        ),
        Row(
            "natural_dithering",
            "chain(natural_dithering(10), entropy_coded())",
            "as `qsgd`, where sizes differ by orders of magnitude",
            "Horváth et al. 2019",
        ),
        Row(
            "nuqsgd",
            "chain(nuqsgd(9), entropy_coded())",
            "`natural_dithering` in NUQSGD's count of levels",
            "Ramezani-Kebrya et al. 2021",
        ),
        Row(
            "terngrad",
            "chain(terngrad(), entropy_coded())",
            "three levels, many clients to average over",
            "Wen et al. 2017",
        ),
        Row(
            "one_bit",
            "one_bit()",
            "one bit a coordinate under error feedback",
            "Seide et al. 2014",
        ),
        Row(
            "scaled_sign",
            "scaled_sign()",
            "the same with one scale",
            "Karimireddy et al. 2019",
        ),
        Row(
            "sign_sgd",
            "sign_sgd()",
            "signSGD: a server that takes a vote",
            "Bernstein et al. 2018",
        ),
        Row(
            "common_range",
            "chain(rotate(), common_range(15, limit=4.0))",
            "messages that are added as integers: secure sums, switches",
            "Ben Basat et al. 2022; Li et al. 2024",
        ),
        Row(
            "uniform_lattice",
            "uniform_lattice(4, low=-4.0, high=4.0)",
            "data in a known range, such as pixels",
            "Schuchman 1964",
        ),
        Row(
            "simplex_quantize",
            "simplex_quantize(4)",
            "rows that are distributions, such as soft labels, and no others",
            "Sattler et al. 2021",
        ),
        Row(
            "eden",
            "flattened(chain(rotate(), eden(2)))",
            "a stage: any fixed rate behind your own rotation",
            "Vargaftik et al. 2022",
        ),
        Row(
            "ecsq",
            "flattened(chain(rotate(), ecsq(2), entropy_coded()))",
            "a stage: a uniform step between your own rotation and code",
            "Vargaftik et al. 2022",
        ),
        Row(
            "separable",
            "separable(1.0)",
            "real updates in the fewest bits: rows and columns of unlike size",
            "after Shazeer and Stern 2018",
        ),
    ),
    "sparsify": (
        Row(
            "top_k",
            "chain(top_k(0.01), entropy_coded())",
            "few bytes under error feedback: the usual first choice",
            "Aji and Heafield 2017",
        ),
        Row(
            "random_k",
            "random_k(0.01)",
            "unbiased or linear; no index travels",
            "Stich et al. 2018",
        ),
        Row(
            "threshold",
            "chain(threshold(3.0), entropy_coded())",
            "a bound on what each dropped coordinate loses",
            "Strom 2015; Sahu et al. 2021",
        ),
        Row(
            "warm_up_top_k",
            "chain(warm_up_top_k(0.01, warm_up=(0.1,), messages=1), entropy_coded())",
            "early rounds that may cost more; shown: the first message",
            "Lin et al. 2018",
        ),
        Row(
            "block_top_k",
            "chain(block_top_k(0.01, block=16), entropy_coded())",
            "large coordinates that are neighbours; cheap indices",
            "after Aji and Heafield 2017",
        ),
        Row(
            "chunk_top_k",
            "chain(chunk_top_k(2), entropy_coded())",
            "a fixed share of every chunk; no global selection",
            "Peng et al. 2024",
        ),
    ),
    "low_rank": (
        Row(
            "low_rank",
            "low_rank(16)",
            "matrices with few strong directions; the best of a rank",
            "Eckart and Young 1936",
        ),
        Row(
            "randomized_low_rank",
            "randomized_low_rank(16)",
            "nearly that for large matrices, at a fraction of the time",
            "Halko et al. 2011",
        ),
        Row(
            "power_sgd",
            "power_sgd(16)",
            "cheaper yet, under error feedback; shown: the first message",
            "Vogels et al. 2019",
        ),
        Row(
            "spectral_sample",
            "spectral_sample(16)",
            "low rank that must be unbiased",
            "Wang et al. 2018",
        ),
        Row(
            "coded_low_rank",
            "coded_low_rank(1.0)",
            "the fewest bits for what training sends, under error feedback",
            "after Cover and Thomas 2006",
        ),
        Row(
            "energy_low_rank",
            "energy_low_rank(0.1, max_rank=32)",
            "the rank follows the data, up to a bound",
            "Eckart and Young 1936",
        ),
        Row(
            "truncation",
            "truncation(0.1)",
            "whole models, dense where factors would be larger (FedDLR)",
            "Qiao et al. 2021",
        ),
    ),
    "transform": (
        Row(
            "rotate",
            "rotate()",
            "in front of a quantizer: all coordinates of like size",
            "Suresh et al. 2017",
        ),
        Row(
            "kashin",
            "kashin()",
            "the same with a bound on the largest, at twice the coordinates",
            "Lyubarskii and Vershynin 2010",
        ),
        Row(
            "dct",
            "chain(dct(), chunk_top_k(2), entropy_coded())",
            "in front of a sparsifier, where neighbours vary together",
            "Ahmed et al. 1974",
        ),
        Row(
            "random_projection",
            "random_projection(16)",
            "matrices, linear: the cohort's messages are added",
            "Konečný et al. 2016",
        ),
    ),
    "sketch, entropy code": (
        Row(
            "count_sketch",
            "count_sketch(rows=1, columns=16384)",
            "linear and unbiased: sums before decoding (FetchSGD)",
            "Charikar et al. 2002; Rothchild et al. 2020",
        ),
        Row(
            "entropy_coded",
            "chain(stochastic_quantize(16), entropy_coded())",
            "last stage of a chain: the same numbers in fewer bits",
            "Duda 2013 (rANS)",
        ),
    ),
    "trellis": (
        Row(
            "trellis",
            "flattened(chain(rotate(), trellis(2)))",
            "least error at a fixed rate, where encoding may take time",
            "Marcellin and Fischer 1990; Tseng et al. 2024",
        ),
        Row(
            "uniform_trellis",
            "flattened(chain(rotate(), uniform_trellis(2), entropy_coded()))",
            "least error of all at about a rate",
            "Marcellin 1994",
        ),
    ),
}
"""Room of `fedjax_comp/compress/` to its factories, in the order of the table."""
