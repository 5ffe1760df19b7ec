"""An entry of the log: one exchange, as one line of canonical JSON.

An entry holds hashes, not messages: who has the message, the configuration or the model
can show that it is the one logged, and who has the log alone learns nothing of them.
"""

import hashlib
import json
from typing import NamedTuple

MAX_ENTRY_BYTES = 65_535
"""The most bytes of one entry (a limit of the tiled log formats)."""

SERVER = "server"
COHORT = "cohort"
RESULT = "result"
"""The direction of the last entry, whose message is the model that came out."""
SILENCE = "silence"
"""The direction of a round's only entry when nobody sent anything."""


class Entry(NamedTuple):
    """One exchange.

    Attributes:
      round: the round it belongs to, from 1; for the result the last one.
      direction: of the link, such as "uplink", or `RESULT`, or `SILENCE`.
      sender: who sent it: "client 12" or `SERVER`.
      receiver: to whom: "client 12", `SERVER`, or `COHORT` for a broadcast.
      message: SHA-256 of the message's bytes, frame and all, in hex (of the result,
        the `params_sha256` of the summary).
      model: `params_sha256` of the model before the round, in hex.
      config: SHA-256 of the bytes of `config.json`, in hex.
    """

    round: int
    direction: str
    sender: str
    receiver: str
    message: str
    model: str
    config: str


def format_entry(entry: Entry) -> bytes:
    """The line of an entry, without its newline: these bytes are hashed.

    >>> format_entry(Entry(1, "uplink", "client 3", "server", "aa", "bb", "cc"))[:44]
    b'{"round":1,"direction":"uplink","sender":"cl'
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
    texts = all(isinstance(x, str) for x in entry[1:])
    if type(entry.round) is not int or not texts or format_entry(entry) != line:
        raise ValueError(f"Expected an entry as it is written, got {line[:40]!r}.")
    return entry


def describe(line: bytes) -> str:
    """What an entry is about, for a person, whatever its bytes are.

    >>> line = format_entry(Entry(1, "uplink", "client 3", "server", "aa", "bb", "cc"))
    >>> describe(line)
    'round 1, uplink, client 3 to server'
    """
    try:
        entry = parse_entry(line)
    except ValueError:
        return "unreadable"
    return f"round {entry.round}, {entry.direction}, {entry.sender} to {entry.receiver}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
