"""Recorded traces from a directory or an archive; none ships with the package.

Two formats are told apart by their lines. Throughput in two columns, seconds and
Mbit/s, as Pensieve "cooks" it (Mao et al., "Neural adaptive video streaming with
Pensieve", 2017): the rate of a line holds from the time of the line before it to its
own. Packet opportunities, one integer of milliseconds a line, as Mahimahi records them.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedjax_comp.network.traces import Trace, packet_trace, rate_trace
from fedjax_comp.wording import one_line


class TraceError(ValueError):
    """Files are not recordings of links; the message says which and why."""


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
    table = _table(rows)
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        durations = np.diff(table[:, 0])
        rates = table[:, -1] * 1e6
    if np.any(durations < 0):
        i = int(np.argmax(durations < 0))
        raise ValueError(
            f"Expected times that do not go back, got {table[i + 1, 0]} behind "
            f"{table[i, 0]} in line {i + 2}."
        )
    if table.shape[1] == 1:
        if np.any(table % 1):
            raise ValueError(
                "Expected whole milliseconds in a trace of one column, got "
                f"{table[table % 1 != 0][0]}."
            )
        return packet_trace(table[:, 0] / 1000)
    if table.shape[0] < 2:
        raise ValueError("Expected at least two lines in a trace of throughput.")
    # Recordings repeat a time now and then; such a line holds for no time at all.
    lasting = durations > 0
    return rate_trace(durations[lasting], rates[1:][lasting])


def read_traces(
    path: Path, *, name_contains: str = "", without: str = ""
) -> list[Trace]:
    """All traces in a directory or a tar archive, in the order of their names.

    Args:
      path: the directory, or a file such as `norway_hsdpa.tar.gz`.
      name_contains: only files with this in their path, e.g. `test/` or `.up`.
      without: files with this in their path are left out; "" leaves none out.

    Raises:
      TraceError: when there is no such path, it cannot be read, there is no such file
        in it, or one is not a trace.
    """
    return list(_named_traces(path, name_contains, without).values())


def read_trace_pairs(
    path: Path, *, up_contains: str, down_contains: str, without: str = ""
) -> list[tuple[Trace, Trace]]:
    """Links recorded in both directions: the traces whose names differ in that alone.

    Args:
      path: as `read_traces`.
      up_contains: what says in a name that it is the uplink, e.g. `.up`.
      down_contains: what stands in its place in the name of the downlink.
      without: as for `read_traces`.

    Returns:
      `(uplink, downlink)` of each link, in the order of the downlinks' names.

    Raises:
      TraceError: as `read_traces`; when a trace has no partner, with its name; when
        nothing tells the directions apart.
    """
    for name, token in (("up", up_contains), ("down", down_contains)):
        if not token:
            raise TraceError(f"Expected {name}_contains='' to name a direction.")
    ups = _by_link(_named_traces(path, up_contains, without), up_contains)
    downs = _by_link(_named_traces(path, down_contains, without), down_contains)
    both = {name for name, _ in ups.values()} & {name for name, _ in downs.values()}
    if both:
        raise TraceError(
            f"{path}, {min(both)}: expected a name with {up_contains!r} or "
            f"{down_contains!r}, got one with both."
        )
    alone = [name for link, (name, _) in ups.items() if link not in downs]
    alone += [name for link, (name, _) in downs.items() if link not in ups]
    if alone:
        raise TraceError(
            f"Expected a trace of the other direction ({up_contains!r} for "
            f"{down_contains!r}) in {path} for each of {', '.join(sorted(alone))}: "
            f"leave out what has none, e.g. without={min(alone)!r}."
        )
    return [(ups[link][1], trace) for link, (_, trace) in downs.items()]


def _table(rows: list[list[str]]) -> np.ndarray:
    if not rows:
        raise ValueError("Expected lines of one or two columns in a trace, got none.")
    widths = [len(row) for row in rows]
    if set(widths) not in ({1}, {2}):
        odd = next(i for i, x in enumerate(widths) if x > 2 or x != widths[0])
        raise ValueError(
            f"Expected one or two columns in every line of a trace, got {widths[odd]} "
            f"in line {odd + 1}."
        )
    words = [word for row in rows for word in row]
    try:
        values = list(map(float, words))
    except ValueError:
        values = list(map(_number, words))
    table = np.array(values).reshape(len(rows), -1)
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        i = int(np.argmin(finite))
        raise ValueError(
            f"Expected finite numbers alone in a trace, got {' '.join(rows[i])[:40]!r} "
            f"in line {i + 1}."
        )
    return table


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def _by_link(
    traces: dict[str, Trace], direction: str
) -> dict[tuple[str, str], tuple[str, Trace]]:
    """By what stands before and behind the direction in a name; its last place."""
    links = {}
    for name, trace in traces.items():
        before, _, behind = name.rpartition(direction)
        links[before, behind] = (name, trace)
    return links


def _named_traces(path: Path, name_contains: str, without: str) -> dict[str, Trace]:
    """The traces by name, in the order of their names."""
    try:
        # Of two members of one name the later one is the file, as tar has it.
        texts = sorted(dict(_texts(path, name_contains, without)).items())
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise TraceError(f"{path} cannot be read: {one_line(error)}.") from error
    traces = {}
    for name, text in texts:
        try:
            traces[name] = parse_trace(text.decode("utf-8"))
        except UnicodeDecodeError:
            raise TraceError(f"{path}, {name}: Expected text in UTF-8.") from None
        except ValueError as error:
            raise TraceError(f"{path}, {name}: {error}") from None
    if not traces:
        raise TraceError(
            f"Expected traces in {path} with {name_contains!r} in their names; "
            "there is none."
        )
    return traces


def _texts(path: Path, name_contains: str, without: str) -> Iterator[tuple[str, bytes]]:
    def is_asked_for(name: str) -> bool:
        return name_contains in name and not (without and without in name)

    if path.is_dir():
        for file in path.rglob("*"):
            name = file.relative_to(path).as_posix()
            if file.is_file() and is_asked_for(name):
                yield name, file.read_bytes()
        return
    if not path.is_file():
        raise TraceError(
            f"There is no {path}: name the raw data directory (--raw_dir or "
            "FEDJAX_COMP_RAW_DATA), or use a network without files, e.g. lognormal()."
        )
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and is_asked_for(member.name):
                yield member.name, content.read()
