"""Shakespeare by role: predict the next character of what a speaker says.

A client is a (play, speaker) pair with two lines or more. Its first lines are training
and its last 20 % of lines (rounded up) test examples, in the order of the play. Each
part is one text, lines ended by a newline, cut into windows of 80 characters; the
target of a character is the one after it. The last window is filled up with padding.

Symbols, 80 of them: 0 is padding (never scored: `ignore_label`), 1 an unknown
character, and 2 to 79 are the characters of `VOCABULARY` in order.

Source: McMahan et al. 2017, arXiv 1602.05629, section 3; Caldas et al. 2018, arXiv
1812.01097. Their counts differ: another edition of the text and another filter.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fedjax_comp import strict_json
from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.wording import one_line

PADDING = 0
UNKNOWN = 1
VOCABULARY = (
    "\n !$&'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"
)
SEQUENCE_LENGTH = 80
TEST_FRACTION = 0.2

_FILE = "speeches.jsonl.gz"
_SPEECH = {"play": str, "speaker": str, "lines": list}
_TABLE = np.full(256, UNKNOWN, np.uint8)
_TABLE[np.frombuffer(VOCABULARY.encode("latin-1"), np.uint8)] = np.arange(
    2, 2 + len(VOCABULARY), dtype=np.uint8
)


def encode_text(text: str) -> np.ndarray:
    r"""Symbols of `text`, uint8 `[len(text)]`.

    >>> encode_text("A\n€").tolist()
    [26, 2, 1]
    """
    # Characters beyond one byte become one that is not in the vocabulary.
    bounded = "".join(c if ord(c) < 256 else "\x00" for c in text)
    return _TABLE[np.frombuffer(bounded.encode("latin-1"), np.uint8)]


def windows(symbols: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into inputs and next-symbol targets, both uint8 `[N, length]`.

    `x[i, t] = symbols[i * length + t]` and `y[i, t]` is the symbol after it; where
    there is none, both are padding. `N = ceil((len(symbols) - 1) / length)`.

    >>> windows(np.array([5, 6, 7, 8], np.uint8), 2)[1].tolist()
    [[6, 7], [8, 0]]
    """
    count = max(0, -(-(len(symbols) - 1) // length))
    padded = np.full(count * length + 1, PADDING, np.uint8)
    padded[: len(symbols)] = symbols[: len(padded)]
    x, y = padded[:-1].reshape(-1, length), padded[1:].reshape(-1, length)
    return np.where(y == PADDING, np.uint8(PADDING), x), y


def read_raw(folder: Path) -> Splits:
    """Reads `speeches.jsonl.gz`; the groups are the roles, in order of appearance.

    Raises:
      ValueError: if a line is not a speech.
    """
    path = folder / _FILE
    roles: dict[tuple[str, str], list[str]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                speech = strict_json.check_fields(strict_json.parse(line), _SPEECH)
                lines = speech["lines"]
                if not all(isinstance(one, str) for one in lines):
                    raise ValueError("Expected every line to be a text.")
                roles.setdefault((speech["play"], speech["speaker"]), []).extend(lines)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected one speech a line in {path}, with play, speaker and lines: "
            f"{one_line(error)}."
        ) from error
    spoken = [lines for lines in roles.values() if len(lines) >= 2]
    cuts = [len(lines) - math.ceil(TEST_FRACTION * len(lines)) for lines in spoken]
    pairs = list(zip(spoken, cuts, strict=True))
    return {
        "train": _windowed([lines[:cut] for lines, cut in pairs]),
        "test": _windowed([lines[cut:] for lines, cut in pairs]),
    }


def _windowed(texts: list[list[str]]) -> Split:
    parts = [
        windows(encode_text("".join(line + "\n" for line in lines)), SEQUENCE_LENGTH)
        for lines in texts
    ]
    if not parts:
        raise ValueError("Expected a role with two lines or more.")
    sizes = [len(x) for x, _ in parts]
    return Split(
        np.concatenate([x for x, _ in parts]),
        np.concatenate([y for _, y in parts]).astype(np.int32),
        np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
    )


SOURCE = Source(
    name="shakespeare",
    num_classes=2 + len(VOCABULARY),
    scale=1.0,
    description="Shakespeare by role. McMahan et al., arXiv 1602.05629, 2017.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=(
        f"write the speeches of the plays to {_FILE}, one JSON object a line with "
        "play, speaker and lines, in reading order"
    ),
    ignore_label=PADDING,
)
