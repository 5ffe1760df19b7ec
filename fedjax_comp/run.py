"""The host side of a run: dispatches, evaluations, audits, checkpoints, progress.

`run` drives `fedjax_comp.training`'s compiled program to the next round at which the
host is needed, and nothing else happens between. It resumes from the last checkpoint of
its directory and then ends with the parameters and ledger of a run never interrupted.
"""

import hashlib
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Algorithm, Compressor, Examples, PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.compress.audit import Audit, make_auditor
from fedjax_comp.metrics import Ledger, rounds_to_target
from fedjax_comp.progress import Progress
from fedjax_comp.report.events import write_events
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    append_row,
    write_rows,
)
from fedjax_comp.training import (
    Evaluation,
    Sampler,
    TrainState,
    init_state,
    round_program,
)
from fedjax_comp.wire.accounting import dense_bits


class Problem(NamedTuple):
    """What is run: an algorithm on data, and how its model is evaluated.

    Attributes:
      algorithm: the algorithm.
      sample: draws each round's cohort.
      data: what `sample` draws from, a tree of arrays.
      params: the initial model.
      num_clients: `K`.
      evaluate: `(params, test) -> Evaluation`, not yet jitted.
      test: the test examples.
      links: direction to the `Compressor` of its messages, for audits.
    """

    algorithm: Algorithm
    sample: Sampler
    data: PyTree
    params: PyTree
    num_clients: int
    evaluate: Callable[[PyTree, Examples], Evaluation]
    test: Examples
    links: dict[str, Compressor]


class Schedule(NamedTuple):
    """When the host is needed; every period counts rounds, 0 is never.

    Attributes:
      num_rounds: rounds in all.
      eval_every: period of evaluations (the last round is always evaluated).
      checkpoint_every: period of checkpoints (the last round then has one too).
      audit_every: period of audits.
      target_accuracy: the accuracy to count rounds to, or None.
      stop_at_target: end the run at the first evaluation that reaches it.
    """

    num_rounds: int
    eval_every: int = 1
    checkpoint_every: int = 0
    audit_every: int = 0
    target_accuracy: float | None = None
    stop_at_target: bool = False


MAX_ROUNDS_PER_DISPATCH = 64
SECONDS_PER_DISPATCH = 2.0
"""A dispatch is cut after about this long, so that the progress bar moves."""


