"""What learning from streams is to show, held against what was measured."""

from collections.abc import Sequence

from fedjax_comp.experiment.measurements import claim, failure_claim
from fedjax_comp.run_directory import Json

SLOPE, SLOPE_WITHIN = -1.0, 0.15
SAME = 1.5
"""Two errors are of one order when their ratio is below this: they are means over
trials, and so vary by a tenth or two."""

TWICE = 2.0


def claims_of(rows: Sequence[Json], failures: Sequence[Json]) -> list[Json]:
    """All claims that the rules of this run allow to be looked at."""
    pca = {row["rule"]: row for row in rows if row["problem"] == "pca"}
    sgd = {row["rule"]: row for row in rows if row["problem"] == "sgd"}
    made = failure_claim(failures)
    for name in ("B-16", "B-160"):
        made += claim(
            f"pca, {name}: distance of the log-log slope of error against arrivals "
            "from -1",
            SLOPE_WITHIN,
            _away(pca.get(name)),
            at_least=False,
        )
    made += claim(
        "pca: error of minibatches of 160 over that of 16, nothing discarded",
        SAME,
        _ratio(pca, "B-160", "B-16"),
        at_least=False,
    )
    made += claim(
        "pca: error with ten times B discarded over that with nothing discarded",
        TWICE,
        _ratio(pca, "B-160-mu-1600", "B-160"),
        at_least=True,
    )
    made += claim(
        "pca: error of minibatches of 16000, more than the root of the arrivals, over "
        "that of 160",
        TWICE,
        _ratio(pca, "B-16000", "B-160"),
        at_least=True,
    )
    if "too-fast" in pca:
        made += claim(
            "pca: a run with steps that are too large is reported as diverged",
            1,
            float(pca["too-fast"]["diverged"]),
            at_least=True,
        )
    ours = sgd.get("expander-4")
    if ours is not None and "ring-4" in sgd:
        made += claim(
            "sgd: contraction of four rounds on the expander over that on the ring",
            1.0,
            (ours["contraction"] / sgd["ring-4"]["contraction"]) ** 4,
            at_least=False,
        )
    made += claim(
        "sgd: error of four rounds of consensus on the expander over exact averaging",
        SAME,
        _ratio(sgd, "expander-4", "exact"),
        at_least=False,
    )
    return made


def _away(row: Json | None) -> float | None:
    if row is None or row["slope"] is None:
        return None
    return abs(row["slope"] - SLOPE)


def _ratio(rows: dict[str, Json], one: str, other: str) -> float | None:
    pair = [rows.get(name) for name in (one, other)]
    values = [row["error"] for row in pair if row is not None and row["error"]]
    return values[0] / values[1] if len(values) == 2 else None
