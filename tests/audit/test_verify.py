"""Whatever is done to a log is found, and the first entry it was done to is named."""

import random
import shutil

import pytest

from fedjax_comp.audit import log as log_module
from fedjax_comp.audit.configuration import origin_of
from fedjax_comp.audit.differences import Difference, first_difference
from fedjax_comp.audit.entry import format_entry
from fedjax_comp.audit.log import Log
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import make_signer, split_notes
from fedjax_comp.audit.verify import verify_run
from tests.audit.logs import ORIGIN, RUN_ID, SIGNER, make_entry, make_lines, make_run

KEY = SIGNER.verifier


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("original") / "run", make_lines(200))


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def faults(run, **options):
    return verify_run(run, KEY, **options).faults


def read(run):
    return (run / "audit" / "log.jsonl").read_bytes().splitlines()


def write(run, lines):
    (run / "audit" / "log.jsonl").write_bytes(b"".join(x + b"\n" for x in lines))


def rehash(run):
    """Makes the stored hashes those of the entries, as a careful forger would."""
    hashes = b"".join(leaf_hash(line) for line in read(run))
    (run / "audit" / "hashes").write_bytes(hashes)


def test_the_original_is_fine(original):
    report = verify_run(original, KEY)
    assert (report.entries, report.signed, report.faults) == (200, 200, ())


# -------------------------------------------------------------------- every single bit