def run(
    directory: RunDirectory,
    problem: Problem,
    schedule: Schedule,
    key: jax.Array,
    *,
    show_progress: bool = True,
) -> tuple[Ledger, PyTree, Json]:
    """Runs, or resumes, to the end.

    Args:
      directory: the run directory.
      problem: what is run.
      schedule: when the host is needed.
      key: the run's key.
      show_progress: draw a progress bar on standard error.

    Returns:
      The ledger, the final parameters, and the measured part of the summary.
    """
    state = init_state(key, problem.algorithm, problem.params, problem.num_clients)
    with Checkpoints(directory.path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(state)
        ledger = Ledger()
        if restored is not None:
            state, ledger = restored
        write_rows(directory, ledger.rows)
        host = _Host(directory, problem, schedule, checkpoints, ledger, show_progress)
        state = host.drive(state)
    params = problem.algorithm.params(state.server)
    return ledger, params, host.summary(params)


class _Host:
    """The compiled programs of a run and what the host does between their calls."""

    def __init__(
        self,
        directory: RunDirectory,
        problem: Problem,
        schedule: Schedule,
        checkpoints: Checkpoints,
        ledger: Ledger,
        show_progress: bool,
    ) -> None:
        self._directory, self._problem, self._schedule = directory, problem, schedule
        self._checkpoints, self._ledger = checkpoints, ledger
        self._show_progress = show_progress
        self._auditors = {
            name: make_auditor(link) for name, link in problem.links.items()
        }
        self._compile_seconds = 0.0

    def drive(self, state: TrainState) -> TrainState:
        schedule, ledger = self._schedule, self._ledger
        started = time.perf_counter()
        step, state, data = self._compile_rounds(state)
        evaluate, test = self._compile_evaluation(state)
        self._compile_seconds = time.perf_counter() - started
        progress = Progress(schedule.num_rounds, ledger, enabled=self._show_progress)
        events_path = self._directory.path / "events"
        clock, before = time.perf_counter(), ledger.seconds
        limit = 1

        def evaluate_now(state: TrainState) -> None:
            params = self._problem.algorithm.params(state.server)
            loss, accuracy = evaluate(params, test)
            ledger.seconds = before + time.perf_counter() - clock
            row = ledger.add_row(test_accuracy=float(accuracy), test_loss=float(loss))
            append_row(self._directory, row)

        with progress:
            if not ledger.rows:
                evaluate_now(state)
            while ledger.rounds < schedule.num_rounds and not self._reached():
                num_rounds = min(self._rounds_until_needed(), limit)
                dispatched = time.perf_counter()
                state, dispatch = step(state, data, jnp.int32(num_rounds))
                ledger.record(dispatch.infos, num_rounds)
                took = time.perf_counter() - dispatched
                limit = _next_limit(num_rounds, took)
                ledger.seconds = before + time.perf_counter() - clock
                if self._due(schedule.audit_every):
                    self._audit(dispatch.messages)
                if self._due(schedule.eval_every):
                    evaluate_now(state)
                if self._due(schedule.checkpoint_every) or self._reached():
                    self._checkpoints.save(state, ledger)
                    write_events(events_path, ledger.rows)
                progress.update(ledger)
        write_events(events_path, ledger.rows)
        return state

    def _compile_rounds(self, state: TrainState) -> tuple[Callable, TrainState, PyTree]:
        problem = self._problem
        program = round_program(
            problem.algorithm, problem.sample, max_rounds=MAX_ROUNDS_PER_DISPATCH
        )
        compiled = (
            jax.jit(program, donate_argnums=0, keep_unused=True)
            .lower(state, problem.data, jnp.int32(1))
            .compile()
        )
        places, _ = compiled.input_shardings
        state, data = jax.device_put((state, problem.data), (places[0], places[1]))

        def step(
            state: TrainState, data: PyTree, num_rounds: jax.Array
        ) -> tuple[TrainState, PyTree]:
            placed = jax.device_put((state, num_rounds), (places[0], places[2]))
            return compiled(placed[0], data, placed[1])

        return step, state, data

    def _compile_evaluation(self, state: TrainState) -> tuple[Callable, Examples]:
        params = self._problem.algorithm.params(state.server)
        compiled = (
            jax.jit(self._problem.evaluate).lower(params, self._problem.test).compile()
        )
        places, _ = compiled.input_shardings
        test = jax.device_put(self._problem.test, places[1])

        def evaluate(params: PyTree, test: Examples) -> Evaluation:
            return compiled(jax.device_put(params, places[0]), test)

        return evaluate, test

    def _rounds_until_needed(self) -> int:
        schedule, done = self._schedule, self._ledger.rounds
        periods = (
            schedule.eval_every,
            schedule.checkpoint_every,
            schedule.audit_every,
        )
        waits = [period - done % period for period in periods if period]
        return min([*waits, schedule.num_rounds - done])

    def _due(self, period: int) -> bool:
        done = self._ledger.rounds
        last = done == self._schedule.num_rounds and period != 0
        return last or (period != 0 and done % period == 0)

    def _reached(self) -> bool:
        schedule, rows = self._schedule, self._ledger.rows
        if not schedule.stop_at_target or schedule.target_accuracy is None:
            return False
        return any(row["test_accuracy"] >= schedule.target_accuracy for row in rows)

    def _audit(self, messages: dict[str, PyTree]) -> None:
        for name, sent in messages.items():
            audit: Audit = self._auditors[name](sent)
            self._ledger.audited_messages += audit.audited
            self._ledger.audit_failures += len(audit.failures)
            for failure in audit.failures:
                print(
                    f"audit of round {self._ledger.rounds}, {name}: {failure}",
                    file=sys.stderr,
                )

    def summary(self, params: PyTree) -> Json:
        """The measured part of `summary.json`."""
        ledger, schedule = self._ledger, self._schedule
        model_bytes = -(-dense_bits(params) // 8)
        target = schedule.target_accuracy
        seconds = ledger.seconds
        return {
            "num_parameters": sum(x.size for x in jax.tree.leaves(params)),
            "num_clients": self._problem.num_clients,
            "rounds": ledger.rounds,
            "test_accuracy": ledger.rows[-1]["test_accuracy"],
            "test_loss": ledger.rows[-1]["test_loss"],
            "best_test_accuracy": max(row["test_accuracy"] for row in ledger.rows),
            "target_accuracy": target,
            "rounds_to_target": (
                None if target is None else rounds_to_target(ledger.rows, target)
            ),
            "uplink_bytes": ledger.uplink_bytes,
            "downlink_bytes": ledger.downlink_bytes,
            "dense_uplink_bytes": ledger.uplink_messages * model_bytes,
            "dense_downlink_bytes": ledger.downlink_messages * model_bytes,
            "uplink_messages": ledger.uplink_messages,
            "downlink_messages": ledger.downlink_messages,
            "overhead_bytes": ledger.overhead_bytes,
            "dropped_updates": ledger.dropped,
            "audited_messages": ledger.audited_messages,
            "audit_failures": ledger.audit_failures,
            "seconds_total": seconds,
            "seconds_per_round": seconds / ledger.rounds,
            "client_steps_per_second": ledger.client_steps / seconds,
            "compile_seconds": self._compile_seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "params_sha256": params_sha256(params),
        }


def _next_limit(num_rounds: int, seconds: float) -> int:
    affordable = int(SECONDS_PER_DISPATCH * num_rounds / max(seconds, 1e-6))
    return max(1, min(affordable, MAX_ROUNDS_PER_DISPATCH, 4 * num_rounds))


def params_sha256(params: PyTree) -> str:
    """SHA-256 of the parameters' bytes, leaf by leaf in the order of their paths."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for _, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def peak_memory_bytes() -> int:
    """The most memory used: of the device where it tells, else of the process."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
