"""The claims about learning from streams, tested on what was measured; figures."""

from collections.abc import Mapping, Sequence

from experiments.stream_minibatch.problems import PROBLEMS
from fedjax_comp.experiment.measurements import Measured
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json

SLOPE, SLOPE_WITHIN = -1.0, 0.15
SAME = 1.5
"""Two errors are of one order when their ratio is below this: they are means over
trials, and so vary by a tenth or two."""

TWICE = 2.0
WORDS = {
    "pca": "Squared sine to the leading direction (logarithmic)",
    "sgd": "Squared relative error of the weights (logarithmic)",
}
TITLES = {"pca": "Streaming PCA", "sgd": "Logistic regression"}


def diverged(rows: Sequence[Json]) -> list[str]:
    """Names of the rules that diverged."""
    return [row["name"] for row in rows if row["diverged"]]


def claims(measured: Measured) -> list[Json]:
    """All claims that the rules of this run allow to be looked at."""
    pca, sgd = (
        {row["rule"]: row for row in measured.rows if row["problem"] == problem}
        for problem in PROBLEMS
    )
    made: list[Json] = []
    for name in ("B-16", "B-160"):
        slope = pca.get(name, {}).get("slope")
        made += claim(
            f"pca, {name}: distance of the log-log slope of error against arrivals "
            "from -1",
            SLOPE_WITHIN,
            None if slope is None else abs(slope - SLOPE),
            at_most=True,
        )
    made += claim(
        "pca: error of minibatches of 160 over that of 16, nothing discarded",
        SAME,
        quotient(pca, "B-160", "B-16"),
        at_most=True,
    )
    made += claim(
        "pca: error with ten times B discarded over that with nothing discarded",
        TWICE,
        quotient(pca, "B-160-mu-1600", "B-160"),
        at_least=True,
    )
    made += claim(
        "pca: error of minibatches of 16000, more than the root of the arrivals, over "
        "that of 160",
        TWICE,
        quotient(pca, "B-16000", "B-160"),
        at_least=True,
    )
    made += claim(
        "pca: a run with steps that are too large is reported as diverged",
        1,
        pca.get("too-fast", {}).get("diverged"),
        at_least=True,
    )
    shrunk = quotient(sgd, "expander-4", "ring-4", "contraction")
    made += claim(
        "sgd: contraction of four rounds on the expander over that on the ring",
        1.0,
        None if shrunk is None else shrunk**4,
        at_most=True,
    )
    made += claim(
        "sgd: error of four rounds of consensus on the expander over exact averaging",
        SAME,
        quotient(sgd, "expander-4", "exact"),
        at_most=True,
    )
    return made


def quotient(
    rows: Mapping[str, Json], one: str, other: str, column: str = "error"
) -> float | None:
    """One rule's figure over another's; None where either is unknown or nothing.

    >>> quotient({"a": {"error": 3.0}, "b": {"error": 2.0}}, "a", "b")
    1.5
    """
    own, reference = (rows.get(name, {}).get(column) for name in (one, other))
    return own / reference if own and reference else None


def figures(measured: Measured) -> list[Figure]:
    """Error against arrivals for each problem; rules that diverged say so."""
    drawn = []
    for problem, word in WORDS.items():
        runs = [
            Run(row["rule"] + (" (diverged)" if row["diverged"] else ""), row["curve"])
            for row in measured.measurements
            if row["problem"] == problem
        ]
        if not runs:
            continue
        path = line_figure(
            runs,
            x="arrived",
            y="error",
            xlabel="Samples arrived (logarithmic)",
            ylabel=word,
            path=measured.figures_path / f"{problem}.png",
            log_x=True,
            log_y=True,
            x_format=lambda count: f"{count:,.0f}",
            size_inches=(7.2, max(4.4, 0.42 * (len(runs) + 1))),
        )
        drawn.append(Figure(f"{TITLES[problem]}: error against arrivals", path))
    return drawn
