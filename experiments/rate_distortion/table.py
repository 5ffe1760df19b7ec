"""The compressors that are measured: one line for each compressor and rate.

To add a compressor, add its line to `TABLE`: a family (a curve of the figures), whether
it declares itself unbiased, and the expression that makes it. Rates are measured, so
none is stated. Everything is wrapped in `flattened` where its paper sends one vector.
"""

from typing import NamedTuple

from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError

CLASSES = ("unbiased", "biased")
OPTIONS = ("slow", "matrices")
SLOW_TRIALS = 2


class Entry(NamedTuple):
    """One compressor at one rate.

    Attributes:
      family: the curve it belongs to.
      expression: what makes it, as a flag would say it.
      unbiased: whether it declares `E C(x) = x`; says which limit it is held against.
      quick: whether `--quick` measures it.
      slow: whether it is sent in no more than `SLOW_TRIALS` trials.
      matrices: whether it is of matrices only, and drawn vectors are nothing for it.
    """

    family: str
    expression: str
    unbiased: bool = True
    quick: bool = False
    slow: bool = False
    matrices: bool = False


def vector(*stages: str) -> str:
    """Stages on all coordinates as one vector."""
    return f"flattened(chain({', '.join(stages)}))"


def rotated(*stages: str) -> str:
    """The same behind a rotation, each client its own, so that errors average out."""
    return vector("per_client(rotate())", *stages)


CODED = "entropy_coded()"
NEAREST_16 = "stochastic_quantize(levels=16, rounding='nearest')"
BFLOAT16 = "to_dtype('bfloat16')"

