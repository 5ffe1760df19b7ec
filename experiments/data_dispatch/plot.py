"""Figures: accuracy against machines, and against the bytes that were moved."""

from collections.abc import Sequence
from pathlib import Path

from experiments.data_dispatch.dispatchers import GLOBAL
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json


def draw_figures(table: Sequence[Json], folder: Path) -> list[Figure]:
    """Draws the comparison, one curve a dispatcher; one model is the dashed line."""
    names = list(dict.fromkeys(one["dispatcher"] for one in table))
    runs = [
        Run(name, [one for one in table if one["dispatcher"] == name])
        for name in names
        if name != GLOBAL
    ]
    level = next(one for one in table if one["dispatcher"] == GLOBAL)
    machines = sorted({one["machines"] for one in table if one["machines"] > 1}) or [1]
    reference = Run(
        GLOBAL,
        [
            {"machines": k, "test_accuracy": level["test_accuracy"]}
            for k in (machines[0], machines[-1])
        ],
    )
    by_machines = line_figure(
        runs or [reference],
        x="machines",
        y="test_accuracy",
        xlabel="Machines (logarithmic)",
        ylabel="Test accuracy",
        path=folder / "accuracy_against_machines.png",
        log_x=True,
        x_format=lambda count: f"{count:g}",
        reference=reference,
    )
    most = [one for one in table if one["machines"] == machines[-1]]
    by_bytes = line_figure(
        [Run(one["dispatcher"], [one]) for one in [*most, level]],
        x="uplink_bytes",
        y="test_accuracy",
        xlabel="Moved to the machines (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=folder / "accuracy_against_bytes.png",
        log_x=True,
        x_format=format_bytes,
    )
    return [
        Figure("Test accuracy against machines", by_machines),
        Figure(f"Test accuracy against bytes, {machines[-1]} machines", by_bytes),
    ]
