"""The time that the tamper-evident log costs, beside the round that it logs.

    python -m experiments.benchmark.audit_log --model=mlp --uplink='qsgd(8)'

Three ways of running the same rounds take turns: without messages, with messages that
are kept and not used, and logged as `--audit_log` logs them. The work of the log in a
round is then timed by itself, part by part, so that its time is not hidden behind the
computation of the next round. Beside seconds by the clock the script prints processor
time of all threads, which other programs disturb less.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from experiments.benchmark.cohort_round import make_cohort
from fedjax_comp import execution, models
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.wrappers import without_used
from fedjax_comp.audit.entry import Entry, format_entry, sha256_hex
from fedjax_comp.audit.log import Log
from fedjax_comp.audit.note import make_signer
from fedjax_comp.audit.recorder import (
    Recorder,
    host_copy,
    params_sha256,
    rows,
)
from fedjax_comp.base import Algorithm, Cohort, Messages, PyTree
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import use_host_cores
from fedjax_comp.keys import make_key
from fedjax_comp.training import Dispatch, TrainState, init_state, round_program
from fedjax_comp.wire.message import to_bytes, to_bytes_all

FLAGS = flags.FLAGS
SIGNER = make_signer("example.com/benchmark", bytes(32))
HEX = "0" * 64
MODELS = {
    "cnn": models.cnn(),
    "mlp": models.mlp(200, 200),
    "small": models.mlp(20, 20),
}


class Seconds(NamedTuple):
    """By the clock, and of processor time."""

    clock: float
    processor: float


class Parts(NamedTuple):
    """What the log does with one round, one after another.

    Attributes:
      model: copying and hashing the model.
      one_by_one: writing every message to bytes, one after another; a log does not.
      serialise: writing all of them to bytes together.
      digest: hashing these bytes.
      store: entries, tree, write, sync, signature, sync.
    """

    model: Seconds
    one_by_one: Seconds
    serialise: Seconds
    digest: Seconds
    store: Seconds


class Program(NamedTuple):
    """A compiled round: its state so far, and how to go on."""

    step: Callable[[TrainState], tuple[TrainState, Dispatch]]
    algorithm: Algorithm
    state: TrainState


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_enum(
        "model", "mlp", list(MODELS), "McMahan et al.'s CNN or 2NN, or a small one."
    )
    flags.DEFINE_string("uplink", "identity()", "Compressor of the uplink.")
    flags.DEFINE_integer("num_clients", 100, "Clients in the cohort.", lower_bound=1)
    flags.DEFINE_integer("examples", 600, "Examples of each client.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 10, "Examples in a local batch.", lower_bound=1)
    flags.DEFINE_integer("rounds", 2, "Rounds timed together.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Times that each is timed.", lower_bound=1)
    flags.DEFINE_string("folder", None, "Where the log is written, on a real disk.")


def compile_round(cohort: Cohort, *, keep_messages: bool) -> Program:
    """One round of federated averaging of all clients, compiled."""
    task = models.classification(
        MODELS[FLAGS.model](num_classes=10), input_shape=(28, 28, 1), scale=1 / 255
    )
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=build("uplink", FLAGS.uplink),
        execution=execution.auto(),
        keep_messages=keep_messages,
    )
    if keep_messages:
        algorithm = without_used(algorithm)
    params = jax.jit(task.init)(make_key(0))
    state = init_state(make_key(1), algorithm, params, FLAGS.num_clients)
    program = round_program(algorithm, lambda key, at, data: data, max_rounds=1)
    compiled = jax.jit(program, donate_argnums=0)

    def step(state: TrainState) -> tuple[TrainState, Dispatch]:
        done = compiled(state, cohort, jnp.int32(1))
        # As a run does, which reads the round's bits.
        jax.block_until_ready(done)
        return done

    state, _ = step(state)
    return Program(step, algorithm, state)


def run_rounds(
    program: Program, count: int, recorder: Recorder | None, first: int
) -> tuple[Program, Seconds]:
    """Runs `count` rounds and returns the seconds of one."""
    state, started = program.state, now()
    for i in range(count):
        model = None
        if recorder is not None:
            model = host_copy(program.algorithm.params(state.server))
        state, dispatch = program.step(state)
        if recorder is not None:
            recorder.record(first + i, model, dispatch.messages)
    if recorder is not None:
        recorder.flush()
    took = Seconds(*(x / count for x in since(started)))
    return program._replace(state=state), took


def now() -> Seconds:
    """The two clocks."""
    return Seconds(time.perf_counter(), time.process_time())


def since(started: Seconds) -> Seconds:
    """What both clocks have gone on by."""
    return Seconds(*(b - a for a, b in zip(started, now(), strict=True)))


def part_by_part(
    params: PyTree, messages: dict[str, Messages], log: Log
) -> tuple[Parts, int, int]:
    """What the log does with a round: seconds, messages and bytes."""
    times = [now()]
    params_sha256(host_copy(params))
    times.append(now())
    for sent in messages.values():
        for row in rows(sent.payload, sent.spoke.shape[0]):
            to_bytes(row)
    times.append(now())
    written = [
        data
        for sent in messages.values()
        for data in to_bytes_all(rows(sent.payload, sent.spoke.shape[0]))
    ]
    times.append(now())
    hashes = [sha256_hex(data) for data in written]
    times.append(now())
    log.append(
        format_entry(Entry(1, "uplink", i, f"client {i}", "server", x, HEX, HEX))
        for i, x in enumerate(hashes)
    )
    log.checkpoint()
    times.append(now())
    parts = Parts(
        *(
            Seconds(b.clock - a.clock, b.processor - a.processor)
            for a, b in itertools.pairwise(times)
        )
    )
    return parts, len(written), sum(map(len, written))


def main(argv: list[str]) -> None:
    del argv
    use_host_cores()
    cohort = make_cohort(FLAGS.num_clients, FLAGS.examples, FLAGS.batch_size)
    plain = compile_round(cohort, keep_messages=False)
    kept = compile_round(cohort, keep_messages=True)
    seconds: dict[str, list[Seconds]] = {"plain": [], "kept": [], "logged": []}
    parts: list[Parts] = []
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        with (
            Recorder(folder, SIGNER) as recorder,
            Log(folder / "parts", SIGNER, SIGNER.verifier.name) as log,
        ):
            for i in range(FLAGS.repeats):
                plain, took = run_rounds(plain, FLAGS.rounds, None, 0)
                seconds["plain"].append(took)
                kept, took = run_rounds(kept, FLAGS.rounds, None, 0)
                seconds["kept"].append(took)
                first = 1 + i * FLAGS.rounds
                kept, took = run_rounds(kept, FLAGS.rounds, recorder, first)
                seconds["logged"].append(took)
                state, dispatch = kept.step(kept.state)
                kept = kept._replace(state=state)
                params = kept.algorithm.params(state.server)
                part, count, size = part_by_part(params, dispatch.messages, log)
                parts.append(part)
    show(seconds, parts, count, size)


def show(
    seconds: dict[str, list[Seconds]], parts: list[Parts], count: int, size: int
) -> None:
    """Prints the table: least seconds, and their shares of the plain round's."""
    print(f"{count} messages, {size / 1e6:.2f} MB a round")
    print("| | s | processor s | of a round | of its processor time |")
    print("| --- | --- | --- | --- | --- |")
    table = {
        "round": seconds["plain"],
        "round that keeps its messages": seconds["kept"],
        "round that is logged": seconds["logged"],
        "model, copied and hashed": [x.model for x in parts],
        "messages to bytes, one by one": [x.one_by_one for x in parts],
        "messages to bytes": [x.serialise for x in parts],
        "hashing the bytes": [x.digest for x in parts],
        "entries, tree, writing, signing, syncing": [x.store for x in parts],
        "**the logging itself**": [added(x.model, x.digest, x.store) for x in parts],
        "**with messages to bytes**": [
            added(x.model, x.serialise, x.digest, x.store) for x in parts
        ],
    }
    whole = least(seconds["plain"])
    for name, values in table.items():
        clock, processor = least(values)
        print(
            f"| {name} | {clock:.4f} | {processor:.4f} "
            f"| {100 * clock / whole.clock:.2f} % "
            f"| {100 * processor / whole.processor:.2f} % |"
        )


def added(*parts: Seconds) -> Seconds:
    """One after the other."""
    return Seconds(sum(x.clock for x in parts), sum(x.processor for x in parts))


def least(values: list[Seconds]) -> Seconds:
    """The least of each clock."""
    return Seconds(min(x.clock for x in values), min(x.processor for x in values))


if __name__ == "__main__":
    define_flags()
    app.run(main)
