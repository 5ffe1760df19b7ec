"""Figures: bytes against clients, accuracy against bytes, leakage against the cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.split_learning.published import Sizes, gigabytes
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bytes_figure(sizes: Sizes, published: Sequence[Json], path: Path) -> Figure:
    """Gigabytes of a client at the published sizes, and the published points."""
    counts = [50, 75, 100, 150, 200, 300, 400, 500, 700, 1000]
    runs = [
        Run(
            method,
            [{"clients": n, "gigabytes": gigabytes(sizes, n)[method]} for n in counts],
        )
        for method in ("split", "fedavg", "sgd")
    ]

    def points(axes: "Axes") -> None:
        axes.plot(
            [row["num_clients"] for row in published],
            [row["published"] for row in published],
            linestyle="none",
            marker="x",
            markersize=9,
            color="black",
        )

    drawn = line_figure(
        runs,
        x="clients",
        y="gigabytes",
        xlabel="Clients (logarithmic); crosses: as published",
        ylabel="GB of one client (logarithmic)",
        path=path,
        log_x=True,
        log_y=True,
        decorate=points,
    )
    return Figure("Bytes of a client, ResNet-50 on CIFAR-100, from shapes", drawn)


def accuracy_figure(curves: Sequence[Run], path: Path) -> Figure:
    """Accuracy against what one client has sent and received."""
    drawn = line_figure(
        curves,
        x="client_bytes",
        y="test_accuracy",
        xlabel="Sent and received by one client (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=path,
        log_x=True,
        x_format=format_bytes,
        size_inches=(7.2, 6.0),
    )
    return Figure("Test accuracy against bytes of one client", drawn)


def seconds_figure(curves: Sequence[Run], path: Path) -> Figure:
    """Accuracy against what the run takes on the given links."""
    drawn = line_figure(
        curves,
        x="seconds",
        y="test_accuracy",
        xlabel="Simulated time, turns one after another (seconds, logarithmic)",
        ylabel="Test accuracy",
        path=path,
        log_x=True,
        size_inches=(7.2, 6.0),
    )
    return Figure("Test accuracy against time on the given links", drawn)


def leakage_figure(rows: Sequence[Json], path: Path) -> Figure:
    """Distance correlation at every cut, before and after training."""
    cuts = [row["cut"] for row in rows]

    def names(axes: "Axes") -> None:
        axes.set_xticks(range(1, len(cuts) + 1), cuts)

    drawn = line_figure(
        [
            Run(when, [{"cut": i, "leak": r[when]} for i, r in enumerate(rows, 1)])
            for when in ("untrained", "trained")
        ],
        x="cut",
        y="leak",
        xlabel="Layer before which the model is cut",
        ylabel="Distance correlation of inputs and activations",
        path=path,
        decorate=names,
    )
    return Figure("Leakage: distance correlation of inputs and activations", drawn)
