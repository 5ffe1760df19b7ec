"""One spelling for everything that is hashed, signed or proved.

If one value could be written in two ways, these would differ for a program that
compares bytes and be the same for one that reads them. So what is read here is refused
unless it is, byte for byte, what would be written: base64 (RFC 4648, section 4, with
its padding and zero bits below the last byte), numbers in decimal, JSON (sorted keys,
no spaces).
"""

import base64
import binascii
import json
from typing import Any

from fedjax_comp.strict_json import finite

MOST_ENTRIES = 2**63
"""No log is as large (the limit of C2SP's tlog-checkpoint)."""

_MOST_DIGITS = len(str(MOST_ENTRIES))


def to_base64(data: bytes) -> str:
    """Base64 of `data`."""
    return base64.standard_b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    """What `to_base64` was given.

    Raises:
      ValueError: for anything that `to_base64` does not write.

    >>> from_base64("AA==") == bytes(1)
    True
    >>> from_base64("AB==")  # the same byte in another spelling
    Traceback (most recent call last):
    ValueError: Expected canonical base64, got 'AB=='.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Expected base64, got {text[:20]!r}.") from error
    if to_base64(data) != text:
        raise ValueError(f"Expected canonical base64, got {text[:20]!r}.")
    return data


def from_decimal(text: str) -> int:
    """A number of entries, in decimal without a sign or leading zeros.

    Raises:
      ValueError: for anything else, and for `MOST_ENTRIES` and above.

    >>> from_decimal("120")
    120
    """
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        number = int(text)
        if str(number) == text and number < MOST_ENTRIES:
            return number
    raise ValueError(f"Expected a number in decimal, got {text[:24]!r}.")


def to_json(value: Any) -> bytes:
    """The one JSON text of a value; numbers that are not finite become null.

    >>> to_json({"b": [1, float("nan")], "a": None})
    b'{"a":null,"b":[1,null]}'
    """
    text = json.dumps(
        finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return text.encode("ascii")
