"""Tables in text files: columns of numbers and of words."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_comp.wording import one_line


class Table(NamedTuple):
    """A table as it was read.

    Attributes:
      path: where from, for messages.
      columns: their names, in order.
      rows: one text a column, without blanks around it.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[list[str]]


def read_table(path: Path) -> Table:
    r"""Reads values separated by commas; a name ending in `.gz` is decompressed.

    Args:
      path: the file; its first line names the columns.

    Returns:
      The table.

    Raises:
      ValueError: if the file is damaged, has no row, two columns of one name, or a row
        with another number of values than there are columns.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "small.csv")
    >>> _ = path.write_text("age, class\n39, low\n")
    >>> read_table(path).columns, read_table(path).rows
    (('age', 'class'), [['39', 'low']])
    """
    try:
        reader = csv.reader(_lines(path), skipinitialspace=True)
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"Expected a table in {path}: {one_line(error)}.") from error
    if len(rows) < 2:
        raise ValueError(
            f"Expected a header and rows in {path}, got {len(rows)} lines."
        )
    columns, *values = ([value.strip() for value in row] for row in rows)
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise ValueError(f"Expected column {twice[0][:40]!r} of {path} once.")
    return _table(path, columns, values)


def read_values(path: Path, columns: Sequence[str]) -> Table:
    r"""Reads values separated by white space, of a file that names no columns.

    Args:
      path: the file; a name ending in `.gz` is decompressed, empty lines are skipped.
      columns: their names.

    Returns:
      The table.

    Raises:
      ValueError: if the file is damaged, has no row, or a row of another number of
        values than there are columns.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "small.data")
    >>> _ = path.write_text("\n39\tlow\n")
    >>> read_values(path, ("age", "class")).rows
    [['39', 'low']]
    """
    rows = [line.split() for line in _lines(path) if line.strip()]
    if not rows:
        raise ValueError(f"Expected rows in {path}, got none.")
    return _table(path, columns, rows)


def numbers(table: Table, columns: Sequence[str]) -> np.ndarray:
    """Columns of numbers.

    Args:
      table: from `read_table`.
      columns: `F` names.

    Returns:
      float32 `[N, F]`.

    Raises:
      ValueError: if there is no such column, or a value is not a number that is finite
        in float32.
    """
    places = [_place(table, name) for name in columns]
    try:
        values = np.array(
            [[float(row[place]) for place in places] for row in table.rows], np.float64
        )
    except ValueError as error:
        raise ValueError(
            f"Expected numbers in {', '.join(columns)} of {table.path}: "
            f"{one_line(error)}."
        ) from error
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    if not np.isfinite(stored).all():
        row, column = np.argwhere(~np.isfinite(stored))[0]
        raise ValueError(
            f"Expected finite numbers in {', '.join(columns)} of {table.path}, got "
            f"{values[row, column]} in {columns[column]}, row {row + 1}."
        )
    return stored


def codes(table: Table, column: str, words: Sequence[str]) -> np.ndarray:
    """A column of words, such as a label, as their places in a list.

    Args:
      table: from `read_table`.
      column: its name.
      words: all that may occur, in the order of their numbers.

    Returns:
      int32 `[N]`, in `[0, len(words))`.

    Raises:
      ValueError: if there is no such column, or another word in it.
    """
    place = _place(table, column)
    code = {word: number for number, word in enumerate(words)}
    unknown = sorted({row[place] for row in table.rows} - set(words))
    if unknown:
        raise ValueError(
            f"Expected {column} in {table.path} to be one of {', '.join(words)}, got "
            f"{unknown[0][:40]!r}."
        )
    return np.array([code[row[place]] for row in table.rows], np.int32)


def one_hot(table: Table, column: str, words: Sequence[str]) -> np.ndarray:
    """A column of words as zeros and a one in the place of the word.

    Args:
      table: from `read_table`.
      column: its name.
      words: all that may occur.

    Returns:
      float32 `[N, len(words)]`.

    Raises:
      ValueError: as `codes`.

    >>> table = Table(Path("t"), ("sex",), [["Male"], ["Female"]])
    >>> one_hot(table, "sex", ("Female", "Male")).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return np.eye(len(words), dtype=np.float32)[codes(table, column, words)]


def standardised(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Columns with the mean and the deviation of others taken out.

    Args:
      values: `[N, F]`.
      by: `[M, F]`, such as the training examples; a constant column is only centred.

    Returns:
      float32 `[N, F]`.

    >>> by = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> standardised(np.array([[4.0, 6.0]]), by).tolist()
    [[2.0, 1.0]]
    """
    mean, deviation = by.mean(0, np.float64), by.std(0, np.float64)
    deviation = np.where(deviation == 0, 1, deviation)
    return ((values - mean[None]) / deviation[None]).astype(np.float32)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a table in {path}: {one_line(error)}.") from error


def _table(path: Path, columns: Sequence[str], rows: list[list[str]]) -> Table:
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(
                f"Expected {len(columns)} values in row {number} of {path}, got "
                f"{len(row)}."
            )
    return Table(path, tuple(columns), rows)


def _place(table: Table, column: str) -> int:
    if column not in table.columns:
        raise ValueError(
            f"Expected a column {column} in {table.path}, got "
            f"{', '.join(table.columns)[:200]}."
        )
    return table.columns.index(column)
