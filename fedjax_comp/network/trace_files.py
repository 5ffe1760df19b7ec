"""Recorded traces from a directory or an archive; none ships with the package.

Two formats are told apart by their lines. Throughput in two columns, seconds and
Mbit/s, as Pensieve "cooks" it (Mao et al., "Neural adaptive video streaming with
Pensieve", 2017): the rate of a line holds from the time of the line before it to its
own. Packet opportunities, one integer of milliseconds a line, as Mahimahi records them.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedjax_comp.network.traces import Trace, packet_trace, rate_trace


def parse_trace(text: str) -> Trace:
    r"""The trace that a file holds.

    Args:
      text: the file.

    Raises:
      ValueError: when it is of neither format, with the line that says so.

    >>> parse_trace("0.0 1.0\n2.0 4.0\n").bits.tolist()
    [0.0, 8000000.0]
    >>> parse_trace("1\n1\n5\n").seconds.tolist()
    [0.001, 0.001, 0.005]
    """
    rows = [line.split() for line in text.splitlines() if line.strip()]
    widths = {len(row) for row in rows}
    if widths not in ({1}, {2}):
        raise ValueError(
            f"Expected one or two columns in every line of a trace, got {widths}."
        )
    try:
        table = np.array(rows, np.float64)
    except ValueError:
        raise ValueError("Expected numbers alone in a trace.") from None
    if widths == {1}:
        return packet_trace(table[:, 0] / 1000)
    if table.shape[0] < 2:
        raise ValueError("Expected at least two lines in a trace of throughput.")
    durations, rates = np.diff(table[:, 0]), table[1:, 1] * 1e6
    # Recordings repeat a time now and then; such a line holds for no time at all.
    lasting = durations > 0
    return rate_trace(durations[lasting], rates[lasting])


def read_traces(path: Path, *, name_contains: str = "") -> list[Trace]:
    """All traces in a directory or a tar archive, in the order of their names.

    Args:
      path: the directory, or a file such as `norway_hsdpa.tar.gz`.
      name_contains: only files with this in their path, e.g. `test/` or `.up`.

    Raises:
      ValueError: when there is no such path, no such file in it, or one is no trace.
    """
    traces = []
    for name, text in sorted(_texts(path, name_contains)):
        try:
            traces.append(parse_trace(text))
        except ValueError as error:
            raise ValueError(f"{path}, {name}: {error}") from None
    if not traces:
        raise ValueError(
            f"Expected traces in {path} with {name_contains!r} in their names; "
            "there is none."
        )
    return traces


def _texts(path: Path, name_contains: str) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if file.is_file() and name_contains in name:
                yield name, file.read_text(encoding="utf-8")
        return
    if not path.is_file():
        raise ValueError(
            f"There is no {path}: name the raw data directory (--raw_dir or "
            "FEDJAX_COMP_RAW_DATA), or use a network without files, e.g. lognormal()."
        )
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and name_contains in member.name:
                yield member.name, content.read().decode("utf-8")
