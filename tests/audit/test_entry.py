"""Entries as lines, and back."""

import json

import pytest

from fedjax_comp.audit.entry import (
    EVALUATION,
    FORMAT,
    MAX_ENTRY_BYTES,
    RESULT,
    SILENCE,
    Beginning,
    Entry,
    describe,
    format_entry,
    format_of,
    parse_beginning,
    parse_entry,
    row_sha256,
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


BEGINNING = format_entry(Beginning(FORMAT, "example.com/log/0/id", "cc"))


def test_the_first_line():
    assert parse_beginning(BEGINNING) == (FORMAT, "example.com/log/0/id", "cc")
    assert describe(BEGINNING) == "the log's beginning"
    assert (format_of(BEGINNING), format_of(LINE)) == (FORMAT, 1)
    with pytest.raises(ValueError, match="Expected an entry"):
        parse_entry(BEGINNING)
    for line, found in ((LINE, 1), (BEGINNING.replace(b":2", b":3"), 3)):
        with pytest.raises(ValueError, match=f"a log of format 2, got {found}: "):
            parse_beginning(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"format":2}',
        BEGINNING + b" ",
        BEGINNING.replace(b":2", b": 2"),
        BEGINNING.replace(b":2", b":true"),
        BEGINNING.replace(b":2", b":2.0"),
        BEGINNING.replace(b'"cc"', b"3"),
        BEGINNING.replace(b"}", b',"more":1}'),
        BEGINNING.replace(b"}", b',"config":"cc"}'),
    ],
)
def test_what_is_no_first_line(line):
    with pytest.raises(ValueError, match=r"Expected a (log's )?first line"):
        parse_beginning(line)
    assert describe(line) == "unreadable"


def test_a_row_is_hashed_without_its_clock():
    row = {"round": 3, "test_accuracy": 0.25, "seconds": 1.5}
    assert row_sha256(row) == row_sha256({**row, "seconds": 9})
    for other in ({**row, "test_accuracy": 0.5}, {**row, "joules": 1.0}):
        assert row_sha256(other) != row_sha256(row)
    assert row_sha256(json.loads(json.dumps(row))) == row_sha256(row)


def test_entries_are_described():
    assert describe(LINE) == "round 1, uplink, client 3 to server"
    assert isinstance(parse_entry(LINE), Entry)
    for kind in (EVALUATION, RESULT, SILENCE):
        line = format_entry(make_entry(3)._replace(kind=kind))
        assert describe(line) == f"round 1, {kind}"
