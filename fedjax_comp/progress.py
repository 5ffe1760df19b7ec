"""The progress of a run on standard error: a bar on a terminal, lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fedjax_comp.hooks import Hook, Live
from fedjax_comp.metrics import Ledger, Row
from fedjax_comp.report.units import format_bytes
from fedjax_comp.training import Dispatch, TrainState

SECONDS_BETWEEN_LINES = 10.0


def shown() -> Hook:
    """Shows the progress of a run on standard error."""
    bars: list[Progress] = []

    def begin(live: Live, state: TrainState) -> TrainState:
        bar = Progress(live.schedule.num_rounds, live.ledger)
        bars[:] = [live.exits.enter_context(bar)]
        return state

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state, dispatch
        # The last round is shown once, with its accuracy.
        if live.ledger.rounds < live.schedule.num_rounds:
            bars[0].update(live.ledger)

    def row(live: Live, row: Row) -> None:
        if row["round"]:
            bars[0].update(live.ledger)

    return Hook(begin=begin, after=after, row=row)


class Progress:
    """Rounds, accuracy, bytes up and down, steps a second, time left.

    Args:
      num_rounds: rounds in all.
      ledger: the ledger at the start.
    """

    def __init__(self, num_rounds: int, ledger: Ledger) -> None:
        self._num_rounds = num_rounds
        self._started, self._last_line = time.perf_counter(), 0.0
        self._rounds_before, self._steps_before = ledger.rounds, ledger.client_steps
        self._on_terminal = sys.stderr.isatty()
        self._bar = RichProgress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._on_terminal,
        )
        self._task = self._bar.add_task(
            "rounds", total=num_rounds, completed=ledger.rounds, status=""
        )

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def update(self, ledger: Ledger) -> None:
        """Shows the ledger as it is now."""
        if self._on_terminal:
            self._bar.update(
                self._task, completed=ledger.rounds, status=self._status(ledger)
            )
            return
        now = time.perf_counter()
        last = ledger.rounds >= self._num_rounds
        if last or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            done = max(ledger.rounds - self._rounds_before, 1)
            left = (now - self._started) / done * (self._num_rounds - ledger.rounds)
            print(
                f"round {ledger.rounds}/{self._num_rounds}  {self._status(ledger)}  "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def _status(self, ledger: Ledger) -> str:
        seconds = max(time.perf_counter() - self._started, 1e-6)
        speed = (ledger.client_steps - self._steps_before) / seconds
        accuracy = ledger.rows[-1]["test_accuracy"] if ledger.rows else float("nan")
        return (
            f"accuracy {accuracy:.4f}  up {format_bytes(ledger.uplink_bytes)}  "
            f"down {format_bytes(ledger.downlink_bytes)}  {speed:.0f} steps/s"
        )
