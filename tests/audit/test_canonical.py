"""One spelling of everything: what would not be written is not read."""

import base64
import itertools
import math

import pytest

from fedjax_comp.audit.canonical import (
    MOST_ENTRIES,
    from_base64,
    from_decimal,
    to_base64,
    to_json,
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def test_base64_of_one_byte_has_one_spelling():
    # All texts of this form: 64 * 64 of them, and 256 bytes.
    accepted = {}
    for first, second in itertools.product(ALPHABET, repeat=2):
        text = f"{first}{second}=="
        assert len(base64.b64decode(text)) == 1
        try:
            accepted[text] = from_base64(text)
        except ValueError:
            continue
    assert sorted(accepted.values()) == [bytes([i]) for i in range(256)]
    assert all(to_base64(data) == text for text, data in accepted.items())


@pytest.mark.parametrize(
    "text",
    [
        "AA",
        "AA=",
        "AA===",
        "AA==\n",
        " AA==",
        "A A==",
        "AB==",
        "_A==",
        "AA==AA==",
        "\u00e9",
    ],
)
def test_other_spellings_of_base64(text):
    with pytest.raises(ValueError, match="base64"):
        from_base64(text)


def test_numbers():
    for number in (0, 7, 10, MOST_ENTRIES - 1):
        assert from_decimal(str(number)) == number
    odd = ["", "-1", "+1", "01", "1 ", "1_0", "1.0", "\u0661", "x", "9" * 5000]
    for text in [*odd, str(MOST_ENTRIES)]:
        with pytest.raises(ValueError, match="Expected a number in decimal"):
            from_decimal(text)


def test_json():
    assert to_json({"b": (1, 2), "a": {"d": 0.1, "c": "\u00e9"}}) == (
        rb'{"a":{"c":"\u00e9","d":0.1},"b":[1,2]}'
    )
    assert to_json([math.nan, math.inf, -math.inf, -0.0]) == b"[null,null,null,-0.0]"
