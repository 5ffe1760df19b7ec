"""The claims of the experiment, tested on its measurements.

A compressor's claim is tested if it was measured on Gaussian vectors of at least
`ENOUGH` coordinates in all, so that its tolerance is above the noise of the draw.
"""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.rate_distortion.limits import ecsq_error
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.run_directory import Json

ENOUGH = 1 << 22
RATE_TOLERANCE = 0.01
MAX_SCORE = 12.0
"""Student-t with 9 degrees of freedom passes it once in two million times."""


class Goal(NamedTuple):
    """An error to be reached at a rate on Gaussian vectors.

    Attributes:
      family: whose.
      rate_bits: at which nominal rate.
      vnmse: at most this.
    """

    family: str
    rate_bits: float
    vnmse: float


GOALS = (
    *(
        Goal("EDEN", rate, 1.02 * published)
        for rate, published in ((1, 0.571), (2, 0.133), (3, 0.0358), (4, 0.00959))
    ),
    Goal("trellis, 2^8 states", 1, 0.43),
    Goal("trellis, 2^8 states", 2, 0.098),
    Goal("trellis, 2^12 states", 0.5, 1.13),
    Goal("trellis, 2^12 states", 1, 0.375),
    Goal("trellis, 2^12 states", 2, 0.079),
    Goal("uniform trellis, 2^8 states, rANS", 1, 0.366),
)
ENTROPY_CODED = "EDEN, entropy-coded"
WITHIN = 1.03


def make_claims(rows: Sequence[Json]) -> list[Json]:
    """Every claim that these rows can be held against.

    Args:
      rows: what was measured, one compressor on one source each.
    """
    return [
        *_unbiasedness(rows),
        *_goals(rows),
        *_entropy_coding(rows),
        *_real_updates(rows),
    ]


def best_gaps(rows: Sequence[Json], rates: Sequence[float] = (1, 2, 3, 4)) -> Json:
    """The smallest gap of an unbiased compressor within 0.25 bit of each rate."""
    best: Json = {}
    for rate in rates:
        near = [
            row
            for row in rows
            if row["source"] == "gaussian"
            and row["unbiased"]
            and abs(row["rate_bits"] - rate) <= 0.25
        ]
        if near:
            least = min(near, key=lambda row: row["gap_bits"])
            best[f"{rate:g} bits"] = {
                name: least[name]
                for name in ("compressor", "rate_bits", "vnmse", "gap_bits")
            }
    return best


def _unbiasedness(rows: Sequence[Json]) -> list[Json]:
    scores = [
        row["bias_score"]
        for row in rows
        if row["unbiased"] and row["bias_score"] is not None
    ]
    name = "largest bias of what declares none, in standard errors"
    return claim(name, MAX_SCORE, max(scores, default=None), at_most=True)


def _is_enough(row: Json) -> bool:
    return row["source"] == "gaussian" and row["n"] * row["messages"] >= ENOUGH


def _goals(rows: Sequence[Json]) -> list[Json]:
    made: list[Json] = []
    for goal in GOALS:
        near = [
            row
            for row in rows
            if _is_enough(row)
            and row["family"] == goal.family
            and abs(row["rate_bits"] - goal.rate_bits) <= RATE_TOLERANCE
        ]
        if near:
            name = f"{goal.family} at {goal.rate_bits:g} bits on Gaussian: vNMSE"
            least = min(row["vnmse"] for row in near)
            made += claim(name, goal.vnmse, least, at_most=True)
    return made


def _entropy_coding(rows: Sequence[Json]) -> list[Json]:
    ratios = []
    for row in rows:
        ideal = ecsq_error(row["rate_bits"])
        if _is_enough(row) and row["family"] == ENTROPY_CODED and ideal is not None:
            ratios.append(row["vnmse"] / ideal)
    name = "entropy-coded uniform on Gaussian: vNMSE by that of ideal coding"
    return claim(name, WITHIN, max(ratios, default=None), at_most=True)


def _real_updates(rows: Sequence[Json]) -> list[Json]:
    drawn = {row["compressor"]: row["vnmse"] for row in rows if _is_enough(row)}
    ratios = [
        row["vnmse"] / drawn[row["compressor"]]
        for row in rows
        if "trellis" in row["family"]
        and row["source"] not in ("gaussian", "lognormal")
        and row["compressor"] in drawn
    ]
    name = "trellis on recorded updates: largest vNMSE by that on Gaussian"
    return claim(name, WITHIN, max(ratios, default=None), at_most=True)
