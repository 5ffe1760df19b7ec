"""Figures: error against samples arrived, one for each problem and question."""

from collections.abc import Sequence
from pathlib import Path

from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json

WORDS = {
    "pca": "Squared sine to the leading direction (logarithmic)",
    "sgd": "Squared relative error of the weights (logarithmic)",
}
TITLES = {"pca": "Streaming PCA", "sgd": "Logistic regression"}


def draw_figures(rows: Sequence[Json], folder: Path) -> list[Figure]:
    """Draws every rule that has an error to show; those that diverged say so."""
    figures = []
    for problem, word in WORDS.items():
        runs = []
        for row in rows:
            if row["problem"] != problem:
                continue
            name = row["rule"] + (" (diverged)" if row["diverged"] else "")
            runs.append(Run(name, row["curve"]))
        if not runs:
            continue
        path = line_figure(
            runs,
            x="arrived",
            y="error",
            xlabel="Samples arrived (logarithmic)",
            ylabel=word,
            path=folder / f"{problem}.png",
            log_x=True,
            log_y=True,
            x_format=lambda count: f"{count:,.0f}",
            size_inches=(7.2, max(4.4, 0.42 * (len(runs) + 1))),
        )
        figures.append(Figure(f"{TITLES[problem]}: error against arrivals", path))
    return figures
