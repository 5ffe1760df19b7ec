"""One honest witness does not sign two histories."""

import json
import shutil

import pytest

from fedjax_comp.audit.checkpoint import cosign, verify_cosignature
from fedjax_comp.audit.configuration import origin_of
from fedjax_comp.audit.entry import parse_beginning
from fedjax_comp.audit.log import read_log
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import (
    COSIGNATURE,
    NoteError,
    format_note,
    make_signer,
    parse_note,
)
from fedjax_comp.audit.proof import (
    format_inclusion,
    format_request,
    make_request,
    parse_inclusion,
    parse_request,
    prove_inclusion,
    verify_entry,
)
from fedjax_comp.audit.recorder import Recorder
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.audit.witness import SplitHistory, Witness
from tests.audit.logs import ORIGIN, SIGNER, make_lines, make_run

SEEN = make_signer("witness.example/w", bytes(32), kind=COSIGNATURE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", make_lines(60))


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """The same first 35 entries and another history from there."""
    lines = [*make_lines(60)[:35], *make_lines(60, salt="fork")[35:]]
    return make_run(tmp_path_factory.mktemp("fork") / "run", lines)


@pytest.fixture
def witness(tmp_path):
    return Witness(tmp_path / "state", SEEN, SIGNER.verifier)


def request(run, number, old_size):
    """Asks for checkpoint `number` of a run, which covers `10 (number + 1)` entries."""
    stored = read_log(run / "audit")
    leaves = [leaf_hash(line) for line in stored.lines[: 10 * (number + 1)]]
    return make_request(leaves, old_size, parse_note(stored.notes[number]))


def test_what_grows_is_cosigned(run, witness):
    size = 0
    for number in (0, 1, 1, 5):
        made = request(run, number, size)
        assert parse_request(format_request(made)) == made
        note = witness.add(made, time_seconds=100 + number)
        assert verify_cosignature(note, SEEN.verifier) == 100 + number
        size = 10 * (number + 1)
        assert witness.last(ORIGIN).size == size


@pytest.mark.parametrize("number", [3, 4, 5])
def test_a_forked_history_is_caught(run, fork, witness, number):
    witness.add(request(run, 3, 0), time_seconds=1)
    remembered = witness.last(ORIGIN)
    with pytest.raises(SplitHistory, match="there are two histories"):
        witness.add(request(fork, number, 40), time_seconds=2)
    assert witness.last(ORIGIN) == remembered
    # Nor does the honest proof help the forked checkpoint.
    honest, forked = request(run, number, 40), request(fork, number, 40)
    with pytest.raises(SplitHistory):
        witness.add(honest._replace(note=forked.note), time_seconds=2)
    witness.add(honest, time_seconds=2)


def test_a_fork_behind_what_was_seen_is_a_continuation(fork, run, witness):
    # Before the histories part, either may be shown; after it, only that one.
    witness.add(request(run, 2, 0), time_seconds=1)
    witness.add(request(fork, 3, 30), time_seconds=2)
    with pytest.raises(SplitHistory):
        witness.add(request(run, 4, 40), time_seconds=3)


def test_going_back_is_caught(run, witness):
    witness.add(request(run, 4, 0), time_seconds=1)
    with pytest.raises(SplitHistory, match="20 entries was shown after one of 50"):
        witness.add(request(run, 1, 20), time_seconds=2)


def test_what_is_no_proper_request(run, witness):
    witness.add(request(run, 1, 0), time_seconds=1)
    with pytest.raises(NoteError, match="expected a proof from 20 entries on"):
        witness.add(request(run, 4, 10), time_seconds=2)
    strangers = Witness(
        witness._folder, SEEN, make_signer("example.com/log", bytes(32)).verifier
    )
    with pytest.raises(NoteError, match="There is no signature by"):
        strangers.add(request(run, 4, 20), time_seconds=2)
    with pytest.raises(NoteError, match="Expected a witness's key"):
        Witness(witness._folder, SIGNER, SIGNER.verifier)
    assert witness.last(ORIGIN).size == 20
    for text in ("", "old 1\n", "old 01\n\n", "new 1\n\n", "old 1\nAA\n\nx\n\n— a b\n"):
        with pytest.raises(NoteError):
            parse_request(text)


@pytest.mark.parametrize("kind", ["inclusion", "request"])
def test_a_proof_has_one_spelling(run, kind):
    if kind == "inclusion":
        stored = read_log(run / "audit")
        leaves = [leaf_hash(line) for line in stored.lines]
        made = prove_inclusion(leaves, 3, parse_note(stored.notes[-1]))
        text, parse, title = format_inclusion(made), parse_inclusion, "index 3"
    else:
        made = request(run, 4, 13)
        text, parse, title = format_request(made), parse_request, "old 13"
    assert parse(text) == made
    first = text.split("\n")[2]  # a hash: of 32 bytes, so that 4 bits are left over
    assert first.endswith("=")
    other = "BCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/A"
    again = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bits = first[:-2] + other[again.index(first[-2])] + "="
    number = title.split(" ")[1]
    for odd in (
        text.replace(first, bits),
        text.replace(first, first + " "),
        text.replace(first, first[:-1]),
        text.replace(first, f"{first}\n"),
        text.replace(title, f"extra AA==\n{title}"),
        text.replace(title, f"{title}\n{title}"),
        text.replace(title, title.replace(number, f"0{number}")),
        text.replace(title, title.replace(number, "9" * 5000)),
        text.replace(title, f" {title}"),
        text.replace(title, f"{title}\r"),
        text + "\n",
        text + text,
        text + text.split("\n")[-2] + "\n",
        text[:-1],
    ):
        assert odd != text
        with pytest.raises(NoteError):
            parse(odd)


def test_a_witness_verifies_what_it_remembers(run, fork, witness):
    note = witness.add(request(run, 1, 0), time_seconds=1)
    (path,) = witness._folder.glob("*.note")
    text = path.read_text()
    other = make_signer("witness.example/w", bytes(range(32)), kind=COSIGNATURE)
    earlier = parse_note(read_log(run / "audit").notes[0])
    for wrong in (
        text.replace("20\n", "10\n", 1),
        # What the log signed, and what another witness cosigned, it has not.
        format_note(earlier),
        format_note(cosign(earlier, other, time_seconds=1)),
        format_note(earlier._replace(signatures=note.signatures)),
        text[:-10],
        "",
    ):
        path.write_text(wrong)
        for remembers in (
            lambda: witness.last(ORIGIN),
            witness.logs,
            lambda: witness.add(request(run, 4, 20), time_seconds=2),
        ):
            with pytest.raises(NoteError, match="is not what this witness keeps"):
                remembers()
    # Every single bit of it.
    data = text.encode()
    for bit in range(0, 8 * len(data), 3):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(NoteError):
            witness.last(ORIGIN)
    path.write_text(text)
    assert witness.add(request(run, 4, 20), time_seconds=2)


def test_a_note_under_another_logs_name_is_refused(witness, tmp_path):
    names = [origin_of(SIGNER.verifier, name) for name in ("a", "b")]
    for name in names:
        short = name[-1]
        made = make_run(tmp_path / short, make_lines(20, origin=name), origin=name)
        witness.add(request(made, 1, 0), time_seconds=1)
    paths = [witness._path(name) for name in names]
    texts = [path.read_text() for path in paths]
    paths[0].write_text(texts[1])
    with pytest.raises(NoteError, match=r"holds .*/b, not .*/a\."):
        witness.last(names[0])
    with pytest.raises(NoteError, match="it was renamed"):
        witness.logs()
    paths[0].write_text(texts[0])
    assert [note.text.split("\n")[0] for note in witness.logs()] == names
    # Logs of another key are not listed, and do no harm.
    key = make_signer("example.com/log", bytes(32)).verifier
    assert Witness(witness._folder, SEEN, key).logs() == []


def test_a_second_history_in_another_workdir_is_refused(witness, tmp_path):
    """Who signs two histories of one configuration has to give them two ids."""

    def history(place, salt, run_id=None):
        path = tmp_path / place
        path.mkdir()
        flags = {"seed": 1, "workdir": str(path)}
        (path / "config.json").write_text(json.dumps({"flags": flags}))
        with Recorder(path, SIGNER, run_id) as recorder:
            recorder.record_row(0, {"round": 0, "test_accuracy": salt})
            recorder.finish(0, {})
        stored = read_log(path / "audit")
        leaves = [leaf_hash(line) for line in stored.lines]
        last = witness.last(parse_beginning(stored.lines[0]).log).size
        return make_request(leaves, last, parse_note(stored.notes[-1]))

    witness.add(history("one", 0.5), time_seconds=1)
    witness.add(history("same", 0.5), time_seconds=2)
    with pytest.raises(SplitHistory, match=r"two histories.* a --run_id of its own"):
        witness.add(history("better", 0.9), time_seconds=3)
    witness.add(history("named", 0.9, "second"), time_seconds=3)
    assert len(witness.logs()) == 2


def test_a_verification_wants_the_witnesses(run, fork, witness, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    key, wanted = SIGNER.verifier, [SEEN.verifier]
    (fault,) = verify_run(run, key, witnesses=wanted).faults
    assert fault == "witness.example/w has cosigned 0 of 60 entries."
    cosigned = run / "audit" / "cosigned"
    early = format_note(witness.add(request(run, 2, 0), time_seconds=1))
    cosigned.write_text(early)
    (fault,) = verify_run(run, key, witnesses=wanted).faults
    assert fault == "witness.example/w has cosigned 30 of 60 entries."
    late = format_note(witness.add(request(run, 5, 30), time_seconds=2))
    cosigned.write_text(early + late)
    assert not verify_run(run, key, witnesses=wanted).faults

    # The other history, with cosignatures of this one beside it.
    fork = shutil.copytree(fork, tmp_path / "fork")
    (fork / "audit" / "cosigned").write_text(early + late)
    split, short = verify_run(fork, key, witnesses=wanted).faults
    assert split.startswith("SPLIT HISTORY")
    # What was cosigned before the histories part is cosigned of both.
    assert short == "witness.example/w has cosigned 30 of 60 entries."


def test_what_was_cosigned_of_another_log_is_not_of_this_one(run, witness, tmp_path):
    name = origin_of(SIGNER.verifier, "another")
    other = make_run(tmp_path / "other", make_lines(60, origin=name), origin=name)
    run = shutil.copytree(run, tmp_path / "run")
    cosigned = format_note(witness.add(request(other, 5, 0), time_seconds=1))
    (run / "audit" / "cosigned").write_text(cosigned)
    report = verify_run(run, SIGNER.verifier, witnesses=[SEEN.verifier])
    assert report.faults == ("witness.example/w has cosigned 0 of 60 entries.",)
    assert f"this key also signed {name}, of 60 entries." in report.remarks
    # Nor is a note that the witness signed and the log did not.
    note = read_log(run / "audit").notes[-1]
    bare = parse_note(note)._replace(signatures=())
    forged = cosign(bare, SEEN, time_seconds=1)
    (run / "audit" / "cosigned").write_text(format_note(forged))
    _, fault = verify_run(run, SIGNER.verifier, witnesses=[SEEN.verifier]).faults
    assert fault == "witness.example/w has cosigned 0 of 60 entries."


def test_without_a_witness_s_list_an_earlier_state_is_not_noticed(
    run, witness, tmp_path
):
    cosigned = format_note(witness.add(request(run, 2, 0), time_seconds=1))
    kept = format_note(witness.add(request(run, 5, 30), time_seconds=2))
    back = make_run(tmp_path / "back", make_lines(60)[:30])
    (back / "summary.json").unlink()
    (back / "audit" / "cosigned").write_text(cosigned)
    given = {"witnesses": [SEEN.verifier]}
    report = verify_run(back, SIGNER.verifier, **given)
    assert not report.faults
    assert any("(--against)" in remark for remark in report.remarks)
    report = verify_run(back, SIGNER.verifier, **given, notes=[kept])
    assert "entries were removed from the end" in report.faults[0]
    assert not any("(--against)" in remark for remark in report.remarks)


def test_an_entry_is_proved_without_the_log(run):
    stored = read_log(run / "audit")
    leaves = [leaf_hash(line) for line in stored.lines]
    note = parse_note(stored.notes[-1])
    for i in (0, 33, 59):
        text = format_inclusion(prove_inclusion(leaves, i, note))
        proof = parse_inclusion(text)
        assert verify_entry(proof, stored.lines[i], SIGNER.verifier).size == 60
        with pytest.raises(NoteError, match=f"is not entry {i} of the log"):
            verify_entry(proof, stored.lines[i] + b" ", SIGNER.verifier)
    with pytest.raises(NoteError, match="Expected a proof that begins with"):
        parse_inclusion("index 3\n")
