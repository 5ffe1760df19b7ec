"""Entries as lines, and back."""

import json

import pytest

from fedjax_comp.audit.entry import (
    MAX_ENTRY_BYTES,
    Entry,
    describe,
    format_entry,
    parse_entry,
)
from tests.audit.logs import make_entry

LINE = format_entry(make_entry(3))


def test_a_line_is_canonical_json_of_its_entry():
    assert parse_entry(LINE) == make_entry(3)
    assert json.loads(LINE) == make_entry(3)._asdict()
    assert len(LINE) < 350 < MAX_ENTRY_BYTES
    odd = make_entry(3)._replace(sender="\u00e9\n")
    line = format_entry(odd)
    assert line.isascii()
    assert b"\n" not in line
    assert parse_entry(line) == odd


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"3",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        LINE + b" ",
        LINE.replace(b'"round":1', b'"round":1.0'),
        LINE.replace(b'"round":1', b'"round":true'),
        LINE.replace(b'"round":1', b'"round": 1'),
        LINE.replace(b'"server"', b"3"),
        LINE.replace(b"server", rb"\u0073erver"),
        LINE.replace(b'{"round":1,', b'{"extra":1,"round":1,'),
    ],
)
def test_what_is_no_line_of_an_entry(line):
    with pytest.raises(ValueError, match="Expected an entry"):
        parse_entry(line)
    assert describe(line) == "unreadable"


def test_entries_are_described():
    assert describe(LINE) == "round 1, uplink, client 3 to server"
    assert isinstance(parse_entry(LINE), Entry)
