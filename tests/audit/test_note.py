"""Signed notes, checkpoints and cosignatures, held against published examples."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedjax_comp.audit.checkpoint import (
    Checkpoint,
    cosign,
    parse_checkpoint,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
    verify_cosignature,
)
from fedjax_comp.audit.keys import (
    load_or_make,
    load_signer,
    load_verifier,
    make_key,
)
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import (
    COSIGNATURE,
    NoteError,
    format_note,
    format_signer,
    format_verifier,
    make_signer,
    parse_note,
    parse_signer,
    parse_verifier,
    sign_note,
    split_notes,
    verify_note,
)

# The example of the Go package golang.org/x/mod/sumdb/note, where the format is from.
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PRIVATE = (
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
)
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NOTE = TEXT + (
    "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
LOG = make_signer("example.com/log", bytes(range(32)))
WITNESS = make_signer("witness.example/w", bytes(range(1, 33)), kind=COSIGNATURE)
CHECKPOINT = Checkpoint("example.com/log", 7, leaf_hash(b"x"))


def test_the_published_note():
    key, signer = parse_verifier(PUBLIC), parse_signer(PRIVATE)
    assert signer.verifier == key
    assert (format_verifier(key), format_signer(signer)) == (PUBLIC, PRIVATE)
    verify_note(parse_note(NOTE), key)
    # Ed25519 is deterministic, so our signature is the published one.
    assert format_note(sign_note(TEXT, signer)) == NOTE


@pytest.mark.parametrize("line", [PUBLIC, PRIVATE])
def test_every_changed_character_of_a_key_is_noticed(line):
    parse = parse_signer if line == PRIVATE else parse_verifier
    for i, character in enumerate(line):
        other = "A" if character != "A" else "B"
        with pytest.raises(NoteError):
            parse(line[:i] + other + line[i + 1 :])


def test_every_bit_flip_of_a_note_is_noticed():
    key, data = parse_verifier(PUBLIC), NOTE.encode()
    for i in range(8 * len(data)):
        changed = bytearray(data)
        changed[i // 8] ^= 1 << i % 8
        text = changed.decode("utf-8", errors="surrogateescape")
        with pytest.raises(NoteError):
            verify_note(parse_note(text), key)


def test_unknown_signatures_are_passed_over_but_wrong_ones_are_not():
    key = parse_verifier(PUBLIC)
    other = format_note(sign_note(TEXT, LOG)).rpartition("\n\n")[2]
    verify_note(parse_note(NOTE + other), key)
    forged = NOTE.rpartition("\n\n")[2].replace("x08go/ZJ", "x08go/ZK")
    with pytest.raises(NoteError, match="is wrong"):
        verify_note(parse_note(NOTE + forged), key)
    with pytest.raises(NoteError, match="There is no signature"):
        verify_note(parse_note(NOTE), LOG.verifier)


def test_a_signature_line_stands_once():
    line = NOTE.rpartition("\n\n")[2]
    with pytest.raises(NoteError, match="each signature line of a note once"):
        parse_note(NOTE + line)


@pytest.mark.parametrize(
    "text", ["no newline", "\x00\n", "tab\t\n", "", "\udce4\n", "a\rb\n"]
)
def test_what_cannot_be_a_notes_text(text):
    with pytest.raises(NoteError, match="whole lines of plain text"):
        sign_note(text, LOG)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b"])
def test_what_cannot_be_a_keys_name(name):
    with pytest.raises(NoteError, match="Expected a key name"):
        make_signer(name, bytes(32))


def test_notes_one_after_another():
    notes = [NOTE, format_note(sign_checkpoint(CHECKPOINT, LOG)), NOTE]
    assert split_notes("".join(notes)) == notes
    # Odd line separators do not cut a note.
    assert split_notes("a\u2028b\n\n— k AAAA\n") == ["a\u2028b\n\n— k AAAA\n"]
    assert split_notes("") == []


# ------------------------------------------------------------------------ checkpoints


def test_the_checkpoint_of_the_specification():
    text = (
        "example.com/behind-the-sofa\n20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    checkpoint = parse_checkpoint(text)
    assert checkpoint[:2] == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")
    assert parse_checkpoint(text + "extension\n") == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log\n1\n",
        "log\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "log\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "log\n\u0661\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "log\n1\nCsUY\n",
        "log\n1\n!\n",
        f"log\n{'9' * 5000}\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        f"log\n{2**63}\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        # The same root in other spellings.
        "log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        "log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I= \n",
        "log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
        "log\n1\nCsUYapGGPo4dkMgIAUqom_Xajj7h2fB2MPA3j2jxq2I=\n",
        "log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n",
    ],
)
def test_what_is_no_checkpoint(text):
    with pytest.raises(NoteError):
        parse_checkpoint(text)


def test_a_checkpoint_is_of_its_key_or_below():
    below = CHECKPOINT._replace(origin="example.com/log/17")
    for checkpoint in (CHECKPOINT, below):
        text = format_note(sign_checkpoint(checkpoint, LOG))
        assert read_checkpoint(text, LOG.verifier) == checkpoint
    for origin in ("example.com/logs", "example.org", "example.com"):
        with pytest.raises(NoteError, match="The checkpoint is of"):
            sign_checkpoint(CHECKPOINT._replace(origin=origin), LOG)


def test_the_cosignature_is_the_one_of_the_specification():
    note = cosign(sign_checkpoint(CHECKPOINT, LOG), WITNESS, time_seconds=1679315147)
    key = WITNESS.verifier
    # Written out again: key ID, line and message as c2sp.org/tlog-cosignature has them.
    named = b"witness.example/w\n\x04" + key.public
    assert key.key_id == hashlib.sha256(named).digest()[:4]
    name, key_id, value = note.signatures[1]
    assert (name, key_id) == ("witness.example/w", key.key_id)
    assert struct.unpack(">Q", value[:8]) == (1679315147,)
    message = b"cosignature/v1\ntime 1679315147\n" + note.text.encode()
    ed25519.Ed25519PublicKey.from_public_bytes(key.public).verify(value[8:], message)

    again = parse_note(format_note(note))
    assert verify_cosignature(again, key) == 1679315147
    assert verify_checkpoint(again, LOG.verifier) == CHECKPOINT


def test_wrong_cosignatures():
    note = sign_checkpoint(CHECKPOINT, LOG)
    with pytest.raises(NoteError, match="no cosignature"):
        verify_cosignature(note, WITNESS.verifier)
    with pytest.raises(NoteError, match="Expected a witness's key"):
        cosign(note, LOG, time_seconds=1)
    good = cosign(note, WITNESS, time_seconds=1)
    line = good.signatures[1]
    later = line._replace(value=struct.pack(">Q", 2) + line.value[8:])
    for bad in (later, line._replace(value=line.value[:-1])):
        with pytest.raises(NoteError, match="is wrong"):
            verify_cosignature(
                good._replace(signatures=(note.signatures[0], bad)), WITNESS.verifier
            )
    # The log's own key does not make a witness.
    with pytest.raises(NoteError, match="no cosignature"):
        verify_cosignature(note, LOG.verifier)


# ------------------------------------------------------------------------------ files


def test_keys_in_files(tmp_path):
    path = tmp_path / "keys" / "log"
    signer = make_key(path, "example.com/log")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signer(path) == load_or_make(path, "example.com/other") == signer
    public = path.with_name("log.pub")
    line = public.read_text().strip()
    assert load_verifier(str(public)) == load_verifier(line) == signer.verifier
    with pytest.raises(NoteError, match="never overwritten"):
        make_key(path, "example.com/log")
    for text in (str(path), "nowhere"):
        with pytest.raises(NoteError):
            load_verifier(text)
    with pytest.raises(NoteError, match="cannot be read"):
        load_signer(tmp_path / "nowhere")


def test_a_long_name_is_told_in_a_short_line():
    text = "text\n\n— " + 5000 * "a" + " AAAA\n"
    with pytest.raises(NoteError, match="a key ID and a signature") as caught:
        parse_note(text)
    assert len(str(caught.value)) < 200
