"""Whatever is done to a log is found, and the first entry it was done to is named."""

import json
import random
import shutil

import pytest

from fedjax_comp.audit.differences import Difference, first_difference
from fedjax_comp.audit.log import Log
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import make_signer, split_notes
from fedjax_comp.audit.verify import verify_run
from tests.audit.logs import ORIGIN, SIGNER, make_lines, make_run

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


CHANGES = {
    "altered": lambda x, i: [*x[:i], x[i].replace(b"uplink", b"uplinx"), *x[i + 1 :]],
    "removed": lambda x, i: [*x[:i], *x[i + 1 :]],
    "reordered": lambda x, i: swapped(x, i, i + 3),
    "inserted": lambda x, i: [*x[:i], x[i].replace(b"uplink", b"uplinx"), *x[i:]],
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
    assert fault.startswith(f"between entries {first} and {first + 9} (round ")


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


def test_the_configuration_and_the_summary_belong_to_the_log(run):
    config, summary = run / "config.json", run / "summary.json"
    config.write_text('{"seed": 1}')
    assert "config.json is not the one that was run" in faults(run)[0]
    config.unlink()
    assert "config.json is not the one that was run" in faults(run)[0]
    config.write_text("{}")
    said = json.loads(summary.read_text())
    summary.write_text(json.dumps({**said, "params_sha256": "0" * 64}))
    assert "has parameters 000" in faults(run)[0]
    summary.write_text("no JSON")
    assert "cannot be read" in faults(run)[0]


def test_a_run_that_ended_before_its_summary_was_written_is_fine(run):
    (run / "summary.json").unlink()
    assert not faults(run)


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
    with Log(forged / "audit", other, ORIGIN) as log:
        log.append(make_lines(200, salt="forged"))
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
