"""The host side of a run: a loop of dispatches and evaluations, with hooks.

`run` calls the compiled program of `fedjax_comp.training` for all rounds up to the next
one at which the host is needed. It resumes from the last checkpoint of its directory,
and ends with the parameters and ledger of a run that was never interrupted. Whatever
else the host does is in hooks (`fedjax_comp.hooks`). Of several processes
(`fedjax_comp.distributed`) the first does all this, and the others follow it.
"""

import contextlib
import dataclasses
import functools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from fedjax_comp import distributed
from fedjax_comp.audit.hooks import audited
from fedjax_comp.audit.recorder import params_sha256
from fedjax_comp.base import MODELS_TOLD, UPDATES_SENT, PyTree
from fedjax_comp.checkpoint import saved
from fedjax_comp.ending import failures_of, note_last_round, updates_made
from fedjax_comp.hooks import Hook, Live, events_kept
from fedjax_comp.metrics import (
    Ledger,
    Row,
    as_written,
    first_at_target,
    interpolated_rounds_to_target,
    to_target,
)
from fedjax_comp.placement import is_split, shared, stored
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.process import (
    Terminated,
    recorded_start,
    signal_noted,
    stopped_by_signal,
)
from fedjax_comp.progress import shown
from fedjax_comp.rounds import (
    compile_placed,
    device_rounds,
    is_eager,
    stored_rounds,
)
from fedjax_comp.run_directory import Json, RunDirectory
from fedjax_comp.training import (
    Evaluation,
    TrainState,
    by_rows,
    first_state,
    for_everyone,
)
from fedjax_comp.wire.accounting import dense_bits

__all__ = ["Hook", "Live", "Problem", "Schedule", "params_sha256", "run"]

MAX_ROUNDS_PER_DISPATCH = 64
SECONDS_PER_DISPATCH = 2.0
"""A dispatch is cut after about this long, so that the progress bar moves."""


def run(
    directory: RunDirectory,
    problem: Problem,
    schedule: Schedule,
    key: jax.Array,
    *,
    hooks: Sequence[Hook] = (),
    show_progress: bool = True,
    client_store: Literal["device", "disk"] = "device",
) -> tuple[Ledger, PyTree, Json]:
    """Runs, or resumes, to the end.

    Args:
      directory: the run directory; of several processes the first uses it, and with a
        store on disk the others keep their clients' rows in theirs.
      problem: what is run.
      schedule: when the host is needed.
      key: the run's key.
      hooks: called around the rounds, in this order: a clock
        (`fedjax_comp.network.simulate`), a log (`fedjax_comp.audit.hooks.logged`),
        trackers of your own. Those that every run has are called before these
        (checkpoints, rows, audits) or after them (events, progress).
      show_progress: draw a progress bar on standard error.
      client_store: where clients' states are between their rounds. With "disk" they are
        in `DIR/clients.rows`, and only those of a cohort take memory; rounds are then
        dispatched one by one, with the same results to the bit.

    Returns:
      The ledger, the final parameters, and the measured part of the summary; the same
      in every process.

    Raises:
      RunDirectoryError: for a directory, or a client's row in it, that is damaged.
      ValueError: when processes were given different problems; for an unknown
        `client_store`.
      fedjax_comp.distributed.PeerLost: when another process has ended.
    """
    if client_store not in ("device", "disk"):
        raise ValueError(f"Expected client_store={client_store!r} 'device' or 'disk'.")
    on_disk = client_store == "disk"
    every_hook = [
        saved(),
        recorded_start(),
        stopped_by_signal(),
        audited(problem.links, schedule.audit_every),
        *hooks,
        events_kept(),
        *([shown()] if show_progress else []),
    ]
    for hook in every_hook:
        problem = problem._replace(algorithm=hook.wrap(problem.algorithm))
    first = first_state(key, problem.algorithm, problem.params)
    state = first
    if not on_disk and is_split(first.clients, every_hook):
        state = by_rows(first, problem.num_clients)
    elif not on_disk:
        state = for_everyone(first, problem.num_clients)
    with distributed.in_step(), distributed.lost_peers_named():
        distributed.require_same_arrays(
            "data and parameters",
            {"data": problem.data, "test": problem.test, "params": problem.params},
        )
        if distributed.is_first():
            return _lead(directory, problem, schedule, state, every_hook, on_disk)
        return _follow(directory, problem, state, on_disk)


