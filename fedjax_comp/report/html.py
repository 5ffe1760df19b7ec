"""One self-contained page about a run: no script, no link, nothing to be fetched."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from fedjax_comp.report.units import format_value

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Table(NamedTuple):
    """A table of the page.

    Attributes:
      title: its heading.
      columns: names of the columns; they say the unit (`uplink_bytes`).
      rows: one value a column. Numbers are shown in their unit, aligned on the right.
      note: a sentence under it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
      caption: what it shows, in words (also read to those who cannot see it).
      path: a PNG file, which is copied into the page.
    """

    caption: str
    path: Path | str


class Claim(NamedTuple):
    """Something an experiment claims, with what was measured in this run.

    Attributes:
      name: the claim in words.
      target: what it should reach.
      measured: what it reached; the mean of several seeds.
      holds: whether that is enough.
      sd: the standard deviation over seeds; None with one seed.
      by_construction: whether no run could have failed it.
      bound: what the target is, "at_least" or "at_most"; nothing when empty.
    """

    name: str
    target: object
    measured: object
    holds: bool
    sd: object = None
    by_construction: bool = False
    bound: str = ""


class _Cell(NamedTuple):
    text: str
    numeric: bool
    exact: str


def write_report(
    path: Path | str,
    *,
    title: str,
    summary: Mapping[str, object],
    settings: Mapping[str, object],
    tables: Sequence[Table] = (),
    figures: Sequence[Figure] = (),
    claims: Sequence[Claim] = (),
) -> Path:
    """Writes the page. Every text is escaped, so names may hold anything.

    Args:
      path: where to write it; missing folders are made.
      title: the page's heading.
      summary: the numbers to read first, shown large, in their units.
      settings: what defines the run (flags, versions, commit).
      tables: tables, in order.
      figures: figures, in order.
      claims: what the run was to show.

    Returns:
      The path written.

    Raises:
      ValueError: if a row has not one value a column, or a figure is no PNG file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(
    ...         folder + "/report.html",
    ...         title="FedAvg on digits",
    ...         summary={"test_accuracy": 0.97, "uplink_bytes": 53210},
    ...         settings={"seed": 0},
    ...     ).read_text(encoding="utf-8")
    >>> "97.00 %" in page and "53.2 kB" in page
    True
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    page = environment.get_template("page.html.jinja").render(
        title=title,
        summary=[
            (name, format_value(name, value), _exact(value))
            for name, value in summary.items()
        ],
        settings=[
            (name, format_value(name, value)) for name, value in settings.items()
        ],
        tables=[(table, _cells(table)) for table in tables],
        figures=[(figure.caption, _embedded(Path(figure.path))) for figure in figures],
        claims=[
            (
                claim.name,
                f"{claim.bound.replace('_', ' ')} "
                f"{format_value(claim.name, claim.target)}".strip(),
                format_value(claim.name, claim.measured),
                claim.holds,
                "" if not claim.sd else format_value(claim.name, claim.sd),
                claim.by_construction,
            )
            for claim in claims
        ],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names may hold what is no valid text (file names do): shown, never fatal.
    path.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return path


def _words(name: str) -> str:
    """A column's name as a heading: the unit is in the cells, so it is left out."""
    for suffix in ("_bytes", "_seconds"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _cells(table: Table) -> list[list[_Cell]]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(
                f"Expected a row of table {table.title!r} with {len(row)} values to "
                f"have {len(table.columns)}, one a column."
            )
    return [
        [
            _Cell(format_value(name, value), not isinstance(value, str), _exact(value))
            for name, value in zip(table.columns, row, strict=True)
        ]
        for row in table.rows
    ]


def _exact(value: object) -> str:
    """The number behind a rounded text, which the page shows on hovering."""
    return repr(value) if isinstance(value, int | float) else ""


def _embedded(path: Path) -> str:
    content = path.read_bytes()
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError(f"Expected figure {str(path)!r} to be a PNG file.")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
