"""Which entry of a log was changed, and how, from two lists of leaf hashes.

Entries differ in their round, kind or number, so that no two of a log have the same
hash. So the hash that is found in place of another one tells whether an entry was
removed or altered, and whether it was put in or moved.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """The first place at which a log is not what it should be.

    Attributes:
      position: the entry, from 0.
      what: "altered", "removed", "reordered" or "inserted".
    """

    position: int
    what: str


def first_difference(
    found: Sequence[bytes], expected: Sequence[bytes]
) -> Difference | None:
    """The first entry that was altered, removed, reordered or inserted.

    Args:
      found: leaf hashes of the entries that are there.
      expected: leaf hashes of those that were logged.

    Returns:
      The difference, or None when there is none. A position beyond the end of `found`
      is of an entry that is missing there.

    >>> first_difference([b"a", b"c"], [b"a", b"b", b"c"])
    Difference(position=1, what='removed')
    >>> first_difference([b"a", b"x", b"b"], [b"a", b"b"])
    Difference(position=1, what='inserted')
    >>> first_difference([b"b", b"a"], [b"a", b"b"])
    Difference(position=0, what='reordered')
    """
    if found == expected:
        return None
    shorter = min(len(found), len(expected))
    index = next((i for i in range(shorter) if found[i] != expected[i]), shorter)
    if index == len(found):
        return Difference(index, "removed")
    if index == len(expected):
        return Difference(index, "inserted")
    return Difference(index, _what_happened(found[index:], expected[index:]))


def _what_happened(found: Sequence[bytes], expected: Sequence[bytes]) -> str:
    here, there = found[0], expected[0]
    comes_later = there in found
    known = here in expected
    if known and comes_later:
        # A copy of a later entry was put in, if that one is still in its place too.
        return "inserted" if found.count(here) > expected.count(here) else "reordered"
    if comes_later:
        return "inserted"
    return "removed" if known else "altered"
