"""Means over trials, the claims about them, and their figures."""

from collections.abc import Sequence

from absl import flags

from experiments.data_collaboration.cells import sweeps
from experiments.data_collaboration.flags import parse_variants
from fedjax_comp.experiment.measurements import (
    Measured,
    claims_over_trials,
    mean_of,
    over_trials,
)
from fedjax_comp.experiment.outcome import by_construction, claim, ratio
from fedjax_comp.report import Figure, Run, format_bytes, line_figure
from fedjax_comp.run_directory import Json

PUBLISHED = {(1, 100): 0.732, (10, 100): 0.875, (5, 1000): 0.949}
"""Accuracy of data collaboration on MNIST by users and examples of each: the series of
Bogdanova et al. 2020 (arXiv 2011.06803). That the last one is of five users follows
from its centralised rival, which has one curve through both sweeps."""

CURVE = {1: 0.732, 2: 0.8, 3: 0.822, 5: 0.846, 7: 0.861, 10: 0.875}
"""The same, by users with 100 examples each: the reference line of the figure."""

WITHIN = 0.03
PUBLISHED_MODEL = "mlp(512, 128)"
NAMES = {"num_clients": "users", "examples": "examples"}
WORDS = {"num_clients": "Users", "examples": "Examples of each user (logarithmic)"}


LEAKAGE = ("recovered_cosine", "guessed_cosine", "row_epsilon")
"""What a method tells of inputs; unknown where nothing is uploaded but the inputs."""


def summarise(measurements: Sequence[Json]) -> list[Json]:
    """Means over trials, method by method and cell by cell."""
    name = "{method}, {num_clients} x {examples}"
    links = ("uplink_bytes", "downlink_bytes", "total_bytes")
    return [
        {
            **row,
            **{link: mean_of(own, link) for link in links},
            **{told: mean_of_known(own, told) for told in LEAKAGE},
        }
        for row, own in over_trials(
            measurements, name, "method", "num_clients", "examples"
        )
    ]


def mean_of_known(rows: Sequence[Json], column: str) -> float | None:
    """The mean of a column that every row has; None where one lacks it."""
    if any(row.get(column) is None for row in rows):
        return None
    return mean_of(rows, column, 5)


def is_published(values: flags.FlagValues) -> bool:
    """Whether data and model are those of the published figures."""
    return values.dataset == "mnist" and values.model == PUBLISHED_MODEL


def claims(measured: Measured) -> list[Json]:
    """All claims that the command allows to be looked at."""
    values = measured.values
    first = parse_variants(values.variant)[0].name
    return claims_over_trials(
        measured.measurements, lambda own: claims_of(summarise(own), first, values)
    )


def claims_of(rows: Sequence[Json], first: str, values: flags.FlagValues) -> list[Json]:
    """All claims that these rows allow to be looked at.

    Args:
      rows: of the table.
      first: name of the first variant.
      values: the command's flags.
    """
    at = {(one["method"], one["num_clients"], one["examples"]): one for one in rows}

    def figure(column: str, method: str, users: int, examples: int) -> float | None:
        return at.get((method, users, examples), {}).get(column)

    def distance(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one - other

    made: list[Json] = []
    if is_published(values):
        for (users, examples), published in PUBLISHED.items():
            away = distance(figure("test_accuracy", first, users, examples), published)
            made += claim(
                f"{first}, {users} users of {examples}: distance of accuracy from the "
                f"published {published}",
                WITHIN,
                None if away is None else abs(away),
                at_most=True,
            )
    most = (max(values.num_clients), values.base_examples)
    if most[0] > 1:
        made += claim(
            f"{first}, {most[0]} users: accuracy above that of a user alone",
            0.0,
            distance(
                figure("test_accuracy", first, *most),
                figure("test_accuracy", "individual", *most),
            ),
            at_least=True,
        )
        told = at.get((first, *most), {})
        made += claim(
            f"{first}, {most[0]} users: the server and one user recover the others' "
            "inputs: cosine above that of a guess",
            0.0,
            distance(told.get("recovered_cosine"), told.get("guessed_cosine")),
            above=True,
        )
    made += by_construction(
        claim(
            f"{first}, {most[0]} users: times fewer bytes sent by users than fed_avg",
            1.0,
            ratio(
                figure("uplink_bytes", "fed_avg", *most),
                figure("uplink_bytes", first, *most),
            ),
            at_least=True,
        )
    )
    base = (values.base_clients, values.base_examples)
    made += claim(
        "8-bit upload: accuracy lost at the base setting",
        0.01,
        distance(
            figure("test_accuracy", first, *base),
            figure("test_accuracy", "8-bit", *base),
        ),
        at_most=True,
    )
    return made


def figures(measured: Measured) -> list[Figure]:
    """The sweeps, and all variants at the base setting against their bytes."""
    values, rows = measured.values, measured.rows
    drawn = []
    first = parse_variants(values.variant)[0].name
    points = [{"num_clients": k, "test_accuracy": y} for k, y in CURVE.items()]
    published = Run("published", points) if is_published(values) else None
    for varied, cells in sweeps(values).items():
        runs = []
        for method in (first, "centralised", "fed_avg", "individual"):
            own: list[Json] = [
                one
                for one in rows
                if one["method"] == method
                and (one["num_clients"], one["examples"]) in cells
            ]
            own.sort(key=lambda one: one[varied])
            runs.append(Run(method, own))
        path = line_figure(
            runs,
            x=varied,
            y="test_accuracy",
            xlabel=WORDS[varied],
            ylabel="Test accuracy",
            path=measured.figures_path / f"accuracy_against_{NAMES[varied]}.png",
            log_x=varied == "examples",
            x_format=lambda count: f"{count:g}",
            reference=published if varied == "num_clients" else None,
        )
        drawn.append(Figure(f"Test accuracy against {NAMES[varied]}", path))
    cell = (values.base_clients, values.base_examples)
    base = [
        one
        for one in rows
        if (one["num_clients"], one["examples"]) == cell and one["uplink_bytes"] > 0
    ]
    path = line_figure(
        [Run(one["method"], [one]) for one in base],
        x="uplink_bytes",
        y="test_accuracy",
        xlabel="Sent by the users (bytes, logarithmic)",
        ylabel="Test accuracy",
        path=measured.figures_path / "accuracy_against_bytes.png",
        log_x=True,
        x_format=format_bytes,
        size_inches=(7.2, 5.2),
        names_at_points=True,
    )
    drawn.append(
        Figure("Test accuracy against bytes, {} users of {}".format(*cell), path)
    )
    telling = [one for one in base if one["recovered_cosine"] is not None]
    if telling:
        path = line_figure(
            [Run(one["method"], [one]) for one in telling],
            x="recovered_cosine",
            y="test_accuracy",
            xlabel="Cosine of others' inputs with what server and one user recover",
            ylabel="Test accuracy",
            path=measured.figures_path / "accuracy_against_recovery.png",
            x_format=lambda cosine: f"{cosine:g}",
            size_inches=(7.2, 5.2),
            names_at_points=True,
        )
        drawn.append(Figure("Test accuracy against what is recovered of inputs", path))
    return drawn
