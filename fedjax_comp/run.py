"""The host side of a run: dispatches, evaluations, audits, checkpoints, progress.

`run` drives `fedjax_comp.training`'s compiled program to the next round at which the
host is needed, and nothing else happens between. It resumes from the last checkpoint of
its directory and then ends with the parameters and ledger of a run never interrupted.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.audit.note import Signer
from fedjax_comp.audit.recorder import Recorder, host_copy, params_sha256
from fedjax_comp.base import Algorithm, Compressor, Examples, PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.compress.audit import Audit, make_auditor, without_used
from fedjax_comp.metrics import Ledger, rounds_to_target
from fedjax_comp.network.simulation import Simulation
from fedjax_comp.network.steering import admitted
from fedjax_comp.network.timed_cohorts import TimetableClock
from fedjax_comp.progress import Progress
from fedjax_comp.report.events import write_events
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    append_row,
    write_rows,
)
from fedjax_comp.training import (
    Dispatch,
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
    audit_key: Signer | None = None,
    simulation: Simulation | TimetableClock | None = None,
) -> tuple[Ledger, PyTree, Json]:
    """Runs, or resumes, to the end.

    Args:
      directory: the run directory.
      problem: what is run.
      schedule: when the host is needed.
      key: the run's key.
      show_progress: draw a progress bar on standard error.
      audit_key: signs a log of every message (`fedjax_comp.audit`); no log when None.
        Rounds are then dispatched one by one, since each one's messages are needed.
      simulation: links and devices the run is timed on; where these decide who takes
        part, rounds go one by one, too.

    Returns:
      The ledger, the final parameters, and the measured part of the summary.
    """
    if simulation is not None and simulation.steers:
        problem = problem._replace(algorithm=admitted(problem.algorithm))
    state = init_state(key, problem.algorithm, problem.params, problem.num_clients)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(directory.path / "checkpoints"))
        recorder = None
        if audit_key is not None:
            recorder = stack.enter_context(Recorder(directory.path, audit_key))
        restored = checkpoints.restore(state)
        ledger = Ledger()
        if restored is not None:
            state, ledger = restored
        if simulation is not None:
            simulation.begin(ledger)
        write_rows(directory, ledger.rows)
        if recorder is not None:
            recorder.resume(ledger.rounds)
        host = _Host(
            directory,
            problem,
            schedule,
            checkpoints,
            ledger,
            show_progress,
            recorder,
            simulation,
        )
        state = host.drive(state)
        params = problem.algorithm.params(state.server)
        if recorder is not None:
            recorder.finish(ledger.rounds, params)
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
        recorder: Recorder | None,
        simulation: Simulation | TimetableClock | None,
    ) -> None:
        self._directory, self._problem, self._schedule = directory, problem, schedule
        self._checkpoints, self._ledger = checkpoints, ledger
        self._show_progress, self._recorder = show_progress, recorder
        self._simulation = simulation
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
                model = self._model_to_log(state)
                dispatched = time.perf_counter()
                if self._simulation is not None:
                    state = self._simulation.before_round(state, ledger)
                state, dispatch = step(state, data, jnp.int32(num_rounds))
                ledger.record(dispatch.infos, num_rounds)
                if self._simulation is not None:
                    self._simulation.after_round(state, dispatch.infos, ledger)
                took = time.perf_counter() - dispatched
                limit = self._most_rounds(_next_limit(num_rounds, took))
                self._log(model, dispatch)
                ledger.seconds = before + time.perf_counter() - clock
                if self._due(schedule.audit_every):
                    self._audit(dispatch.messages)
                if self._due(schedule.eval_every):
                    evaluate_now(state)
                if self._due(schedule.checkpoint_every) or self._reached():
                    # A checkpoint must not know of rounds that the log may lose.
                    if self._recorder is not None:
                        self._recorder.flush()
                    self._checkpoints.save(state, ledger)
                    write_events(events_path, ledger.rows)
                progress.update(ledger)
        write_events(events_path, ledger.rows)
        return state

    def _compile_rounds(self, state: TrainState) -> tuple[Callable, TrainState, PyTree]:
        problem, algorithm = self._problem, self._problem.algorithm
        if not self._schedule.audit_every:
            algorithm = without_used(algorithm)
        program = round_program(
            algorithm,
            problem.sample,
            max_rounds=self._most_rounds(MAX_ROUNDS_PER_DISPATCH),
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
        ) -> tuple[TrainState, Dispatch]:
            placed = jax.device_put((state, num_rounds), (places[0], places[2]))
            return compiled(placed[0], data, placed[1])

        return step, state, data

    def _compile_evaluation(self, state: TrainState) -> tuple[Callable, Examples]:
        # Shapes alone: a round that uses one device must not bind the evaluation to it.
        params = jax.eval_shape(self._problem.algorithm.params, state.server)
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

    def _most_rounds(self, rounds: int) -> int:
        # A dispatch returns the messages of its last round only, and a simulation
        # gives its orders before each round.
        steered = self._simulation is not None and self._simulation.steers
        alone = self._recorder is not None or steered
        return 1 if alone else rounds

    def _model_to_log(self, state: TrainState) -> PyTree:
        if self._recorder is None:
            return None
        # Copied, because the dispatch takes the state's memory.
        return host_copy(self._problem.algorithm.params(state.server))

    def _log(self, model: PyTree, dispatch: Dispatch) -> None:
        if self._recorder is not None:
            self._recorder.record(self._ledger.rounds, model, dispatch.messages)

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
            "observed": dict(ledger.observed),
            **self._simulated(),
            "audited_messages": ledger.audited_messages,
            "audit_failures": ledger.audit_failures,
            "seconds_total": seconds,
            "seconds_per_round": seconds / ledger.rounds,
            "client_steps_per_second": ledger.client_steps / seconds,
            "compile_seconds": self._compile_seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "params_sha256": params_sha256(params),
        }

    def _simulated(self) -> Json:
        """Time and energy on simulated links, and the time to the target."""
        ledger, target = self._ledger, self._schedule.target_accuracy
        if ledger.simulated_seconds is None:
            return {}
        reached = [
            row["simulated_seconds"]
            for row in ledger.rows
            if target is not None and row["test_accuracy"] >= target
        ]
        return {
            "simulated_seconds": ledger.simulated_seconds,
            "joules": ledger.joules,
            "simulated_seconds_to_target": reached[0] if reached else None,
        }


def _next_limit(num_rounds: int, seconds: float) -> int:
    affordable = int(SECONDS_PER_DISPATCH * num_rounds / max(seconds, 1e-6))
    return max(1, min(affordable, MAX_ROUNDS_PER_DISPATCH, 4 * num_rounds))


def peak_memory_bytes() -> int:
    """The most memory used: of the device where it tells, else of the process."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
