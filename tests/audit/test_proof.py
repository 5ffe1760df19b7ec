"""Proofs as texts: they come back as they were, and no longer than a log can need."""

import base64

import pytest

from fedjax_comp.audit.checkpoint import Checkpoint, sign_checkpoint
from fedjax_comp.audit.merkle import leaf_hash, root
from fedjax_comp.audit.note import NoteError
from fedjax_comp.audit.proof import (
    format_inclusion,
    format_request,
    make_request,
    parse_inclusion,
    parse_request,
    prove_inclusion,
    verify_entry,
)
from tests.audit.logs import ORIGIN, SIGNER, make_lines

LINES = make_lines(21)
LEAVES = [leaf_hash(line) for line in LINES]
HASH = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module")
def note():
    checkpoint = Checkpoint(ORIGIN, len(LEAVES), root(LEAVES))
    return sign_checkpoint(checkpoint, SIGNER)


def test_a_proof_of_every_entry_comes_back(note):
    for i, line in enumerate(LINES):
        proof = prove_inclusion(LEAVES, i, note)
        back = parse_inclusion(format_inclusion(proof))
        assert back == proof
        assert verify_entry(back, line, SIGNER.verifier).size == 21
        with pytest.raises(NoteError, match=f"not entry {i} of the log"):
            verify_entry(back, line + b" ", SIGNER.verifier)


def test_extra_data_is_refused(note):
    text = format_inclusion(prove_inclusion(LEAVES, 3, note))
    title, rest = text.split("\n", 1)
    with pytest.raises(NoteError, match="got 'extra AAAA'"):
        parse_inclusion(f"{title}\nextra AAAA\n{rest}")


def test_as_many_hashes_as_a_tree_can_have_levels(note):
    head, tail = format_request(make_request(LEAVES, 0, note)).split("\n\n", 1)
    assert head == "old 0"
    for count in (63, 64):
        text = "\n".join([head, *[HASH] * count]) + "\n\n" + tail
        if count == 63:
            assert parse_request(text).hashes == (bytes(32),) * 63
            continue
        with pytest.raises(NoteError, match="Expected at most 63 hashes, got 64"):
            parse_request(text)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("old", "In the line 'old' of a proof: Expected a number"),
        ("old 01", "In the line 'old' of a proof: Expected a number"),
        ("old -1", "In the line 'old' of a proof: Expected a number"),
        ("index 0", "In the line 'old' of a proof: Expected a number"),
        (f"old 0\n{HASH[:-1]}", "A hash of a proof: Expected base64"),
        ("old 0\nAAAA", "a hash of 32 bytes, got 3"),
    ],
)
def test_what_is_no_request_is_refused(note, line, error):
    _, tail = format_request(make_request(LEAVES, 0, note)).split("\n\n", 1)
    with pytest.raises(NoteError, match=error):
        parse_request(f"{line}\n\n{tail}")
    with pytest.raises(NoteError, match="that begins with"):
        parse_inclusion(f"{line}\n\n{tail}")
