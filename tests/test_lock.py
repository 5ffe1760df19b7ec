"""A run directory is one process's at a time."""

import subprocess
import sys

import pytest

from fedjax_comp.lock import Locked, hold
from fedjax_comp.run_directory import RunDirectoryError, open_run

HOLDS = """
import sys
from pathlib import Path
from fedjax_comp.lock import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path, other):
    with pytest.raises(Locked, match=f"process {other.pid} on "):
        hold(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"is in use by process {other.pid}"):
        open_run(tmp_path, "a", {})
    assert not (tmp_path / "config.json").exists()
    other.kill()
    other.wait()
    assert open_run(tmp_path, "a", {}).lock is not None


def test_one_process_shares_its_lock_and_lets_go_of_it(tmp_path):
    first, second = hold(tmp_path), hold(tmp_path / ".." / tmp_path.name)
    assert first is second
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    del first

    def tries():
        done = subprocess.run(
            command, capture_output=True, text=True, input="", check=False
        )
        return done.stdout

    assert tries() == ""
    del second
    assert tries() == "held\n"
