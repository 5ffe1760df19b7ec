"""An entry of the log: one exchange, as one line of canonical JSON.

An entry holds hashes, not messages: who has the message, the configuration or the model
can show that it is the one logged, and who has the log alone learns nothing of them.
"""

import hashlib
import json
from typing import NamedTuple

MAX_ENTRY_BYTES = 65_535
"""The most bytes of one entry (a limit of the tiled log formats)."""

SERVER_NAME = "server"
EVERYONE_NAME = "everyone"
RESULT = "result"
"""The kind of the last entry, whose message is the model that came out."""
SILENCE = "silence"
"""The kind of a round's only entry when nobody sent anything."""


class Entry(NamedTuple):
    """One exchange.

    Attributes:
      round: the round it belongs to, from 1; for the result the last one.
      kind: of the message, such as "uplink", or `RESULT`, or `SILENCE`.
      number: which of the round's messages of its kind, from 0.
      sender: who sent it: "client 12" or `SERVER_NAME`.
      receiver: to whom: "client 12", `SERVER_NAME`, or `EVERYONE_NAME` for a broadcast.
      message: SHA-256 of the message's bytes, frame and all, in hex (of the result,
        the `params_sha256` of the summary).
      model: `params_sha256` of the model before the round, in hex.
      config: SHA-256 of the bytes of `config.json`, in hex.
    """

    round: int
    kind: str
    number: int
    sender: str
    receiver: str
    message: str
    model: str
    config: str


def format_entry(entry: Entry) -> bytes:
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


def describe(line: bytes) -> str:
    """What an entry is about, for a person, whatever its bytes are.

    >>> entry = Entry(1, "uplink", 0, "client 3", "server", "aa", "bb", "cc")
    >>> describe(format_entry(entry))
    'round 1, uplink, client 3 to server'
    """
    try:
        entry = parse_entry(line)
    except ValueError:
        return "unreadable"
    return f"round {entry.round}, {entry.kind}, {entry.sender} to {entry.receiver}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