TABLE = (
    # Behind a rotation, a vector's coordinates are Gaussian: the nearest to the limit.
    *(
        Entry("EDEN", f"eden_fixed_rate({bits})", quick=bits == 1)
        for bits in (0.1, 0.5, 1, 2, 3, 4, 6, 8)
    ),
    *(
        Entry("EDEN, entropy-coded", f"eden_entropy_coded({bits})", quick=bits == 2)
        for bits in (0.1, 0.5, 1, 2, 3, 4)
    ),
    *(
        Entry("trellis, 2^8 states", rotated(f"trellis({bits})"), quick=bits == 1)
        for bits in (0.1, 0.2, 0.5, 1, 1.5, 2, 3, 4)
    ),
    *(
        Entry(
            "trellis, 2^12 states", rotated(f"trellis({bits}, states=4096)"), slow=True
        )
        for bits in (0.5, 1, 2)
    ),
    *(
        Entry(
            "uniform trellis, 2^3 states, rANS",
            rotated(f"uniform_trellis({bits}, states=8)", CODED),
        )
        for bits in (1, 2, 4)
    ),
    *(
        Entry(
            "uniform trellis, 2^8 states, rANS",
            rotated(f"uniform_trellis({bits})", CODED),
            quick=bits == 2,
        )
        for bits in (0.1, 0.25, 0.5, 1, 2, 3, 4)
    ),
    *(
        Entry(
            "uniform trellis, 2^12 states, rANS",
            rotated(f"uniform_trellis({bits}, states=4096)", CODED),
            slow=True,
        )
        for bits in (0.5, 1, 2, 3, 4)
    ),
    *(
        Entry("rotated uniform", f"rotated_quantize({levels})")
        for levels in (2, 4, 16, 256)
    ),
    *(Entry("Kashin, uniform", f"kashin_quantize({levels})") for levels in (2, 4, 16)),
    Entry("subsampled, rotated uniform", "sketched_update(0.25, levels=16)"),
    Entry("subsampled, rotated uniform", "sketched_update(0.06, levels=16)"),
    # On the vector as it is.
    *(Entry("QSGD, Elias", f"qsgd_elias({s})") for s in (1, 181, 724)),
    *(
        Entry("QSGD, rANS", vector(f"qsgd({s})", CODED), quick=s == 724)
        for s in (1, 181, 724, 2896)
    ),
    *(
        Entry("random-k", f"flattened(random_k({f}))", quick=f == 0.03)
        for f in (0.003, 0.03, 0.12)
    ),
    Entry("TernGrad, rANS", f"chain(terngrad(), {CODED})"),
    Entry("natural compression, rANS", f"chain(natural_compression(), {CODED})"),
    *(
        Entry("natural dithering, rANS", vector(f"natural_dithering({s})", CODED))
        for s in (8, 10, 12)
    ),
    Entry("count sketch", "flattened(count_sketch(rows=1, columns=16384))"),
    Entry("EDEN, least squares", "eden_fixed_rate(1, unbiased=False)", unbiased=False),
    Entry("EDEN, least squares", "eden_fixed_rate(2, unbiased=False)", unbiased=False),
    *(
        Entry(
            "uniform trellis, least squares, rANS",
            rotated(f"uniform_trellis({bits}, unbiased=False)", CODED),
            unbiased=False,
        )
        for bits in (0.1, 0.5, 1, 2)
    ),
    # On the matrices as they are.
    *(
        Entry("separable, unbiased", f"separable({step}, unbiased=True)")
        for step in (8.0, 4.0, 2.5, 1.5, 1.0, 0.5, 0.25)
    ),
    *(
        Entry("separable", f"separable({step})", unbiased=False)
        for step in (8.0, 4.0, 2.5, 1.5, 1.0, 0.5, 0.25)
    ),
    *(
        Entry(
            "coded low rank", f"coded_low_rank({step})", unbiased=False, matrices=True
        )
        for step in (16.0, 8.0, 4.0, 2.5, 1.5, 1.0, 0.5)
    ),
    Entry("scaled sign", "scaled_sign()", unbiased=False, quick=True),
    *(
        Entry("top-k", vector(f"top_k({f})", CODED), unbiased=False, quick=f == 0.01)
        for f in (0.001, 0.01, 0.1)
    ),
    *(
        Entry(
            "top-k, 16 levels",
            vector(f"top_k({f})", NEAREST_16, CODED),
            unbiased=False,
            quick=f == 0.1,
        )
        for f in (0.001, 0.01, 0.03, 0.1, 0.3)
    ),
    *(
        Entry(
            "top-k, sign", vector(f"top_k({f})", "scaled_sign()", CODED), unbiased=False
        )
        for f in (0.01, 0.1)
    ),
    Entry("top-k of blocks", vector("block_top_k(0.03, block=16)", CODED), False),
    Entry("top-k in chunks", vector("chunk_top_k(2)", CODED), unbiased=False),
    Entry("DCT, top-k in chunks", f"chain(dct(), chunk_top_k(2), {CODED})", False),
    Entry("1-bit SGD", "one_bit()", unbiased=False),
    *(
        Entry(
            "low rank, bfloat16",
            f"chain(low_rank({rank}), {BFLOAT16})",
            unbiased=False,
            matrices=True,
        )
        for rank in (1, 4, 16)
    ),
    Entry("PowerSGD", "power_sgd(4)", unbiased=False, matrices=True),
    Entry("casts", "to_dtype('float8_e4m3fn', scaled=True)", unbiased=False),
    Entry("casts", BFLOAT16, unbiased=False),
    Entry("casts", "to_dtype('float16')", unbiased=False),
)


def to_text(entry: Entry) -> str:
    """An entry as a value of `--compressor`.

    >>> to_text(Entry("scaled sign", "scaled_sign()", unbiased=False))
    'scaled sign: biased: scaled_sign()'
    """
    words = [CLASSES[not entry.unbiased]]
    words += [name for name in OPTIONS if getattr(entry, name)]
    return f"{entry.family}: {' '.join(words)}: {entry.expression}"


def parse_entry(text: str) -> Entry:
    """Reads a value of `--compressor` and checks its expression.

    Args:
      text: `FAMILY: unbiased|biased [slow] [matrices]: EXPRESSION`.

    Raises:
      ValueError: when it is not of that form or the expression is not valid.

    >>> parse_entry("scaled sign: biased: scaled_sign()").unbiased
    False
    """
    parts = [part.strip() for part in text.split(":", 2)]
    words = parts[1].split() if len(parts) == 3 else []
    is_known = bool(words) and words[0] in CLASSES and {*words[1:]} <= {*OPTIONS}
    if not is_known or not parts[0]:
        raise UsageError(
            f"--compressor={text!r} is not of the form 'FAMILY: unbiased|biased: "
            "EXPRESSION', e.g. 'QSGD: unbiased: qsgd(3)'."
        )
    build("compressor", parts[2])
    return Entry(
        family=parts[0],
        expression=parts[2],
        unbiased=words[0] == CLASSES[0],
        slow="slow" in words,
        matrices="matrices" in words,
    )
