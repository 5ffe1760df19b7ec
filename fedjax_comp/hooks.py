"""What the host does between the rounds of a run, as functions that `run` calls.

A `Hook` is all that `fedjax_comp.run.run` knows of checkpoints, logs, audits, clocks
and progress, and of what you add yourself:

    def on_row(live, row):
        if row["test_accuracy"] > 0.9:
            live.stop = True

    run(directory, problem, schedule, key, hooks=[Hook(row=on_row)])

A tracker is one line: `hooks=[forwarded(wandb.log)]`, or of `mlflow.log_metrics`.

Hooks are called in the order of their list, but `checkpoint` in the reverse order.
`run` puts the one that saves checkpoints first. So its `begin` restores the ledger
before any other hook looks at it, and its `checkpoint` saves last: by then the log has
made its rounds durable, and all that a clock or an audit must not forget is in the
ledger. A hook that keeps files of its own makes them durable in `checkpoint`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedjax_comp.base import Algorithm, PyTree
from fedjax_comp.extras import goes_with
from fedjax_comp.metrics import Ledger, Row
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.report.events import Events
from fedjax_comp.run_directory import RunDirectory
from fedjax_comp.shared_store import SharedStore
from fedjax_comp.training import Dispatch, TrainState


@dataclasses.dataclass
class Live:
    """A run in progress, as its hooks see it.

    Attributes:
      directory: the run directory.
      problem: what is run, its algorithm as the hooks have wrapped it.
      schedule: when the host is needed.
      ledger: the totals so far; hooks may add to it.
      exits: closes what hooks have opened, however the run ends.
      changes: what differs from the machine and the code of the first start, in words.
      store: the clients' states, where they are kept on disk: `TrainState.clients` is
        then an `Index` and no hook can look into them; else None.
      compile_seconds: what compiling has taken, which `Ledger.seconds` leaves out;
        hooks add what theirs takes.
      stop: set by a hook, it ends the run after the dispatch in progress, with a
        checkpoint: the same command resumes there.
    """

    directory: RunDirectory
    problem: Problem
    schedule: Schedule
    ledger: Ledger
    exits: contextlib.ExitStack
    changes: Sequence[str] = ()
    store: SharedStore | None = None
    compile_seconds: float = 0.0
    stop: bool = False

    def is_due(self, period: int) -> bool:
        """Whether something of this period is due after the rounds done so far.

        Whatever has a period is also due after the last round; a period of 0 is never.
        """
        done = self.ledger.rounds
        last = done == self.schedule.num_rounds
        return period != 0 and (last or done % period == 0)


def _same_algorithm(algorithm: Algorithm) -> Algorithm:
    return algorithm


def _same_state(live: Live, state: TrainState) -> TrainState:
    del live
    return state


def _nothing(*arguments: object) -> None:
    del arguments


class Hook(NamedTuple):
    """Functions called around the dispatches of a run; each does nothing by default.

    Attributes:
      wrap: `(algorithm) -> algorithm`, once, before the state is made.
      begin: `(live, state) -> state`, once, before the first evaluation. Files are
        opened here, with `live.exits`.
      before: `(live, state) -> state`, before every dispatch; `live.ledger` is that of
        the rounds done.
      after: `(live, state, dispatch)`, after every dispatch, its rounds in the ledger
        and not yet evaluated.
      row: `(live, row)`, after every evaluation, that before the first round included.
      checkpoint: `(live, state)`, when a checkpoint is due; called in reverse order.
      finish: `(live, params)`, once, after the last round.
      whole_clients: whether the hook reads or changes the states of all clients. With
        several processes, each then holds all of these. Otherwise each process has in
        `state.clients` only the rows of its own devices (in `begin` they are read by
        rows, `fedjax_comp.by_rows`), and no hook can look into it.
      every: a dispatch ends at every multiple of so many rounds (0: anywhere). A hook
        that needs the messages of every round sets 1, since a dispatch returns those of
        its last round only.
    """

    wrap: Callable[[Algorithm], Algorithm] = _same_algorithm
    begin: Callable[[Live, TrainState], TrainState] = _same_state
    before: Callable[[Live, TrainState], TrainState] = _same_state
    after: Callable[[Live, TrainState, Dispatch], None] = _nothing
    row: Callable[[Live, Row], None] = _nothing
    checkpoint: Callable[[Live, TrainState], None] = _nothing
    finish: Callable[[Live, PyTree], None] = _nothing
    every: int = 0
    whole_clients: bool = False


def forwarded(log: Callable[..., object]) -> Hook:
    """Hands every evaluation's numbers to a tracker, whichever it is.

    `log` is called as `log(numbers, step=round)`, which is how `wandb.log` and
    `mlflow.log_metrics` are called; for another tracker write an adapter of two lines.
    Numbers that are not known yet (None) are left out, and what an algorithm observes
    is named `observed/NAME`. A run that resumes makes the rows after its checkpoint
    again, and hands them over again.

    Args:
      log: the tracker's, opened before the run and closed after it.

    Returns:
      A `Hook` for `fedjax_comp.run.run`.

    >>> class Tracker:
    ...     def log(self, numbers, step):
    ...         print(step, numbers)
    >>> hook = forwarded(Tracker().log)
    >>> row = {"round": 5, "test_accuracy": 0.9, "joules": None, "observed": {"a": 2}}
    >>> hook.row(None, row)
    5 {'test_accuracy': 0.9, 'observed/a': 2}
    """

    def row(live: Live, row: Row) -> None:
        del live
        known: dict[str, object] = {}
        for name, value in row.items():
            nested = value.items() if isinstance(value, dict) else ()
            known |= {f"{name}/{key}": each for key, each in nested} or {name: value}
        numbers = {k: v for k, v in known.items() if isinstance(v, int | float)}
        log(numbers, step=numbers.pop("round"))

    return Hook(row=row)


def events_kept() -> Hook:
    """Writes each row, as it is made, to `events/` for TensorBoard.

    A resumed run writes all events anew, since the rows after its checkpoint will be
    made again. Without tensorboardX (the extra `report`) it says so and does nothing.
    """
    if not goes_with("tensorboardX", extra="report", purpose="TensorBoard events"):
        return Hook()
    opened: list[Events] = []

    def begin(live: Live, state: TrainState) -> TrainState:
        events = Events(live.directory.path / "events", live.ledger.rows)
        opened[:] = [live.exits.enter_context(events)]
        return state

    def row(live: Live, row: Row) -> None:
        del live
        opened[0].append(row)

    def checkpoint(live: Live, state: TrainState) -> None:
        del live, state
        opened[0].flush()

    return Hook(begin=begin, row=row, checkpoint=checkpoint)