def _lead(
    directory: RunDirectory,
    problem: Problem,
    schedule: Schedule,
    state: TrainState,
    hooks: Sequence[Hook],
    on_disk: bool,
) -> tuple[Ledger, PyTree, Json]:
    untrained = params_sha256(problem.algorithm.params(state.server))
    with contextlib.ExitStack() as exits:
        live = Live(directory, problem, schedule, Ledger(), exits)
        if on_disk:
            live.store, state = stored(directory.path, problem, state)
            exits.enter_context(live.store)
        new = state.clients
        for hook in hooks:
            state = hook.begin(live, state)
        state = _drive(live, state, hooks, new)
        params = problem.algorithm.params(state.server)
        for hook in hooks:
            hook.finish(live, params)
    measured = summarise(live, params)
    failures = failures_of(live.ledger, measured["params_sha256"] == untrained)
    measured |= {"failures": failures}
    totals = dataclasses.asdict(live.ledger)
    distributed.tell({"do": "end", "ledger": totals, "measured": measured})
    return live.ledger, params, measured


def _follow(
    directory: RunDirectory, problem: Problem, state: TrainState, on_disk: bool
) -> tuple[Ledger, PyTree, Json]:
    """What the other processes do: what the first tells them, until it has ended."""
    signals: list[bool] = []
    with contextlib.ExitStack() as exits:
        exits.enter_context(signal_noted(lambda: signals.append(True)))
        store = None
        if on_disk:
            store, state = stored(directory.path, problem, state)
            exits.enter_context(store)
        most = distributed.hear()["most"]
        state = shared(state, state.clients)
        if store is None:
            step, state = device_rounds(problem, state, most)
        else:
            distributed.together(functools.partial(store.restore, state.clients))
            step, state = stored_rounds(problem, state, store)
        evaluate = _compile_evaluation(problem, state)
        while True:
            order = distributed.hear()
            if order["do"] == "end":
                params = problem.algorithm.params(distributed.to_here(state).server)
                return Ledger(**order["ledger"]), params, order["measured"]
            if order["do"] == "state":
                state = distributed.share(distributed.to_here(state))
            elif order["do"] in ("give", "take"):
                clients = distributed.obeyed(order, state.clients)
                state = state._replace(clients=clients)
            elif store is not None and order["do"] in ("sync", "committed"):
                store.obeyed(order["do"])
            elif order["do"] == "evaluate":
                jax.block_until_ready(evaluate(problem.algorithm.params(state.server)))
            else:
                state, _ = step(state, order["rounds"])
                jax.block_until_ready(state)
                distributed.anyone(bool(signals))


def _drive(
    live: Live, state: TrainState, hooks: Sequence[Hook], new: PyTree
) -> TrainState:
    """All rounds that are left."""
    schedule, ledger = live.schedule, live.ledger
    # A dispatch returns the messages of its last round only, and orders are given
    # before each dispatch: whoever needs every round has it alone.
    alone = live.store is not None or any(hook.every == 1 for hook in hooks)
    most = 1 if alone else MAX_ROUNDS_PER_DISPATCH
    distributed.tell({"do": "begin", "most": most})
    state = shared(state, new)
    periods = [schedule.eval_every, schedule.checkpoint_every]
    periods = [each for each in (*periods, *(hook.every for hook in hooks)) if each]
    started = time.perf_counter()
    if live.store is None:
        step, state = device_rounds(live.problem, state, most)
    else:
        distributed.together(lambda: None)  # the others restore theirs
        step, state = stored_rounds(live.problem, state, live.store)
    evaluate = _compile_evaluation(live.problem, state)
    live.compile_seconds = time.perf_counter() - started
    before = ledger.seconds

    def seconds() -> float:
        return before + time.perf_counter() - started - live.compile_seconds

    def evaluate_now() -> None:
        distributed.tell({"do": "evaluate"})
        found = evaluate(live.problem.algorithm.params(state.server))
        ledger.seconds = seconds()
        row = ledger.add_row(
            test_accuracy=as_written(found.accuracy),
            test_loss=float(found.loss),
            others={name: float(x) for name, x in found.others.items()},
        )
        for hook in hooks:
            hook.row(live, row)

    if not ledger.rows:
        evaluate_now()
    limit = 1
    reached = _reached(live, ledger.rows)
    while ledger.rounds < schedule.num_rounds and not reached:
        waits = [period - ledger.rounds % period for period in periods]
        num_rounds = min(*waits, schedule.num_rounds - ledger.rounds, limit)
        state = distributed.changed(functools.partial(_before, live, hooks), state)
        distributed.tell({"do": "rounds", "rounds": num_rounds})
        dispatched = time.perf_counter()
        state, dispatch = step(state, num_rounds)
        # At once, as the others do: what fails here later they then hear of.
        others_stop = distributed.anyone(live.stop)
        dispatch = distributed.to_here(dispatch)
        ledger.record(dispatch)
        note_last_round(ledger, dispatch)
        limit = _next_limit(num_rounds, time.perf_counter() - dispatched, most)
        for hook in hooks:
            hook.after(live, distributed.to_here(state), dispatch)
        live.stop = live.stop or others_stop
        ledger.seconds = seconds()
        if live.is_due(schedule.eval_every):
            evaluate_now()
            reached = _reached(live, ledger.rows[-1:])
        if live.is_due(schedule.checkpoint_every) or reached or live.stop:
            for hook in reversed(hooks):
                hook.checkpoint(live, distributed.to_here(state))
        if live.stop and ledger.rounds < schedule.num_rounds:
            raise Terminated(
                f"stopped after round {ledger.rounds} of {schedule.num_rounds}, with a "
                "checkpoint; the same command goes on from there."
            )
    return distributed.to_here(state)


