"""SIGTERM makes a checkpoint, and every start is on record."""

import json
import os
import signal
import threading

import pytest

from fedjax_comp.hooks import Hook
from fedjax_comp.process import STARTS, TERMINATED, Terminated, differing
from fedjax_comp.run import Schedule
from fedjax_comp.run_directory import RunDirectoryError
from tests.test_hooks import go


def untimed(rows):
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def terminate_after(rounds):
    def after(live, state, dispatch):
        if live.ledger.rounds == rounds:
            os.kill(os.getpid(), signal.SIGTERM)

    return Hook(after=after, every=1)


def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    # No checkpoint is due after round 5.
    with pytest.raises(Terminated, match="after round 5 of 6") as error:
        go(tmp_path / "cut", [terminate_after(5)])
    assert error.value.code == TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (tmp_path / "cut" / "checkpoints" / "5").is_dir()
    cut, *_ = go(tmp_path / "cut", [])
    whole, *_ = go(tmp_path / "whole", [])
    assert untimed(cut.rows) == untimed(whole.rows)
    starts = (tmp_path / "cut" / STARTS).read_text().splitlines()
    assert [json.loads(line)["round"] for line in starts] == [0, 5]


def test_sigterm_in_the_last_round_lets_it_end(tmp_path):
    ledger, *_ = go(tmp_path, [terminate_after(6)])
    assert ledger.rounds == 6


def test_a_run_in_another_thread_is_none_of_its_signals(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(go(tmp_path, [])))
    thread.start()
    thread.join()
    assert done[0][0].rounds == 6


def test_what_is_no_longer_as_it_was_is_said(tmp_path, capsys):
    seen = []

    def begin(live, state):
        seen.append(list(live.changes))
        return state

    with pytest.raises(Terminated):
        go(tmp_path, [terminate_after(4), Hook(begin=begin)])
    assert not capsys.readouterr().err
    path = tmp_path / STARTS
    start = json.loads(path.read_text())
    start["devices"], start["versions"]["jax"] = "64 x abacus", "0.0.1"
    path.write_text(json.dumps(start) + "\n")
    go(tmp_path, [Hook(begin=begin)])
    told = capsys.readouterr().err
    assert "goes on at round 4" in told
    assert "(64 x abacus at first)" in told
    assert "(0.0.1 at first)" in told
    assert seen[0] == []
    assert len(seen[1]) == 2


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(tmp_path, capsys):
    go(tmp_path, [], Schedule(2))
    assert not capsys.readouterr().err
    ledger, *_ = go(tmp_path, [], Schedule(3))
    assert "no checkpoint yet; begins anew" in capsys.readouterr().err
    assert [row["round"] for row in ledger.rows] == [0, 1, 2, 3]


def test_a_damaged_record_of_starts_may_be_deleted(tmp_path):
    go(tmp_path, [])
    starts = tmp_path / STARTS
    starts.write_text(starts.read_text()[:30] + "\n")
    with pytest.raises(RunDirectoryError, match="delete it; the command of the run"):
        go(tmp_path, [])
    starts.unlink()
    go(tmp_path, [])
    assert json.loads(starts.read_text())["round"] == 6


def test_differences_are_of_values_that_are_gone_too():
    assert differing({"git_commit": "a"}, {}) == ["git_commit None (a at first)"]
    assert not differing({"round": 1, "at": "a"}, {"round": 2, "at": "b"})
