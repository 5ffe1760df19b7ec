"""An entry of the log: one exchange or evaluation, as one line of canonical JSON.

An entry holds hashes, not messages: whoever has the message, the configuration or the
model can show that it is the one logged, and whoever has the log alone learns nothing
of them. The first line is no entry of a round but the `Beginning`: format, name,
configuration.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from fedjax_comp.audit.canonical import to_json

FORMAT = 2
"""Of the log: 1 began with an entry, named logs by their `config.json`, and had no
evaluations."""

MAX_ENTRY_BYTES = 65_535
"""The most bytes of one entry (a limit of the tiled log formats)."""

SERVER_NAME = "server"
EVERYONE_NAME = "everyone"
RESULT = "result"
"""The kind of the last entry, whose message is the model that came out."""
SILENCE = "silence"
"""The kind of a round's only entry when nobody sent anything."""
EVALUATION = "evaluation"
"""The kind of an entry of a row of `metrics.jsonl`."""
WALL_CLOCK = frozenset({"seconds"})
"""Of a row: what differs between two runs that are the same, and is not hashed."""


class Beginning(NamedTuple):
    """The first line of a log.

    Attributes:
      format: `FORMAT`.
      log: the log's name, that of its checkpoints.
      config: SHA-256 of the configuration, in hex
        (`fedjax_comp.audit.configuration.config_sha256`).
    """

    format: int
    log: str
    config: str


class Entry(NamedTuple):
    """One exchange.

    Attributes:
      round: the round it belongs to, from 1; for the result the last one, for an
        evaluation the one before it, from 0.
      kind: of the message, such as "uplink", or `RESULT`, `SILENCE` or `EVALUATION`.
      number: which of the round's messages of its kind, from 0.
      sender: who sent it: "client 12" or `SERVER_NAME`.
      receiver: to whom: "client 12", `SERVER_NAME`, or `EVERYONE_NAME` for a broadcast.
      message: SHA-256 of the message's bytes, frame and all, in hex (of the result,
        the `params_sha256` of the summary; of an evaluation, `row_sha256`).
      model: `params_sha256` of the model before the round, in hex; empty for an
        evaluation, whose model the next round begins with.
      config: that of the log's `Beginning`.
    """

    round: int
    kind: str
    number: int
    sender: str
    receiver: str
    message: str
    model: str
    config: str


def format_entry(entry: Entry | Beginning) -> bytes:
    """The line of an entry, without its newline: these bytes are hashed.

    >>> entry = Entry(1, "uplink", 0, "client 3", "server", "aa", "bb", "cc")
    >>> format_entry(entry)[:44]
    b'{"round":1,"kind":"uplink","number":0,"sende'
    """
    return json.dumps(entry._asdict(), separators=(",", ":")).encode("ascii")


def parse_entry(line: bytes) -> Entry:
    """Reads what `format_entry` wrote.

    Raises:
      ValueError: when `line` is not, byte for byte, the line of an entry.
    """
    try:
        values = json.loads(line)
        entry = Entry(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected an entry, got {line[:40]!r}.") from error
    counts = type(entry.round) is type(entry.number) is int
    texts = all(isinstance(x, str) for x in (entry.kind, *entry[3:]))
    if not (counts and texts) or format_entry(entry) != line:
        raise ValueError(f"Expected an entry as it is written, got {line[:40]!r}.")
    return entry


def parse_beginning(line: bytes) -> Beginning:
    """Reads the first line of a log.

    Raises:
      ValueError: when `line` is not, byte for byte, the first line of a log, or of one
        of another format.

    >>> parse_beginning(format_entry(Beginning(2, "example.com/log", "cc"))).log
    'example.com/log'
    """
    found = format_of(line)
    if found is None:
        raise ValueError(f"Expected a log's first line, got {line[:40]!r}.")
    if found != FORMAT:
        raise ValueError(
            f"Expected a log of format {FORMAT}, got {found}: another version of "
            "fedjax_comp wrote it, and reads it."
        )
    try:
        beginning = Beginning(**json.loads(line))
    except TypeError as error:
        raise ValueError(f"Expected a log's first line, got {line[:40]!r}.") from error
    texts = isinstance(beginning.log, str) and isinstance(beginning.config, str)
    if not texts or format_entry(beginning) != line:
        raise ValueError(f"Expected a first line as it is written, got {line[:40]!r}.")
    return beginning


def format_of(line: bytes) -> int | None:
    """The format of a log by its first line; None where that says nothing.

    >>> format_of(b'{"format":3,"what":"a log of the future"}')
    3
    """
    try:
        parse_entry(line)
    except ValueError:
        pass
    else:
        return 1  # such a log began with its first message
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = values.get("format") if isinstance(values, dict) else None
    return found if type(found) is int else None


def row_sha256(row: Mapping[str, object]) -> str:
    """SHA-256 of a row of `metrics.jsonl`, in hex, but for its time by the clock.

    >>> row = {"round": 3, "test_loss": float("nan"), "seconds": 1.5}
    >>> row_sha256(row) == row_sha256({"test_loss": None, "round": 3})
    True
    """
    hashed = {name: value for name, value in row.items() if name not in WALL_CLOCK}
    return sha256_hex(to_json(hashed))


def describe(line: bytes) -> str:
    """What an entry is about, for a person, whatever its bytes are.

    >>> entry = Entry(1, "uplink", 0, "client 3", "server", "aa", "bb", "cc")
    >>> describe(format_entry(entry))
    'round 1, uplink, client 3 to server'
    """
    try:
        entry = parse_entry(line)
    except ValueError:
        return "the log's beginning" if _is_beginning(line) else "unreadable"
    if entry.kind in (EVALUATION, RESULT, SILENCE):
        return f"round {entry.round}, {entry.kind}"
    return f"round {entry.round}, {entry.kind}, {entry.sender} to {entry.receiver}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _is_beginning(line: bytes) -> bool:
    try:
        parse_beginning(line)
    except ValueError:
        return False
    return True
