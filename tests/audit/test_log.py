"""The log on disk: appended to, cut short, killed, opened again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedjax_comp.audit.checkpoint import read_checkpoint
from fedjax_comp.audit.entry import parse_entry
from fedjax_comp.audit.log import COSIGNED, Log, LogError, add_cosigned, read_log
from fedjax_comp.audit.merkle import leaf_hash, root
from fedjax_comp.audit.note import format_note, make_signer, parse_note
from tests.audit.logs import ORIGIN, SIGNER, make_lines

LINES = make_lines(40)


def opened(folder):
    return Log(folder, SIGNER, ORIGIN)


def filled(folder, signed=30, unsigned=5):
    with opened(folder) as log:
        log.append(LINES[:signed])
        log.checkpoint()
        log.append(LINES[signed : signed + unsigned])
    return folder


def signed_size(folder):
    return read_checkpoint(read_log(folder).notes[-1], SIGNER.verifier).size


def test_what_is_appended_is_signed(tmp_path):
    with opened(tmp_path) as log:
        for i, line in enumerate(LINES):
            log.append([line])
            log.checkpoint()
            log.checkpoint()  # nothing new: nothing signed
            assert log.size == log.position == i + 1
    stored = read_log(tmp_path)
    assert stored.lines == LINES
    assert stored.torn == b""
    assert stored.hashes == [leaf_hash(line) for line in LINES]
    assert len(stored.notes) == len(LINES)
    checkpoint = read_checkpoint(stored.notes[16], SIGNER.verifier)
    assert checkpoint == (ORIGIN, 17, root([leaf_hash(x) for x in LINES[:17]]))


def test_entries_logged_before_are_compared_and_not_appended_twice(tmp_path):
    filled(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    with opened(tmp_path) as log:
        assert (log.size, log.position) == (35, 0)
        log.rewind(20)
        log.append(LINES[20:35])
        assert (tmp_path / "log.jsonl").read_bytes() == before
        assert (log.size, log.position) == (35, 35)
        log.append(LINES[35:])
        log.checkpoint()
    assert read_log(tmp_path).lines == LINES
    assert signed_size(tmp_path) == len(LINES)


@pytest.mark.parametrize("at", [20, 32])
def test_an_entry_that_is_not_the_same_again_is_refused(tmp_path, at):
    filled(tmp_path)
    with opened(tmp_path) as log:
        log.rewind(at)
        with pytest.raises(LogError, match=f"Entry {at} differs .*client {at % 10} to"):
            log.append([LINES[at].replace(b'"message":"', b'"message":"0')])
    assert read_log(tmp_path).lines == LINES[:35]


@pytest.mark.parametrize("torn", [b"{", LINES[35][:-1], LINES[35]])
def test_a_line_cut_short_is_removed(tmp_path, torn):
    filled(tmp_path)
    for name, some in (("log.jsonl", torn), ("hashes", b"123")):
        with (tmp_path / name).open("ab") as file:
            file.write(some)
    with opened(tmp_path) as log:
        assert log.size == 35
    stored = read_log(tmp_path)
    assert (stored.lines, stored.torn) == (LINES[:35], b"")
    assert stored.hashes == [leaf_hash(line) for line in LINES[:35]]


def test_garbage_behind_the_last_checkpoint_is_removed(tmp_path):
    # What a loss of power may leave of pages that were never synced.
    filled(tmp_path)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(bytes(100) + b"\n" + LINES[36] + b"\n")
    with opened(tmp_path) as log:
        assert log.size == 35


@pytest.mark.parametrize("cut", [1, 30, 88, 120, 122, 150, 200, 210])
def test_a_checkpoint_cut_short_is_removed(tmp_path, cut):
    filled(tmp_path, 20)
    whole = (tmp_path / "checkpoints").read_bytes()
    with opened(tmp_path) as log:
        log.rewind(25)
        log.append(LINES[25:30])
        log.checkpoint()
    path = tmp_path / "checkpoints"
    data = path.read_bytes()
    assert len(data) > len(whole) + cut
    path.write_bytes(data[:-cut])
    with opened(tmp_path) as log:
        assert log.size == 30
        assert path.read_bytes() == whole
        log.checkpoint()
    assert path.read_bytes() == data  # Ed25519 is deterministic


def test_missing_hashes_are_computed_again(tmp_path):
    filled(tmp_path)
    (tmp_path / "hashes").unlink()
    with opened(tmp_path):
        pass
    assert read_log(tmp_path).hashes == [leaf_hash(line) for line in LINES[:35]]


def test_a_log_that_was_changed_is_not_continued(tmp_path):
    filled(tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"client 3", b"client 4", 1))
    with pytest.raises(LogError, match="is not what its last checkpoint"):
        opened(tmp_path)
    path.write_bytes(b"".join(line + b"\n" for line in LINES[:29]))
    with pytest.raises(LogError, match="is not what its last checkpoint"):
        opened(tmp_path)
    assert path.read_bytes().count(b"\n") == 29  # left for whoever looks into it


def test_another_key_or_another_log_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(LogError, match="There is no signature by"):
        Log(tmp_path, make_signer("example.com/log", bytes(32)), ORIGIN)
    with pytest.raises(LogError, match=r"is of example\.com/log/"):
        Log(tmp_path, SIGNER, "example.com/log")


def test_one_process_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(LogError, match="by another process"):
        opened(tmp_path)
    with opened(tmp_path):
        pass


@pytest.mark.parametrize("entry", [b"a\nb", bytes(65_536)])
def test_what_cannot_be_an_entry(tmp_path, entry):
    with opened(tmp_path) as log, pytest.raises(LogError, match="Expected an entry"):
        log.append([entry])


def test_rewinding_behind_the_end(tmp_path):
    filled(tmp_path)
    with opened(tmp_path) as log, pytest.raises(LogError, match="were removed from"):
        log.rewind(36)


class Disk:
    """What of the log's files has been written, and what of it survives a power cut."""

    def __init__(self, monkeypatch):
        self.written, self.durable = {}, {}
        write, sync = os.write, os.fdatasync

        def recorded_write(file, data):
            # By halves, as a disk that is nearly full does it.
            count = write(file, bytes(data)[: max(1, len(data) // 2)])
            name = self.name(file)
            self.written[name] = self.written.get(name, 0) + count
            if name == "checkpoints":
                # A signature must not cover what a power cut takes away.
                assert self.durable.get("log.jsonl") == self.written["log.jsonl"]
            return count

        def recorded_sync(file):
            sync(file)
            self.durable[self.name(file)] = self.written.get(self.name(file), 0)

        monkeypatch.setattr(os, "write", recorded_write)
        monkeypatch.setattr(os, "fdatasync", recorded_sync)

    def name(self, file):
        return Path(os.readlink(f"/proc/self/fd/{file}")).name


def test_what_is_signed_is_durable(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    with opened(tmp_path) as log:
        for first in range(0, 40, 10):
            log.append(LINES[first : first + 10])
            log.checkpoint()
            # Entries and note, once `checkpoint` returns.
            for name in ("log.jsonl", "checkpoints"):
                size = (tmp_path / name).stat().st_size
                assert disk.durable[name] == disk.written[name] == size
    assert read_log(tmp_path).lines == LINES


def test_what_a_witness_signed_is_durable(tmp_path, monkeypatch):
    filled(tmp_path, 20)
    synced, sync = [], os.fsync

    def recorded(file):
        sync(file)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        synced.append((path, path.stat().st_size))

    monkeypatch.setattr(os, "fsync", recorded)
    note = parse_note(read_log(tmp_path).notes[-1])
    for count in (1, 2):
        add_cosigned(tmp_path, note)
        size = count * len(format_note(note).encode())
        assert synced[0] == (tmp_path / COSIGNED, size)
        assert tmp_path in [path for path, _ in synced[1:]]
        synced.clear()
    assert read_log(tmp_path).cosigned == [format_note(note)] * 2


def test_the_names_of_new_files_are_durable(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def recorded(file):
        sync(file)
        synced.append(os.readlink(f"/proc/self/fd/{file}"))

    monkeypatch.setattr(os, "fsync", recorded)
    folder = tmp_path / "run" / "audit"
    with opened(folder):
        assert {str(folder), str(folder.parent)} <= set(synced)


ENDLESS = """
import sys
from pathlib import Path
from fedjax_comp.audit.log import Log
from tests.audit.logs import ORIGIN, SIGNER, make_entry
from fedjax_comp.audit.entry import format_entry
with Log(Path(sys.argv[1]), SIGNER, ORIGIN) as log:
    position = int(sys.argv[2])
    log.rewind(position)
    print("ready", flush=True)
    for first in range(position, 10**9, 50):
        log.append(format_entry(make_entry(i)) for i in range(first, first + 50))
        log.checkpoint()
        print(first + 50, flush=True)
"""


def test_killed_in_the_middle_of_appending(tmp_path):
    root_folder = Path(__file__).parents[2]
    reported = 0
    for kill in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path), str(reported)],
            cwd=root_folder,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        for _ in range(3 + 7 * kill):
            reported = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # What was reported is there and signed; nothing is there by halves.
        with opened(tmp_path) as log:
            assert log.size >= reported
            assert signed_size(tmp_path) >= reported
        stored = read_log(tmp_path)
        assert stored.torn == b""
        assert len(stored.hashes) == len(stored.lines)
        for i, line in enumerate(stored.lines):
            entry = parse_entry(line)
            assert (entry.round, entry.sender) == (1 + i // 10, f"client {i % 10}")