def _before(live: Live, hooks: Sequence[Hook], state: TrainState) -> TrainState:
    for hook in hooks:
        state = hook.before(live, state)
    return state


def _compile_evaluation(
    problem: Problem, state: TrainState
) -> Callable[[PyTree], Evaluation]:
    # Shapes alone: a round that uses one device must not bind the evaluation to it.
    params = jax.eval_shape(problem.algorithm.params, state.server)
    if is_eager():
        return lambda params: problem.evaluate(params, problem.test)
    compiled, put = compile_placed(problem.evaluate, params, problem.test)
    test = put(1, problem.test)

    def evaluate(params: PyTree) -> Evaluation:
        return compiled(put(0, params), test)

    return evaluate


def _next_limit(num_rounds: int, seconds: float, most: int) -> int:
    affordable = int(SECONDS_PER_DISPATCH * num_rounds / max(seconds, 1e-6))
    return max(1, min(affordable, most, 4 * num_rounds))


def _reached(live: Live, rows: Sequence[Row]) -> bool:
    if not live.schedule.stop_at_target:
        return False
    return first_at_target(rows, live.schedule.target_accuracy) is not None


def summarise(live: Live, params: PyTree) -> Json:
    """The measured part of `summary.json`."""
    ledger, target = live.ledger, live.schedule.target_accuracy
    model_bytes = -(-dense_bits(params) // 8)
    seconds = ledger.seconds
    # Where messages without a model go beside, the algorithm counts those with one.
    updates = int(ledger.observed.get(UPDATES_SENT) or ledger.uplink_messages)
    models = int(ledger.observed.get(MODELS_TOLD) or ledger.downlink_messages)
    return {
        "num_parameters": sum(x.size for x in jax.tree.leaves(params)),
        "num_clients": live.problem.num_clients,
        "rounds": ledger.rounds,
        "test_accuracy": ledger.rows[-1]["test_accuracy"],
        "test_loss": ledger.rows[-1]["test_loss"],
        **_last_others(ledger.rows),
        "best_test_accuracy": max(row["test_accuracy"] for row in ledger.rows),
        "target_accuracy": target,
        "interpolated_rounds_to_target": (
            None
            if target is None
            else interpolated_rounds_to_target(ledger.rows, target)
        ),
        **to_target(ledger.rows, target),
        "uplink_bytes": ledger.uplink_bytes,
        "downlink_bytes": ledger.downlink_bytes,
        "total_bytes": ledger.uplink_bytes + ledger.downlink_bytes,
        "dense_uplink_bytes": updates * model_bytes,
        "dense_downlink_bytes": models * model_bytes,
        "uplink_messages": ledger.uplink_messages,
        "downlink_messages": ledger.downlink_messages,
        "overhead_bytes": ledger.overhead_bytes,
        "dropped_updates": ledger.dropped,
        "updates_made": updates_made(dropped=ledger.dropped, sent=updates, told=models),
        "observed": dict(ledger.observed),
        "simulated_seconds": ledger.simulated_seconds,
        "joules": ledger.joules,
        "audited_messages": ledger.audited_messages,
        "audit_failures": ledger.audit_failures,
        "seconds_total": seconds,
        # A target that was met before the first round leaves none to divide by.
        "seconds_per_round": seconds / ledger.rounds if ledger.rounds else None,
        "client_steps_per_second": ledger.client_steps / max(seconds, 1e-9),
        "compile_seconds": live.compile_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "params_sha256": params_sha256(params),
        **({} if live.store is None else live.store.measured()),
    }


def _last_others(rows: Sequence[Row]) -> dict[str, float | None]:
    others = rows[-1].get("test_others", {})
    return {f"test_{name}": value for name, value in others.items()}


def peak_memory_bytes() -> int:
    """The most memory used: of the device where it tells, else of the process."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
