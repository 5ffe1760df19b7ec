"""The process of a run: what it runs on, and how it is asked to stop.

`starts.jsonl` has a line for every start of a run: round, versions, commit, devices.
Float sums depend on all of these, so a run that is resumed elsewhere says what differs.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from fedjax_comp import strict_json
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.run_directory import (
    AGAIN,
    Json,
    RunDirectory,
    describe_code,
    unreadable,
    write_text,
)
from fedjax_comp.training import TrainState

STARTS = "starts.jsonl"

TERMINATED = 128 + signal.SIGTERM
"""The exit status of a command that SIGTERM has ended."""


class Terminated(SystemExit):
    """SIGTERM ended a run, after a checkpoint; the message says at which round."""

    def __init__(self, told: str) -> None:
        super().__init__(TERMINATED)
        self.told = told

    def __str__(self) -> str:
        return self.told


def recorded_start() -> Hook:
    """Adds a line to `starts.jsonl`; says on standard error what has changed.

    A run that begins anew, for want of a checkpoint, says so too. What differs from the
    first start is also in `Live.changes`.
    """

    def begin(live: Live, state: TrainState) -> TrainState:
        before = read_starts(live.directory)
        start = {"round": live.ledger.rounds, "at": _now(), **surroundings()}
        if before:
            live.changes = differing(before[0], start)
        if before and not live.ledger.rounds:
            print(
                f"{live.directory.path}: no checkpoint yet; begins anew.",
                file=sys.stderr,
            )
        elif live.changes:
            print(
                f"{live.directory.path}: goes on at round {live.ledger.rounds} with "
                f"{', '.join(live.changes)}: sums of floats may differ in their last "
                "bits from those of a run that was never interrupted.",
                file=sys.stderr,
            )
        lines = [strict_json.to_text(one) + "\n" for one in [*before, start]]
        write_text(live.directory.path / STARTS, "".join(lines))
        return state

    return Hook(begin=begin)


def surroundings() -> Json:
    """What float results depend on besides flags: versions, commit and devices.

    >>> sorted(surroundings())
    ['devices', 'git_commit', 'versions']
    """
    devices = jax.devices()
    return {
        **describe_code(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def differing(before: Json, now: Json) -> list[str]:
    """What two starts differ in, in words.

    >>> differing({"devices": "2 x cpu"}, {"devices": "1 x cpu"})
    ['devices 1 x cpu (2 x cpu at first)']
    """
    flat = [_flat(before), _flat(now)]
    return [
        f"{name} {flat[1].get(name)} ({flat[0].get(name)} at first)"
        for name in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(name) != flat[1].get(name)
    ]


def _flat(start: Json) -> Json:
    versions = start.get("versions", {})
    kept = {n: x for n, x in start.items() if n not in ("round", "at", "versions")}
    return {**versions, **kept}


def read_starts(directory: RunDirectory) -> list[Json]:
    """Every start of a run so far.

    Raises:
      RunDirectoryError: when their file cannot be read.
    """
    path = directory.path / STARTS
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        return strict_json.parse_lines(text, {"versions": dict})
    except (OSError, ValueError) as error:
        raise unreadable(path, error, AGAIN) from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def signal_noted(note: Callable[[], None]) -> Iterator[None]:
    """Calls `note` when SIGTERM comes, in place of ending.

    Outside the main thread, where no signal arrives, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: note())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped_by_signal() -> Hook:
    """Lets SIGTERM end the run after the dispatch in progress, with a checkpoint.

    Machines that are taken away at short notice say so by SIGTERM. Outside the main
    thread, where no signal arrives, it does nothing.
    """

    def begin(live: Live, state: TrainState) -> TrainState:
        def stop() -> None:
            live.stop = True

        live.exits.enter_context(signal_noted(stop))
        return state

    return Hook(begin=begin)
