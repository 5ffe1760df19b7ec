"""Figures: error against bits, with the limit; two for each source."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.rate_distortion.limits import least_error
from fedjax_comp.report import Figure, Run, line_figure
from fedjax_comp.run_directory import Json

INCHES_A_NAME = 0.3
MAX_RATE = 8.0
"""Beyond it lie the casts, which would press all others to the left."""


def error_against_bits(rows: Sequence[Json], folder: Path) -> list[Figure]:
    """Draws vNMSE against measured bits a coordinate.

    Args:
      rows: what was measured.
      folder: where to write the figures.

    Returns:
      For each source a figure of the unbiased and one of the biased compressors, each
      with the limit of its class.
    """
    figures = []
    for source in dict.fromkeys(row["source"] for row in rows):
        for unbiased in (True, False):
            shown = [
                row
                for row in rows
                if row["source"] == source
                and row["unbiased"] == unbiased
                and row["rate_bits"] <= MAX_RATE
            ]
            if shown:
                figures.append(one_figure(shown, source, unbiased, folder))
    return figures


def one_figure(
    rows: Sequence[Json], source: str, unbiased: bool, folder: Path
) -> Figure:
    """The compressors of one class on one source, one curve a family."""
    families = dict.fromkeys(row["family"] for row in rows)
    runs = []
    for family in families:
        own = [row for row in rows if row["family"] == family]
        own.sort(key=lambda row: row["rate_bits"])
        runs.append(Run(family, own))
    word = "unbiased" if unbiased else "biased"
    path = line_figure(
        runs,
        x="rate_bits",
        y="vnmse",
        xlabel="Rate (bits a coordinate, from the bytes of messages)",
        ylabel="vNMSE (logarithmic)",
        path=folder / f"{source}_{word}.png",
        log_y=True,
        reference=limit_curve(rows, unbiased=unbiased),
        size_inches=(7.2, max(4.4, INCHES_A_NAME * (len(runs) + 1))),
    )
    return Figure(f"{source}: vNMSE of {word} compressors against bits", path)


def limit_curve(rows: Sequence[Json], *, unbiased: bool) -> Run:
    """The limit of a class over the rates of `rows`, for white Gaussian vectors."""
    rates = [row["rate_bits"] for row in rows]
    grid = np.geomspace(max(min(rates), 1e-3), max(max(rates), 2e-3), 200).tolist()
    points = [
        {"rate_bits": rate, "vnmse": least_error(rate, unbiased=unbiased)}
        for rate in grid
    ]
    name = "1 / (4^R - 1)" if unbiased else "4^-R"
    return Run(f"limit of white vectors, {name}", points)
