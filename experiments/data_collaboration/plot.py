"""Figures: accuracy against users, against examples, and against bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments.data_collaboration.cells import Cell
from experiments.data_collaboration.claims import CURVE, PUBLISHED_MODEL
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json

WORDS = {"users": "Users", "examples": "Examples of each user (logarithmic)"}


def draw_figures(
    table: Sequence[Json],
    sweeps: Mapping[str, Sequence[Cell]],
    first: str,
    values: flags.FlagValues,
    folder: Path,
) -> list[Figure]:
    """Draws the sweeps, and all variants at the base setting against their bytes."""
    figures = []
    methods = (first, "centralised", "fed_avg", "individual")
    published = None
    if values.dataset == "mnist" and values.model == PUBLISHED_MODEL:
        points = [{"users": k, "test_accuracy": y} for k, y in CURVE.items()]
        published = Run("published", points)
    for varied, cells in sweeps.items():
        wanted = {tuple(cell) for cell in cells}
        runs = []
        for method in methods:
            own: list[Json] = [
                one
                for one in table
                if one["method"] == method and (one["users"], one["examples"]) in wanted
            ]
            own.sort(key=lambda one: one[varied])
            runs.append(Run(method, own))
        path = line_figure(
            runs,
            x=varied,
            y="test_accuracy",
            xlabel=WORDS[varied],
            ylabel="Test accuracy",
            path=folder / f"accuracy_against_{varied}.png",
            log_x=varied == "examples",
            x_format=lambda count: f"{count:g}",
            reference=published if varied == "users" else None,
        )
        figures.append(Figure(f"Test accuracy against {varied}", path))
    base = [
        one
        for one in table
        if (one["users"], one["examples"]) == (values.base_users, values.base_examples)
        and one["uplink_bytes"] > 0
    ]
    path = line_figure(
        [Run(one["method"], [one]) for one in base],
        x="uplink_bytes",
        y="test_accuracy",
        xlabel="Sent by the users (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=folder / "accuracy_against_bytes.png",
        log_x=True,
        x_format=format_bytes,
        size_inches=(7.2, 5.2),
    )
    title = f"{values.base_users} users of {values.base_examples} examples"
    return [*figures, Figure(f"Test accuracy against bytes, {title}", path)]
