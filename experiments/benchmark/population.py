"""Cost of 10^6 clients with error feedback, whose states do not fit into memory.

    python -m experiments.benchmark.population --folder=/a/real/disk

Every part is a separate process, so that its peak memory can be measured:

    run      all rounds with `client_store="disk"`, to the end
    killed   the same, ended by SIGKILL between two checkpoints, and resumed
    turns    rounds with the store and rounds on the device take turns
    cohort   memory of a round against the size of its cohort

Clients hold images of MNIST. There are fewer images than clients, so clients share
them: each has `--examples` different ones (`iid(size=20)`).
"""

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from fedjax_comp import data, models
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.client_store import empty_index
from fedjax_comp.execution import auto
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import use_host_cores
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.keys import make_key
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.rounds import compiled_program, stored_rounds
from fedjax_comp.run import run
from fedjax_comp.run_directory import open_run
from fedjax_comp.shared_store import SharedStore
from fedjax_comp.training import (
    Dispatch,
    TrainState,
    evaluation_program,
    first_state,
    init_state,
    round_program,
    uniform_cohorts,
)

FLAGS = flags.FLAGS
PARTS = ("run", "killed", "turns", "cohort")
OWN = (
    "clients",
    "fitting",
    "cohort",
    "large_cohort",
    "examples",
    "rounds",
    "checkpoint_every",
    "block",
    "repeats",
    "uplink",
)
"""Flags that a part's process is given as well."""
GB = 1e9

Rounds = Callable[[int], None]
"""Runs so many rounds."""


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    whole = flags.DEFINE_integer
    whole("clients", 1_000_000, "Clients in the population.", lower_bound=1)
    whole("fitting", 1_000, "Clients that fit on the device.", lower_bound=1)
    whole("cohort", 100, "Clients in a round.", lower_bound=1)
    whole("large_cohort", 1_000, "Clients in a large cohort.", lower_bound=1)
    whole("examples", 20, "Images of each client.", lower_bound=1)
    whole("rounds", 60, "Rounds of a run.", lower_bound=2)
    whole("checkpoint_every", 20, "Rounds between checkpoints.", lower_bound=1)
    whole("block", 5, "Rounds in one turn.", lower_bound=1)
    whole("repeats", 5, "Turns of each.", lower_bound=1)
    flags.DEFINE_string("uplink", "error_feedback(top_k(0.01))", "Compressor.")
    flags.DEFINE_string("folder", None, "Where runs are written, on a real disk.")
    flags.DEFINE_multi_enum("part", list(PARTS), PARTS, "What is measured.")
    flags.DEFINE_string("child", None, "Set by the script for its own processes.")


def make_problem(num_clients: int, cohort_size: int) -> Problem:
    """Federated averaging of the 2NN with memory at every client."""
    task = models.classification(
        models.mlp(200, 200)(10), input_shape=(28, 28, 1), scale=1 / 255
    )
    images = data.iid(size=FLAGS.examples)
    held = data.federate(data.load("mnist"), images, num_clients=num_clients, seed=0)
    return Problem(
        algorithm=fed_avg(
            task,
            client_optimizer=optax.sgd(0.1),
            uplink=build("uplink", FLAGS.uplink),
            execution=auto(),
        ),
        sample=uniform_cohorts(cohort_size=cohort_size, epochs=1, batch_size=10),
        data=held,
        params=jax.jit(task.init)(make_key(0)),
        num_clients=num_clients,
        evaluate=evaluation_program(task, auto(), batch_size=500),
        test=held.test,
        links={},
    )


def peak_gb() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def run_child(folder: Path) -> dict[str, Any]:
    """A whole run, or what is left of it."""
    clock = [time.perf_counter()]
    file_bytes = [0]

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state, dispatch
        clock.append(time.perf_counter())
        if live.store is not None:
            file_bytes[0] = live.store.own.store.bytes_on_disk
        (folder / "rounds").write_text(str(live.ledger.rounds))

    _, _, measured = run(
        open_run(folder, "population", {}),
        make_problem(FLAGS.clients, FLAGS.cohort),
        Schedule(FLAGS.rounds, FLAGS.rounds, FLAGS.checkpoint_every),
        make_key(1),
        hooks=[Hook(after=after)],
        show_progress=False,
        client_store="disk",
    )
    kept = ("params_sha256", "uplink_bytes", "test_accuracy", "client_store_clients")
    return {
        **{name: measured[name] for name in kept},
        "peak_gb": peak_gb(),
        "file_gb": file_bytes[0] / GB,
        "checkpoint_mb": sum(
            p.stat().st_size for p in (folder / "checkpoints").rglob("*") if p.is_file()
        )
        / 1e6,
        "seconds": measured["seconds_total"],
        "median_round_seconds": statistics.median(np.diff(clock[1:]).tolist()),
        "wait_share": measured["client_store_wait_seconds"] / measured["seconds_total"],
    }


def on_device(num_clients: int) -> Rounds:
    """Rounds of a state that is on the device."""
    problem = make_problem(num_clients, FLAGS.cohort)
    state = init_state(make_key(1), problem.algorithm, problem.params, num_clients)
    program = round_program(problem.algorithm, problem.sample, max_rounds=64)
    step, state = compiled_program(program, problem.data, state)
    held = [state]

    def rounds(count: int) -> None:
        held[0], dispatch = step(held[0], count)
        jax.block_until_ready(dispatch)

    return rounds