@pytest.mark.thorough
def test_every_single_bit_flip_in_an_entry_is_named(original):
    lines = read(original)
    expected = [leaf_hash(line) for line in lines]
    found, flips = list(expected), 0
    for i, line in enumerate(lines):
        for bit in range(8 * len(line)):
            changed = bytearray(line)
            changed[bit // 8] ^= 1 << bit % 8
            # A flip that makes a newline would change the lines as well: none does.
            assert 0x0A not in changed
            found[i] = leaf_hash(bytes(changed))
            assert first_difference(found, expected) == Difference(i, "altered")
            flips += 1
        found[i] = expected[i]
    assert flips == 8 * sum(map(len, lines)) > 300_000


def test_every_single_bit_flip_of_a_newline_is_named(run):
    path = run / "audit" / "log.jsonl"
    data, end = path.read_bytes(), -1
    lines = read(run)
    for i, line in enumerate(lines):
        end += len(line) + 1
        changed = bytearray(data)
        changed[end] ^= 1 << i % 8
        path.write_bytes(changed)
        (fault,) = faults(run)
        assert fault.startswith((f"entry {i} ", f"entry {i},"))


def test_single_bit_flips_of_the_log_on_the_disk(run):
    path, generator = run / "audit" / "log.jsonl", random.Random(0)
    data = path.read_bytes()
    for _ in range(150):
        at = generator.randrange(8 * len(data))
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        entry = data[: at // 8].count(b"\n")
        (fault,) = faults(run)
        assert fault.startswith((f"entry {entry} ", f"entry {entry},"))


def test_single_bit_flips_of_hashes_and_checkpoints(run):
    generator = random.Random(1)
    for name, every in (("hashes", 5 * 32 * 8), ("checkpoints", 137)):
        path = run / "audit" / name
        data = path.read_bytes()
        for first in range(0, 8 * len(data) - every, every):
            at = first + generator.randrange(every)
            changed = bytearray(data)
            changed[at // 8] ^= 1 << at % 8
            path.write_bytes(changed)
            assert faults(run), (name, at)
        path.write_bytes(data)
    assert not faults(run)


# ------------------------------------------------------------------- whole entries


def swapped(lines, i, j):
    lines = list(lines)
    lines[i], lines[j] = lines[j], lines[i]
    return lines


def altered(line):
    return line.replace(b'"config":"', b'"config":"0')


CHANGES = {
    "altered": lambda x, i: [*x[:i], altered(x[i]), *x[i + 1 :]],
    "removed": lambda x, i: [*x[:i], *x[i + 1 :]],
    "reordered": lambda x, i: swapped(x, i, i + 3),
    "inserted": lambda x, i: [*x[:i], altered(x[i]), *x[i:]],
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("i", [0, 57, 59, 60, 195])
def test_the_first_changed_entry_is_named(run, what, i):
    write(run, CHANGES[what](read(run), i))
    (fault,) = faults(run)
    assert fault.startswith(f"entry {i} (")
    assert fault.endswith(f") was {what}.")


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("i", [0, 57, 60, 195])
def test_a_forger_of_the_hashes_is_bounded_by_the_checkpoints(run, what, i):
    write(run, CHANGES[what](read(run), i))
    rehash(run)
    (fault,) = faults(run)
    first = i // 10 * 10
    assert fault.startswith(f"between entries {first} and {first + 9} (")


def test_copies_of_entries_are_insertions():
    expected = [bytes([i]) for i in range(6)]
    for i in range(6):
        for j in range(6):
            found = [*expected[:i], expected[j], *expected[i:]]
            position = i
            # A copy in front of its original shows behind it.
            while position < 6 and found[position] == expected[position]:
                position += 1
            assert first_difference(found, expected) == Difference(position, "inserted")


def test_what_happened_against_every_small_edit():
    expected = [bytes([i]) for i in range(5)]
    for i in range(5):
        gone = [*expected[:i], *expected[i + 1 :]]
        assert first_difference(gone, expected) == Difference(i, "removed")
        new = [*expected[:i], b"new", *expected[i:]]
        assert first_difference(new, expected) == Difference(i, "inserted")
        changed = [*expected[:i], b"new", *expected[i + 1 :]]
        assert first_difference(changed, expected) == Difference(i, "altered")
        for j in range(i + 1, 5):
            assert first_difference(swapped(expected, i, j), expected) == Difference(
                i, "reordered"
            )


@pytest.mark.parametrize("left", [0, 1, 100, 155, 199])
def test_a_truncated_tail(run, left):
    write(run, read(run)[:left])
    assert faults(run) == (f"entry {left}, behind the last one there, was removed.",)
    rehash(run)
    (fault,) = faults(run)
    assert fault.startswith((f"entry {left // 10 * 10} ", "between entries"))


def test_an_entry_behind_the_end(run):
    lines = read(run)
    write(run, [*lines, lines[-1].replace(b"result", b"uplink")])
    (fault,) = faults(run)
    assert fault.startswith("entry 200 (round 20, uplink")
    assert fault.endswith("was inserted after the last one.")


# ------------------------------------------------------------ what belongs together


def test_a_log_of_another_format_is_refused_in_a_line(tmp_path):
    lines = make_lines(20)
    for first, found in (
        (format_entry(make_entry(0)), 1),
        (lines[0].replace(b'"format":2', b'"format":3'), 3),
    ):
        run = make_run(tmp_path / str(found), [first, *lines[1:]])
        (fault,) = faults(run)
        assert fault.startswith(f"Expected a log of format 2, got {found}:")


def test_a_log_has_the_name_of_its_key_and_its_beginning(tmp_path):
    other = origin_of(KEY, "another")
    run = make_run(tmp_path / "run", make_lines(20), origin=other)
    assert faults(run) == (f"the log of {other} begins as that of {ORIGIN}.",)
    bare = f"{KEY.name}/{RUN_ID}"
    run = make_run(tmp_path / "bare", make_lines(20, origin=bare), origin=bare)
    assert faults(run) == (f"{bare} is not a name of a log of this key.",)


def test_what_does_not_follow(tmp_path):
    lines = make_lines(40)
    entries = [
        # The same round from another model, an earlier round, another configuration.
        make_entry(12)._replace(model="0"),
        make_entry(2),
        make_entry(12)._replace(config="0"),
    ]
    found = []
    for i, entry in enumerate(entries):
        changed = [*lines[:12], format_entry(entry), *lines[13:]]
        (fault,) = faults(make_run(tmp_path / str(i), changed))
        found.append(fault)
    assert all(fault.startswith("entry 12 (round ") for fault in found)
    ends = ["follow from the one before it."] * 2 + ["another configuration."]
    assert all(map(str.endswith, found, ends))
    # A run that had ended goes on in a later round, never in the same one.
    ended = make_lines(20)
    more = [format_entry(make_entry(i)) for i in (20, 21)]
    run = make_run(tmp_path / "more", [*ended, *more, make_lines(32)[-1]])
    (run / "summary.json").unlink()
    assert not faults(run)
    run = make_run(tmp_path / "again", [*ended, ended[-2], ended[-1]])
    assert faults(run)[0].endswith("does not follow from the one before it.")


def test_all_logs_of_a_key_are_reported(run, tmp_path):
    other = origin_of(KEY, "another")
    shorter, longer = (
        make_run(tmp_path / str(n), make_lines(n, origin=other), origin=other)
        for n in (20, 30)
    )
    notes = [
        note
        for one in (longer, run, shorter)
        for note in split_notes((one / "audit" / "checkpoints").read_text())
    ]
    report = verify_run(run, KEY, notes=notes)
    assert not report.faults
    assert report.origin == ORIGIN
    assert f"this key also signed {other}, of 30 entries." in report.remarks
    # A list in which this log is missing does not speak for it.
    theirs = split_notes((longer / "audit" / "checkpoints").read_text())
    (fault,) = verify_run(run, KEY, notes=theirs).faults
    assert fault == f"none of the checkpoints from outside is of {ORIGIN}."


def test_a_run_that_ended_before_its_summary_was_written_is_fine(run):
    assert not any("summary.json" in x for x in verify_run(run, KEY).remarks)
    (run / "summary.json").unlink()
    report = verify_run(run, KEY)
    assert not report.faults
    assert any("there is no summary.json" in x for x in report.remarks)
    assert not any("has not finished" in x for x in report.remarks)


@pytest.mark.parametrize("left", ["no note", "half a note"])
def test_a_run_killed_before_its_last_checkpoint_was_signed_is_fine(run, left):
    path = run / "audit" / "checkpoints"
    *notes, last = split_notes(path.read_text())
    path.write_text("".join(notes) + (last[:-20] if left == "half a note" else ""))
    assert faults(run)  # of a run that has finished it is one
    (run / "summary.json").unlink()
    report = verify_run(run, KEY)
    assert not report.faults
    assert (report.entries, report.signed) == (200, 190)
    assert any("10 entries behind the last" in x for x in report.remarks)
    cut = any("last checkpoint is not whole" in x for x in report.remarks)
    assert cut == (left == "half a note")


@pytest.mark.parametrize("name", ["cosigned", "checkpoints", "hashes"])
def test_a_log_that_grows_while_it_is_read_is_fine(tmp_path, monkeypatch, name):
    lines = make_lines(200)
    run = make_run(tmp_path / "run", lines[:100])
    (run / "summary.json").unlink()
    real, grown = log_module._read, []

    def read(path):
        found = real(path)
        if path.name == name and not grown:  # the run logs a round now
            grown.append(path)
            with Log(run / "audit", SIGNER, ORIGIN) as log:
                log.rewind(log.size)
                log.append(lines[100:110])
                log.checkpoint()
        return found

    monkeypatch.setattr(log_module, "_read", read)
    report = verify_run(run, KEY)
    assert grown
    assert not report.faults
    assert (report.entries, report.signed) == (110, 110 if name == "cosigned" else 100)


def test_another_key_did_not_sign(run):
    other = make_signer("example.com/log", bytes(32))
    (fault,) = verify_run(run, other.verifier).faults
    assert "There is no signature by example.com/log" in fault


def test_a_run_signed_again_has_another_key(original, tmp_path):
    """Who has no private key can only make a log of another key."""
    forged = tmp_path / "forged"
    shutil.copytree(original, forged)
    shutil.rmtree(forged / "audit")
    other = make_signer("example.com/log", bytes(32))
    origin = origin_of(other.verifier, RUN_ID)
    with Log(forged / "audit", other, origin) as log:
        log.append(make_lines(200, salt="forged", origin=origin))
        log.checkpoint()
    assert not verify_run(forged, other.verifier).faults
    assert faults(forged)


def test_two_checkpoints_of_one_size_are_two_histories(run, tmp_path):
    other = make_run(tmp_path / "other", make_lines(200, salt="other"))
    theirs = (other / "audit" / "checkpoints").read_text()
    ours = run / "audit" / "checkpoints"
    ours.write_text(ours.read_text() + theirs)
    assert any("signed two histories" in fault for fault in faults(run))
    ours.write_text(ours.read_text().removesuffix(theirs))
    assert not faults(run)
    assert not faults(run, notes=split_notes(ours.read_text()))


def test_a_checkpoint_of_another_history_that_somebody_kept(run, tmp_path):
    other = make_run(tmp_path / "other", make_lines(200, salt="other"))
    for note in split_notes((other / "audit" / "checkpoints").read_text()):
        (fault,) = faults(run, notes=[note])
        assert fault.startswith("SPLIT HISTORY")
    longer = make_run(tmp_path / "longer", make_lines(210))
    *_, last = split_notes((longer / "audit" / "checkpoints").read_text())
    (fault,) = faults(run, notes=[last])
    assert "a checkpoint of 210 entries, here are 200" in fault
