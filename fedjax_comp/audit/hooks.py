"""Hooks that write all of a run's messages to a log, and audit some of them."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np

from fedjax_comp.algorithms.wrappers import without_used
from fedjax_comp.audit.log import LogError
from fedjax_comp.audit.note import Signer
from fedjax_comp.audit.recorder import Recorder, host_copy
from fedjax_comp.base import Compressor, Messages, PyTree
from fedjax_comp.compress.audit import Audit, make_auditor
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.metrics import Row
from fedjax_comp.training import Dispatch, TrainState
from fedjax_comp.wire.traffic import sent


def logged(signer: Signer, run_id: str | None = None) -> Hook:
    """Keeps a tamper-evident log of every message and evaluation in `DIR/audit`.

    Args:
      signer: the log's key.
      run_id: the run's id in the log's name; made from `config.json` when None.

    Returns:
      A hook for rounds one by one; the algorithm must keep its messages. A checkpoint
      waits until the log is durable, so that none knows of a round that the log lost.
    """
    opened: list[Recorder] = []
    model: list[PyTree] = [None]

    def begin(live: Live, state: TrainState) -> TrainState:
        recorder = Recorder(live.directory.path, signer, run_id)
        opened[:] = [live.exits.enter_context(recorder)]
        opened[0].resume(live.ledger.rounds, len(live.ledger.rows))
        return state

    def before(live: Live, state: TrainState) -> TrainState:
        # Copied, because the dispatch takes the state's memory.
        model[0] = host_copy(live.problem.algorithm.params(state.server))
        return state

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state
        _require_messages("--audit_log", dispatch)
        with _cause_named(live):
            opened[0].record(live.ledger.rounds, model[0], dispatch.messages)

    def row(live: Live, row: Row) -> None:
        with _cause_named(live):
            opened[0].record_row(live.ledger.rounds, row)

    def checkpoint(live: Live, state: TrainState) -> None:
        del state
        with _cause_named(live):
            opened[0].flush()

    def finish(live: Live, params: PyTree) -> None:
        with _cause_named(live):
            opened[0].finish(live.ledger.rounds, params)

    return Hook(
        begin=begin,
        before=before,
        after=after,
        row=row,
        checkpoint=checkpoint,
        finish=finish,
        every=1,
    )


@contextlib.contextmanager
def _cause_named(live: Live) -> Iterator[None]:
    """Adds to the log's refusal what is no longer as when the run began."""
    try:
        yield
    except LogError as error:
        if not live.changes:
            raise
        raise LogError(
            f"{error} The run went on with {', '.join(live.changes)}: go on as it "
            "began, or choose another --workdir."
        ) from error


def audited(links: Mapping[str, Compressor], every: int) -> Hook:
    """Audits the messages of every so many rounds, and counts them in the ledger.

    Args:
      links: kind to the compressor of its messages.
      every: period in rounds; the last round is audited too. 0 audits nothing.

    Returns:
      A hook that raises `ValueError` where messages were sent and none was kept.
    """
    if not every:
        return Hook(wrap=without_used)
    auditors = {name: make_auditor(link) for name, link in links.items()}
    compiled: set[str] = set()

    def compile_for(live: Live, kind: str, messages: Messages) -> None:
        """Audits one message of a kind for nothing: what that compiles, all need."""
        started = time.perf_counter()
        spoke = np.asarray(messages.spoke)
        first = spoke & (np.cumsum(spoke) == 1)
        auditors[kind](messages._replace(spoke=first))
        live.compile_seconds += time.perf_counter() - started
        compiled.add(kind)

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state
        if not live.is_due(every):
            return
        ledger = live.ledger
        _require_messages("--audit_every", dispatch)
        for kind, messages in dispatch.messages.items():
            if kind not in compiled:
                compile_for(live, kind, messages)
            audit: Audit = auditors[kind](messages)
            ledger.audited_messages += audit.audited
            ledger.audit_failures += len(audit.failures)
            for failure in audit.failures:
                print(
                    f"audit of round {ledger.rounds}, {kind}: {failure}",
                    file=sys.stderr,
                )

    return Hook(after=after, every=every)


def _require_messages(flag: str, dispatch: Dispatch) -> None:
    if not dispatch.messages and sent(dispatch.infos.traffic).bits.size:
        raise ValueError(
            f"{flag} needs an algorithm that keeps its messages: make it with "
            "keep_messages=True."
        )
