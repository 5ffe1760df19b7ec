"""What every comparison leaves behind, in one vocabulary: table, report, summary.

A `summary.json` has `experiment`, `runs`, `claims` and the experiment's own facts. Each
of `runs` is a row with its `name`, whose columns have these names:

    test_accuracy, best_test_accuracy    of the model at the end; the best on the way
    uplink_bytes, downlink_bytes         what clients sent and received in all
    total_bytes                          both together
    ..._to_target                        the same at the first evaluation at the target
    ..._ratio                            the first row's value over the row's: 2 is half
    reason                               why there are no figures, "" where there are
"""

from collections.abc import Callable, Mapping, Sequence

from absl import flags
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ConsoleTable

from fedjax_comp.experiment.table import to_csv
from fedjax_comp.report import Claim, Figure, Table, write_report
from fedjax_comp.run_directory import Json, RunDirectory, write_json, write_text

Text = Callable[[Json], str]
"""A row's entry in a column of the terminal."""


def ratio(reference: float | None, own: float | None) -> float | None:
    """The reference's value over the row's; None where either is unknown or nothing.

    >>> ratio(10, 4), ratio(None, 4), ratio(10, 0)
    (2.5, None, None)
    """
    return round(reference / own, 4) if reference and own else None


def add_ratios(rows: Sequence[Json], *columns: str) -> None:
    """Adds `<column>_ratio` to each row, against the first.

    >>> rows = [{"total_bytes": 8}, {"total_bytes": 2}]
    >>> add_ratios(rows, "total_bytes")
    >>> rows[1]["total_bytes_ratio"]
    4.0
    """
    for column in columns:
        reference = rows[0].get(column)
        for row in rows:
            row[f"{column}_ratio"] = ratio(reference, row.get(column))


def claim(
    name: str,
    target: float,
    measured: float | None,
    *,
    at_least: bool = False,
    at_most: bool = False,
    above: bool = False,
) -> list[Json]:
    """A claim held against what was measured; `[]` when nothing was.

    Args:
      name: what is claimed.
      target: the bound.
      measured: the figure.
      at_least: whether the bound is from below.
      at_most: whether it is from above.
      above: whether it is from below and a tie does not hold. Exactly one of the three.

    Returns:
      One claim in a list: `{name, target, measured, holds, bound}`, the last one of
      "at_least", "at_most" and "above".

    Raises:
      ValueError: when the bound has no direction, or more than one.

    >>> claim("accuracy", 0.9, 0.95, at_least=True)[0]["holds"]
    True
    >>> claim("gain", 0.0, 0.0, above=True)[0]["holds"]
    False
    """
    if at_least + at_most + above != 1:
        raise ValueError("Expected exactly one of at_least, at_most and above.")
    if measured is None:
        return []
    if above:
        holds = measured > target
    else:
        holds = measured >= target if at_least else measured <= target
    told = {"target": _rounded(target), "measured": _rounded(measured)}
    bound = "above" if above else "at_least" if at_least else "at_most"
    return [{"name": name, **told, "holds": bool(holds), "bound": bound}]


def by_construction(claims: Sequence[Json]) -> list[Json]:
    """Claims that no run could have failed: of shapes, of chosen numbers, of theorems.

    They are checked, and told apart from what was measured.

    Args:
      claims: as `claim` makes them.

    >>> by_construction(claim("bytes", 1, 1, at_most=True))[0]["by_construction"]
    True
    """
    return [{**one, "by_construction": True} for one in claims]


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(float(value), 5)


def failure_claims(what: str, rows: Sequence[Json]) -> list[Json]:
    """That no row failed, and that every message audited decoded from its bytes.

    Args:
      what: a row in a word, such as "pipeline".
      rows: with `reason` and, where messages were audited, `audit_failures`.
    """
    failed = sum(bool(row.get("reason")) for row in rows)
    made = claim(f"{what}s that failed", 0, failed, at_most=True)
    if any(row.get("audited_messages") for row in rows):
        broken = sum(row.get("audit_failures") or 0 for row in rows)
        made += claim(
            "audited messages that do not decode bit for bit", 0, broken, at_most=True
        )
    return made


def facts_of(values: flags.FlagValues) -> Json:
    """What a summary repeats of the flags, where the experiment has them."""
    names = ("dataset", "stream", "partition", "model", "target_accuracy")
    return {name: values[name].value for name in names if name in values}