def on_disk(
    num_clients: int, cohort_size: int, folder: Path
) -> tuple[Rounds, SharedStore]:
    """Rounds of a state whose clients are on disk."""
    problem = make_problem(num_clients, cohort_size)
    state = first_state(make_key(1), problem.algorithm, problem.params)
    folder.mkdir()
    store = SharedStore(folder, state.clients, num_clients)
    state = state._replace(clients=empty_index(num_clients))
    step, state = stored_rounds(problem, state, store)
    held = [state]

    def rounds(count: int) -> None:
        for _ in range(count):
            held[0], dispatch = step(held[0], 1)
            jax.block_until_ready(dispatch)

    return rounds, store


def turns_child(folder: Path) -> dict[str, Any]:
    """Seconds a round, of each in turn."""
    few, few_store = on_disk(FLAGS.fitting, FLAGS.cohort, folder / "few")
    many, many_store = on_disk(FLAGS.clients, FLAGS.cohort, folder / "many")
    contenders = {
        f"device, {FLAGS.fitting}": (on_device(FLAGS.fitting), None),
        f"disk, {FLAGS.fitting}": (few, few_store),
        f"disk, {FLAGS.clients}": (many, many_store),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    waits: dict[str, float] = {}
    for turn in range(FLAGS.repeats + 1):
        for name, (rounds, store) in contenders.items():
            waited = store.own.seconds_waited if store else 0.0
            started = time.perf_counter()
            rounds(FLAGS.block)
            took = time.perf_counter() - started
            if turn:  # the first one warms up
                seconds[name].append(took / FLAGS.block)
                waited = (store.own.seconds_waited if store else 0.0) - waited
                waits[name] = waits.get(name, 0.0) + waited
            if store:
                store.own.drain()  # its writing is not to fall on the next one's turn
    first = statistics.median(next(iter(seconds.values())))
    found = {
        name: {
            "median_seconds": statistics.median(x),
            "least_seconds": min(x),
            "ratio_of_medians": statistics.median(x) / first,
            "wait_share": waits[name] / (FLAGS.block * sum(x)),
        }
        for name, x in seconds.items()
    }
    for store in (few_store, many_store):
        store.__exit__()
    return {"turns": found, "peak_gb": peak_gb()}


def cohort_child(folder: Path, cohort_size: int) -> dict[str, Any]:
    """Memory of rounds of one size of cohort, by the compiler and of the process."""
    problem = make_problem(10 * FLAGS.large_cohort, cohort_size)
    before = peak_gb()
    state = first_state(make_key(1), problem.algorithm, problem.params)
    row = sum(x.nbytes for x in jax.tree.leaves(state.clients))
    shapes = init_state(make_key(1), problem.algorithm, problem.params, 1)
    clients = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((cohort_size, *x.shape[1:]), x.dtype),
        shapes.clients,
    )
    cohort = jax.eval_shape(problem.sample, make_key(1), jnp.int32(0), problem.data)
    one = jax.jit(problem.algorithm.round, donate_argnums=(1, 2))
    compiled = one.lower(make_key(1), state.server, clients, cohort).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("This backend does not say how much memory a program takes.")
    rounds, store = on_disk(10 * FLAGS.large_cohort, cohort_size, folder / "cohort")
    rounds(3)
    store.__exit__()
    return {
        "cohort": cohort_size,
        "states_mb": cohort_size * row / 1e6,
        "temporary_mb": analysis.temp_size_in_bytes / 1e6,
        "peak_gb": peak_gb(),
        "before_gb": before,
    }


def child(part: str, folder: Path, *, killed_at: int | None = None) -> Any:
    """A part in a process of its own; None when it was killed at that round."""
    own = [f"--{name}={FLAGS[name].value}" for name in OWN]
    command = [sys.executable, "-m", "experiments.benchmark.population", *own]
    process = subprocess.Popen(
        [*command, f"--child={part}", f"--folder={folder}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if killed_at is not None:
        rounds = folder / "rounds"
        while process.poll() is None:
            text = rounds.read_text() if rounds.exists() else ""
            if text and int(text) >= killed_at:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return int(rounds.read_text())
            time.sleep(0.01)
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{part} ended with exit status {process.returncode}.")
    return json.loads(out.splitlines()[-1])


def measure(folder: Path) -> None:
    """All parts that are asked for, one after another."""
    found: dict[str, Any] = {}
    for part in FLAGS.part:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if part == "run":
            found[part] = child("run", folder)
        elif part == "killed":
            middle = FLAGS.rounds // 2 + FLAGS.checkpoint_every // 4
            at = child("run", folder, killed_at=middle)
            found[part] = {"killed_at": at, **child("run", folder)}
            if "run" in found:
                same = ("params_sha256", "uplink_bytes", "client_store_clients")
                found[part]["same_as_run"] = all(
                    found[part][name] == found["run"][name] for name in same
                )
        elif part == "turns":
            found[part] = child("turns", folder)
        else:
            sizes = (10, FLAGS.large_cohort)
            found[part] = [
                child(f"cohort {size}", folder / str(size)) for size in sizes
            ]
        print(json.dumps({part: found[part]}, indent=2), flush=True)
    shutil.rmtree(folder)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    if FLAGS.child is None:
        print(f"jax {jax.__version__}, {os.cpu_count()} cores")
        with tempfile.TemporaryDirectory(dir=FLAGS.folder) as made:
            measure(Path(made) / "runs")
        return
    use_host_cores()
    part, _, size = FLAGS.child.partition(" ")
    folder = Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if part == "run":
        result = run_child(folder)
    elif part == "turns":
        result = turns_child(folder)
    else:
        result = cohort_child(folder, int(size))
    print(json.dumps(result))


if __name__ == "__main__":
    define_flags()
    app.run(main)