def settings_of(directory: RunDirectory) -> Json:
    """What a report says of how a run was made."""
    config = directory.config
    return {**config["flags"], **config["versions"], "git_commit": config["git_commit"]}


def table_of(title: str, columns: Sequence[str], rows: Sequence[Json]) -> Table:
    """The rows as a table of a report."""
    return Table(title, columns, [[row.get(name) for name in columns] for row in rows])


def write_outcome(
    directory: RunDirectory,
    summary: Json,
    *,
    title: str,
    headlines: Json,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    columns: Sequence[str],
) -> None:
    """Writes `table.csv`, the report and, last, the summary.

    Args:
      directory: the run directory.
      summary: with `runs` and `claims`.
      title: of the report.
      headlines: what the report shows first.
      tables: of the report.
      figures: of the report.
      columns: of `table.csv`.
    """
    complete = [{**dict.fromkeys(columns), **row} for row in summary["runs"]]
    write_text(directory.path / "table.csv", to_csv(columns, complete))
    write_report(
        directory.path / "report.html",
        title=title,
        summary=headlines,
        settings=settings_of(directory),
        tables=list(tables),
        figures=figures,
        claims=reported(summary["claims"]),
    )
    # Its presence is what says that the run has finished.
    write_json(directory.path / "summary.json", summary)


def reported(claims: Sequence[Json]) -> list[Claim]:
    """Claims as a report shows them."""
    return [
        Claim(**{name: one[name] for name in Claim._fields if name in one})
        for one in claims
    ]


def print_claims(claims: Sequence[Json]) -> None:
    """Each claim in a line, with those that hold by construction named as such."""
    for one in claims:
        word = "holds" if one["holds"] else "DOES NOT HOLD"
        word += " by construction" * bool(one.get("by_construction"))
        spread = f" ± {one['sd']}" if one.get("sd") else ""
        # Summaries of an earlier version do not tell which bound it is.
        bound = f"{one.get('bound', '').replace('_', ' ')} {one['target']}".strip()
        print(f"{word}: {one['name']}: {one['measured']}{spread} ({bound})")


def print_table(
    title: str,
    label: str,
    shown: Mapping[str, Text],
    rows: Sequence[Json],
    *,
    caption: str = "",
    mark: Text = lambda row: "",
) -> None:
    """The rows on the terminal; one that failed says so.

    Args:
      title: above the table.
      label: the heading of the names.
      shown: heading to text of a row.
      rows: with `name` and `reason`.
      caption: below the table.
      mark: what stands behind a row's name.
    """
    # As it stands: what is in brackets is no markup.
    table = ConsoleTable(title=escape(title), caption=escape(caption) or None)
    table.add_column(escape(label), no_wrap=True)
    for heading in shown:
        table.add_column(escape(heading.strip()), justify="right", no_wrap=True)
    for row in rows:
        texts = [text(row) for text in shown.values()]
        if row.get("reason"):
            texts = ["failed", *["-"] * (len(shown) - 1)]
        table.add_row(*map(escape, [row["name"] + mark(row), *texts]))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: no figure is to be cut for it.
        widest = Console(width=10_000).measure(table).maximum
        console = Console(width=max(console.width, widest))
    console.print(table)


def number(column: str, form: str = "{}") -> Text:
    """A column as text, "-" where nothing is known.

    >>> number("accuracy", "{:.1%}")({"accuracy": 0.5})
    '50.0%'
    >>> number("accuracy")({"accuracy": None})
    '-'
    """

    def text(row: Json) -> str:
        value = row.get(column)
        return "-" if value is None else form.format(value)

    return text


def formatted(column: str, form: Callable[[float], str]) -> Text:
    """A column by a function such as `format_bytes`, "-" where nothing is known."""

    def text(row: Json) -> str:
        value = row.get(column)
        return "-" if value is None else form(value)

    return text


def with_spread(text: Text) -> Text:
    """A row's text, with that of its standard deviation where the row has one.

    >>> with_spread(number("mb", "{:.1f}x"))({"mb": 2.0, "mb_sd": 0.25})
    '2.0x ± 0.2x'
    """

    def both(row: Json) -> str:
        spread = {
            name.removesuffix("_sd"): value
            for name, value in row.items()
            if name.endswith("_sd") and value
        }
        own, sd = text(row), text(spread) if spread else "-"
        return own if "-" in (own, sd) else f"{own} ± {sd}"

    return both
